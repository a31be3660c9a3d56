"""Figures of distances between pictures, by scikit-image and numpy, and of Bradley-Terry strengths, by Newton's method:
`python tests/golden/distance.py` from the repository root. Writes `tests/golden/distance/`.

Made with scikit-image 0.26.0 and numpy 2.4.6.
"""

import json
import pathlib

import numpy as np
from PIL import Image
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio, structural_similarity

OUT = pathlib.Path(__file__).resolve().parent / "distance"
HEIGHT, WIDTH = 28, 40
PICTURES = 5
BORDER = 5
Z = 1.959963984540054
# winner, loser, comparisons; the last was compared with one other alone
WINS = [(0, 1, 3.5), (1, 0, 12.5), (0, 2, 7.0), (2, 0, 9.0), (1, 2, 10.0), (2, 1, 6.0), (3, 1, 2.0)]
PRIOR = 1.0


def pictures(rng):
    """A smooth picture, an edit of it with noise all over, and a few more."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    waves = [128 + 90 * np.sin(x / 5 + c) * np.cos(y / 4 - c) for c in range(3)]
    before = np.stack(waves, axis=-1)
    after = before + rng.normal(0, 6, before.shape)
    after[8:20, 10:24] = (220, 40, 40)
    others = [before + rng.normal(0, 30 * (k + 1), before.shape) for k in range(PICTURES - 2)]
    return [np.clip(np.rint(p), 0, 255).astype(np.uint8) for p in (before, after, *others)]


def figures(before, after, pixels):
    """Of the pixels for which `pixels` is true; structural similarity of those whose window fits."""
    a, b = before[pixels].astype(float), after[pixels].astype(float)
    _, similar = structural_similarity(
        before,
        after,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=255,
        channel_axis=2,
        full=True,
    )
    fits = np.zeros_like(pixels)
    fits[BORDER:-BORDER, BORDER:-BORDER] = True
    return {
        "pixels": int(pixels.sum()),
        "l1": float(np.abs(a - b).mean() / 255),
        "mse": float(mean_squared_error(a / 255, b / 255)),
        "psnr": float(peak_signal_noise_ratio(a, b, data_range=255)),
        "ssim": float(similar.mean(axis=2)[pixels & fits].mean()),
    }


def strengths():
    count = 4
    wins = np.zeros((count, count))
    for winner, loser, number in WINS:
        wins[winner, loser] += number
    theta = np.zeros(count)

    def derivatives(theta):
        gradient, hessian = np.zeros(count), np.zeros((count, count))
        for i in range(count):
            p = 1 / (1 + np.exp(-theta[i]))
            gradient[i] += PRIOR / 2 - PRIOR * p
            hessian[i, i] -= PRIOR * p * (1 - p)
            for j in range(count):
                if i == j:
                    continue
                n = wins[i, j] + wins[j, i]
                q = 1 / (1 + np.exp(theta[j] - theta[i]))
                gradient[i] += wins[i, j] - n * q
                hessian[i, i] -= n * q * (1 - q)
                hessian[i, j] += n * q * (1 - q)
        return gradient, hessian

    for _ in range(100):
        gradient, hessian = derivatives(theta)
        theta = theta - np.linalg.solve(hessian, gradient)
    assert np.abs(derivatives(theta)[0]).max() < 1e-12
    covariance = np.linalg.inv(-derivatives(theta)[1])
    rows = []
    for i in range(count):
        against = theta[i] - theta[0]
        half = Z * np.sqrt(max(covariance[i, i] + covariance[0, 0] - 2 * covariance[i, 0], 0))
        rows.append({"log_ratio": against, "low": against - half, "high": against + half})
    return rows


def main():
    OUT.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    shown = pictures(rng)
    for index, picture in enumerate(shown):
        Image.fromarray(picture).save(OUT / f"{index}.png")
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    mask[6:22, 8:26] = 255
    Image.fromarray(mask).save(OUT / "mask.png")
    before, after = shown[:2]
    everywhere = np.ones((HEIGHT, WIDTH), dtype=bool)
    # What scikit-image returns for the whole picture is what the map's mean is without its border.
    whole = structural_similarity(
        before, after, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255, channel_axis=2
    )
    assert abs(figures(before, after, everywhere)["ssim"] - whole) < 1e-12
    changed = (np.abs(before.astype(int) - after.astype(int)) >= 26).any(axis=2)
    values = np.stack(shown).astype(float) / 255
    pairs = [np.abs(values[i] - values[j]).mean() for i in range(PICTURES) for j in range(i)]
    golden = {
        "whole": figures(before, after, everywhere),
        "inside": figures(before, after, mask > 0),
        "outside": figures(before, after, mask == 0),
        "changed": figures(before, after, changed),
        "unchanged": figures(before, after, ~changed),
        "diversity": float(np.mean(pairs)),
        "wins": WINS,
        "strengths": strengths(),
    }
    (OUT / "distance.json").write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
