"""Runs Gavel and the plain PyTorch loop on the same small models and the same work, and prints ratios of time and memory.

    python benchmarks/compare.py --gavel target/debug/gavel [--threads 2] [--steps 4] [--size small real]

Both do whole RPO steps of configs/quickstart.toml in one process with the same number of threads: sample pairs with the SDE and decode
them, judge every pair in both image orders, one clipped policy-gradient update. A warm-up step is left out on both sides; figures are
medians over the timed steps. Rounds alternate, so that a busy machine disturbs both. Ratios below 1: Gavel needs less.

Then come parts of FLUX.1-dev at their real sizes (real_sizes.py).
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tomllib
from pathlib import Path

import real_sizes

ROOT = Path(__file__).resolve().parent.parent
STAGES = ("sample", "judge", "train")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gavel", default=str(ROOT / "target/debug/gavel"), help="the gavel binary")
    parser.add_argument("--config", default="configs/quickstart.toml", help="what both sides run")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=3, help="timed steps in a round")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--size", nargs="+", choices=("small", "real"), default=("small", "real"))
    return parser.parse_args()


def measure_gavel(a: argparse.Namespace) -> dict:
    """Seconds of each stage of each step, and the process's peak memory."""
    environment = os.environ | {"RAYON_NUM_THREADS": str(a.threads)}
    command = [a.gavel, "bench", a.config, "--steps", str(a.steps), "--json"]
    return json.loads(subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE).stdout)


def measure_pytorch(a: argparse.Namespace) -> dict:
    """The same of the PyTorch loop."""
    spec = tomllib.loads((ROOT / a.config).read_text())
    sampling, optimizer, objective = spec["sampling"], spec["optimizer"], spec["objective"]
    settings = {
        "bench-steps": a.steps,
        "threads": a.threads,
        "prompts-per-step": spec["prompts"]["per_step"],
        "sampling-steps": sampling["steps"],
        "shift": sampling["shift"],
        "eta": sampling["eta"],
        "noise-steps": sampling["noise_steps"],
        "rank": spec["lora"]["rank"],
        "alpha": spec["lora"]["alpha"],
        "lr": optimizer["learning_rate"],
        "kl": objective["kl"],
        "beta": objective["kl_beta"],
        "preferred": objective["reward_preferred"],
        "dispreferred": objective["reward_dispreferred"],
    }
    environment = os.environ | {"OMP_NUM_THREADS": str(a.threads)}
    command = [sys.executable, str(ROOT / "benchmarks/rpo_pytorch.py")]
    command += [f"--{key}={value}" for key, value in settings.items()]
    output = subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE).stdout
    return json.loads(output.splitlines()[-1])


def median(rounds: list[dict], stage: str) -> float:
    seconds = [sum(step[s] for s in STAGES) if stage == "whole step" else step[stage] for r in rounds for step in r["steps"]]
    return statistics.median(seconds)


def compare_steps(a: argparse.Namespace) -> None:
    """Whole steps of the small models."""
    ours, theirs = [], []
    for _ in range(a.rounds):
        theirs.append(measure_pytorch(a))
        ours.append(measure_gavel(a))
    print(f"{a.config}, {a.threads} threads, {a.rounds} rounds of {a.steps} steps")
    print(f"{'':<12}{'gavel':>10}{'pytorch':>10}{'ratio':>8}")
    for stage in (*STAGES, "whole step"):
        us, them = median(ours, stage), median(theirs, stage)
        print(f"{stage:<12}{us:>9.2f}s{them:>9.2f}s{us / them:>8.2f}")
    us, them = (max(r["peak_memory_bytes"] for r in side) / 2**20 for side in (ours, theirs))
    print(f"{'peak memory':<12}{us:>7.0f}MiB{them:>7.0f}MiB{us / them:>8.2f}")
    decided = [statistics.mean(step["decided"] for r in side for step in r["steps"]) for side in (ours, theirs)]
    print(f"decided pairs in a step: gavel {decided[0]:.1f}, pytorch {decided[1]:.1f}")


def main() -> None:
    a = arguments()
    if "small" in a.size:
        compare_steps(a)
    if "real" in a.size:
        real_sizes.compare(a.threads, list(real_sizes.PARTS), ["f32", "bf16"])


if __name__ == "__main__":
    main()
