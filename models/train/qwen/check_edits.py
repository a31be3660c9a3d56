"""Scores a tiny Qwen-Image-Edit folder on held-out edits by pixel rules, and measures its headroom for reinforcement.

The table gives one picture per edit, without noise in the steps; "copy" is the source picture itself. The headroom is measured as the
reinforcement samples: two candidates per edit from the same initial noise, which differ by the noise of the first steps alone.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from qwen.edit_sampling import edited, initial_noise, read_edits, scores, table
from qwen.edit_training import Parts
from scenes.edit import parse_instruction


def between_seeds(parts: Parts, instructions, sources, seeds: int) -> np.ndarray:
    """Fulfilment and preservation of each edit under several initial noises: (seeds, n, 2)."""
    found = [
        scores(instructions, sources, edited(parts, instructions, sources, initial_noise(len(sources), 100 + seed)))
        for seed in range(seeds)
    ]
    return np.stack(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("folder", type=Path, help="QwenImageEditPipeline folder")
    parser.add_argument("--edits", type=Path, default=Path("configs/quickstart-edit/held-out.jsonl"))
    parser.add_argument("--eta", type=float, default=2.0)
    parser.add_argument("--noisy-steps", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=4, help="initial noises per edit for the deviation within an edit")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    parts = Parts.load(args.folder)
    edits = read_edits(args.edits)
    instructions = [edit["instruction"] for edit in edits]
    sources = [Image.open(args.edits.parent / edit["source_image"]).convert("RGB") for edit in edits]
    kinds = [parse_instruction(text).kind for text in instructions]
    print("copy\n" + table(kinds, scores(instructions, sources, sources)))
    print("base\n" + table(kinds, scores(instructions, sources, edited(parts, instructions, sources, initial_noise(len(edits), 1)))))

    found = between_seeds(parts, instructions, sources, args.seeds)
    print("deviation within an edit over", args.seeds, "initial noises: fulfilment, preservation", found.std(0).mean(0).round(3))

    start, generator = initial_noise(len(edits), 2), torch.Generator().manual_seed(3)
    a, b = (
        scores(
            instructions, sources,
            edited(
                parts, instructions, sources, start, eta=args.eta, noisy_steps=args.noisy_steps, generator=generator
            ),
        )
        for _ in range(2)
    )
    gap = np.abs(a - b)
    print(f"pairs (eta {args.eta}, noise in the first {args.noisy_steps} of 8 steps), mean of candidates", ((a + b) / 2).mean(0).round(3))
    print("pairs that differ by more than 0.2: in fulfilment, in preservation", (gap > 0.2).mean(0).round(3))
    print("pairs that differ in either", (gap > 0.2).any(1).mean().round(3))


if __name__ == "__main__":
    main()
