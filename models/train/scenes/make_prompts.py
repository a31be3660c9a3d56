"""Writes the quickstart's training captions and its held-out captions: unique, shuffled with a fixed seed, no caption in both files.

The scenes know 72 one-object and 2,160 two-object captions; each file takes its share of both.
"""

import argparse
import itertools
import random
from pathlib import Path

from scenes.scene import BACKGROUNDS, COLOURS, RELATIONS, SHAPES, Scene, caption


def all_captions() -> tuple[list[str], list[str]]:
    """Every caption of a one-object scene, and every caption of a two-object scene."""
    one = [caption(Scene(((c, s),), None, b)) for c, s, b in itertools.product(COLOURS, SHAPES, BACKGROUNDS)]
    two = [
        caption(Scene(((c, s), (d, t)), relation, b))
        for (c, d), s, t, relation, b in itertools.product(
            itertools.permutations(COLOURS, 2), SHAPES, SHAPES, RELATIONS, BACKGROUNDS
        )
    ]
    return one, two


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("configs/quickstart"), help="folder of the two files")
    parser.add_argument("--train", type=int, default=2000, help="training captions")
    parser.add_argument("--held-out", type=int, default=200, help="held-out captions")
    parser.add_argument("--one-object-held-out", type=int, default=20, help="one-object captions among the held-out ones")
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()

    rng = random.Random(args.seed)
    one, two = all_captions()
    rng.shuffle(one)
    rng.shuffle(two)
    cut_one, cut_two = args.one_object_held_out, args.held_out - args.one_object_held_out
    held_out = one[:cut_one] + two[:cut_two]
    train = (one[cut_one:] + two[cut_two:])[: args.train]
    rng.shuffle(held_out)
    rng.shuffle(train)
    if len(train) < args.train or set(train) & set(held_out):
        raise SystemExit(f"only {len(train)} training captions are left beside {len(held_out)} held-out ones: ask for fewer")

    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "prompts.txt").write_text("\n".join(train) + "\n")
    (args.out / "held-out.txt").write_text("\n".join(held_out) + "\n")
    print(f"{len(train)} training captions, {len(held_out)} held-out captions in {args.out}")


if __name__ == "__main__":
    main()
