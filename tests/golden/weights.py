"""Makes weights.json: weights of criteria by scikit-learn and scipy, for the sparse logistic regression of `gavel rubric weigh`.

Run from the repository root: python tests/golden/weights.py
Leans are drawn, clipped and rounded as a judge's are: some criteria tell the better picture, some lean as chance has it, some lean to the
worse one, some repeat others, and some are unsure of many pairs. scikit-learn knows no bound on weights, so it is asked where its own
weights are all at least 0; scipy minimises with the bound. Where both are asked they have to agree.
"""

import json
from pathlib import Path

import numpy as np
import scipy
import sklearn
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression

OUT = Path(__file__).parent / "weights.json"


def drawn(seed: int, pairs: int, strengths: list[float], unsure: float = 0.2) -> np.ndarray:
    """Leans to the better picture, (pairs, criteria)."""
    rng = np.random.default_rng(seed)
    leans = rng.normal(strengths, 1.5, size=(pairs, len(strengths)))
    leans[rng.random(leans.shape) < unsure] = 0.0
    return np.round(np.clip(leans, -5.0, 5.0), 3)


def by_sklearn(leans: np.ndarray, penalty: float, solver: str) -> np.ndarray:
    # It wants two classes: every other pair is turned round.
    sign = np.where(np.arange(len(leans)) % 2 == 0, 1.0, -1.0)
    strength = 1.0 / (penalty * len(leans))
    kind = {"l1_ratio": 1.0} if sklearn.__version__ >= "1.8" else {"penalty": "l1"}
    model = LogisticRegression(**kind, C=strength, solver=solver, fit_intercept=False, tol=1e-12, max_iter=1_000_000, random_state=0)
    model.fit(leans * sign[:, None], sign)
    return model.coef_[0]


def by_scipy(leans: np.ndarray, penalty: float) -> np.ndarray:
    def cost(weights):
        sums = leans @ weights
        wrong = scipy.special.expit(-sums)
        return np.logaddexp(0.0, -sums).mean() + penalty * weights.sum(), penalty - leans.T @ wrong / len(leans)

    bounds = [(0.0, None)] * leans.shape[1]
    options = {"ftol": 1e-16, "gtol": 1e-11, "maxiter": 100_000, "maxfun": 100_000}
    return minimize(cost, np.zeros(leans.shape[1]), jac=True, method="L-BFGS-B", bounds=bounds, options=options).x


def main() -> None:
    cases = []

    def case(name: str, leans: np.ndarray, penalty: float, solver: str | None) -> None:
        bounded = by_scipy(leans, penalty)
        by, weights = "scipy", bounded
        if solver:
            by, weights = f"scikit-learn {solver}", by_sklearn(leans, penalty, solver)
            assert weights.min() >= 0.0, (name, weights)
            assert np.abs(weights - bounded).max() < 5e-6, (name, weights, bounded)
        cases.append({"name": name, "by": by, "lambda": penalty, "leans": leans.tolist(), "weights": weights.tolist()})

    useful = drawn(1, 60, [0.8, 0.5, 1.2])
    case("useful criteria, weakly kept small", useful, 0.001, "liblinear")
    case("useful criteria, strongly kept small", useful, 0.1, "liblinear")
    case("useful criteria, by another solver", useful, 0.02, "saga")
    case("one criterion", drawn(2, 40, [0.6]), 0.01, "liblinear")
    repeated = drawn(3, 50, [1.0, 0.4])
    repeated = np.column_stack([repeated, np.round(0.5 * repeated[:, 0], 3)])
    case("a criterion that repeats another at half its size", repeated, 0.02, "liblinear")
    case("chance and the worse pictures", drawn(4, 60, [0.9, 0.0, -0.6, 0.4, -0.1]), 0.01, None)
    case("mostly unsure", drawn(5, 40, [1.0, 0.5, 0.0], unsure=0.8), 0.005, None)
    case("more criteria than pairs", drawn(6, 8, [0.5] * 12), 0.02, None)
    made = f"Python, numpy {np.__version__}, scipy {scipy.__version__}, scikit-learn {sklearn.__version__}"
    OUT.write_text(json.dumps({"made_with": made, "cases": cases}) + "\n")
    for one in cases:
        print(one["name"], one["by"], np.round(one["weights"], 6))


main()
