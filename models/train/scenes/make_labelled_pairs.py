"""Writes labelled pairs of small pictures: one faithful render of a held-out caption, one that breaks one to three of its facts.

The label comes from the scene specifications, never from a look at the pixels. The better picture comes first in half of the
pairs.
"""

import argparse
import random
from pathlib import Path

from scenes.pair_files import write_pairs
from scenes.scene import BACKGROUNDS, COLOURS, SHAPES, Scene, parse, render


def other(rng: random.Random, names, taken) -> str:
    """A name that is not taken."""
    return rng.choice([name for name in names if name not in taken])


def broken(scene: Scene, faults: int, rng: random.Random) -> Scene:
    """A scene that breaks `faults` different facts of `scene`: background, one colour, one shape, or who stands where."""
    objects, background = [list(o) for o in scene.objects], scene.background
    kinds = ["background", "colour", "shape"] + (["swap"] if scene.relation else [])
    for kind in rng.sample(kinds, faults):
        chosen = rng.choice(objects)
        if kind == "background":
            background = other(rng, BACKGROUNDS, {background})
        elif kind == "colour":
            chosen[0] = other(rng, COLOURS, {o[0] for o in objects} | {o[0] for o in scene.objects})
        elif kind == "shape":
            chosen[1] = other(rng, SHAPES, {chosen[1]})
        else:
            objects.reverse()
    return Scene(tuple(tuple(o) for o in objects), scene.relation, background)


def pairs(captions: list[str], rng: random.Random, spread: float):
    """A pair for each caption: the caption, its two pictures, and which of them is the faithful one."""
    for number, text in enumerate(captions):
        scene = parse(text)
        better = number % 2
        shown = [scene, broken(scene, rng.choice((1, 1, 2, 3)), rng)]
        yield text, tuple(render(shown[index != better], rng, spread) for index in (0, 1)), better


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--captions", type=Path, default=Path("configs/quickstart/held-out.txt"))
    parser.add_argument("--labels", type=Path, default=Path("configs/quickstart/labelled"), help="folder of pairs.jsonl")
    parser.add_argument("--pictures", type=Path, default=Path("examples/quickstart/labelled"), help="folder of the PNG files")
    parser.add_argument("--pairs", type=int, default=60)
    parser.add_argument("--spread", type=float, default=0.3, help="range of sizes and positions, as the generator's training had it")
    parser.add_argument("--seed", type=int, default=11)
    args = parser.parse_args()

    rng = random.Random(args.seed)
    captions = rng.sample(args.captions.read_text().splitlines(), args.pairs)
    write_pairs(pairs(captions, rng, args.spread), args.labels, args.pictures)


if __name__ == "__main__":
    main()
