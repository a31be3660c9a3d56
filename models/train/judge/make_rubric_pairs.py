"""Writes the labelled pairs of the rubric example: 20 to generate a rubric from and 200 to check it on.

Both pictures may have faults; the one with fewer faults over all concepts is better. About a third of the pairs are conflicts: each
picture breaks a concept that the other keeps. Labels come from the scene specifications. Captions of the two sets and of
`configs/quickstart/labelled` are disjoint. Files as `scenes/pair_files.py` writes them.
"""

import argparse
import json
from pathlib import Path

from judge.criteria import CONCEPTS
from judge.rubric_examples import RubricExamples
from scenes.pair_files import write_pairs
from scenes.scene import caption, random_scene
from transformers import PreTrainedTokenizerFast


def pair(examples: RubricExamples, asked, conflict: bool, spread: float):
    """Two pictures with unequal fault counts."""
    rng = examples.rng
    names = [c for c in CONCEPTS if c != "placement" or asked.relation]
    while True:
        rng.shuffle(names)
        few = 1 if conflict else 0
        more = rng.choice((2, 3) if conflict else (1, 2, 3))
        shown = [examples.shown(asked, set_, spread) for set_ in (names[:few], names[few : few + more])]
        if len(names) >= few + more and shown[0].count(CONCEPTS) < shown[1].count(CONCEPTS):
            return shown


def pairs(examples: RubricExamples, count: int, taken: set[str], spread: float):
    """So many pairs of captions that are not taken; adds them to `taken`. Yields caption, pictures, and which is better."""
    number = 0
    while number < count:
        asked = random_scene(examples.rng, two_prob=0.9)
        if caption(asked) in taken:
            continue
        taken.add(caption(asked))
        better = number % 2
        shown = pair(examples, asked, number % 3 == 0, spread)
        yield caption(asked), tuple(shown[index != better].image for index in (0, 1)), better
        number += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--labels", type=Path, default=Path("configs/quickstart"), help="holds `labelled`, gets two folders of labels")
    parser.add_argument("--pictures", type=Path, default=Path("examples/quickstart"), help="gets two folders of pictures")
    parser.add_argument("--judge", type=Path, default=Path("models/tiny-judge"), help="for its tokenizer")
    parser.add_argument("--spread", type=float, default=0.3, help="range of sizes and positions, as the generator's training had it")
    parser.add_argument("--seed", type=int, default=21)
    args = parser.parse_args()

    examples = RubricExamples(PreTrainedTokenizerFast.from_pretrained(args.judge), args.seed)
    labelled = (args.labels / "labelled" / "pairs.jsonl").read_text().splitlines()
    taken = {json.loads(line)["query"] for line in labelled}
    for name, count in (("rubric-seed", 20), ("rubric-check", 200)):
        write_pairs(pairs(examples, count, taken, args.spread), args.labels / name, args.pictures / name)


if __name__ == "__main__":
    main()
