"""Writes labelled pairs of edits: `pairs.jsonl` (query, source_image, edited_images, label_rank with 1 = better) and their PNG files.

One half compares the target with an edit that goes wrong, the other any two candidates. Labels come from the scenes, never from a
look at the pixels. The better picture comes first in half of the pairs.
"""

import argparse
import json
import os
import random
from pathlib import Path

from judge.edit_candidates import Candidates
from judge.edit_prompt import CONCEPTS
from scenes.edit import render


def pairs(rng: random.Random, count: int, roughness: float):
    """Yields the instruction, the pictures (source, first and second candidate), and the index of the better candidate."""
    candidates = Candidates(rng)
    seen = set()
    while len(seen) < count:
        number = len(seen)
        faultless = number % 4 < 2
        edit, pair = candidates.pair(lambda a, b: not faultless or max(a.score(CONCEPTS), b.score(CONCEPTS)) == 2)
        if edit in seen:
            continue
        seen.add(edit)
        better = number % 2
        if (pair[1].score(CONCEPTS) > pair[0].score(CONCEPTS)) != better:
            pair = pair[::-1]
        source = render(edit.source)
        yield edit.instruction, [source, *(candidates.paint(candidate.scene, source, roughness) for candidate in pair)], better


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--labels", type=Path, default=Path("configs/quickstart-edit/labelled"), help="folder of pairs.jsonl")
    parser.add_argument("--pictures", type=Path, default=Path("examples/quickstart-edit/labelled"), help="folder of the PNG files")
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--roughness", type=float, default=0.0, help="0 for clean drawings, 1 for a poor generator's")
    parser.add_argument("--seed", type=int, default=31)
    args = parser.parse_args()

    args.labels.mkdir(parents=True, exist_ok=True)
    args.pictures.mkdir(parents=True, exist_ok=True)
    folder = Path(os.path.relpath(args.pictures, args.labels))
    lines = []
    for number, (instruction, images, better) in enumerate(pairs(random.Random(args.seed), args.pairs, args.roughness)):
        names = [f"{number:03}-{part}.png" for part in ("source", "a", "b")]
        for name, image in zip(names, images):
            image.save(args.pictures / name, optimize=True)
        source, *edited = ((folder / name).as_posix() for name in names)
        label = {"query": instruction, "source_image": source, "edited_images": edited, "label_rank": [2, 1] if better else [1, 2]}
        lines.append(json.dumps(label))
    (args.labels / "pairs.jsonl").write_text("\n".join(lines) + "\n")
    print(f"{len(lines)} pairs in {args.labels}, their pictures in {args.pictures}")


if __name__ == "__main__":
    main()
