"""Writes the labelled pairs of the rubric example: 20 to generate a rubric from and 200 to check it on.

Both pictures may have faults; the one with fewer faults over all concepts is better. About a third of the pairs are conflicts: each
picture breaks a concept that the other keeps. Labels come from the scene specifications. Captions of the two sets and of
`configs/quickstart/labelled` are disjoint. Output as `make_labelled_pairs.py`: `pairs.jsonl` and PNG files beside it.
"""

import argparse
import json
from pathlib import Path

from criteria import CONCEPTS
from rubric_examples import RubricExamples
from scenes import caption, random_scene
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


def write(examples: RubricExamples, out: Path, count: int, taken: set[str], spread: float) -> None:
    """Writes one set and adds its captions to `taken`."""
    (out / "images").mkdir(parents=True, exist_ok=True)
    lines = []
    while len(lines) < count:
        asked = random_scene(examples.rng, two_prob=0.9)
        if caption(asked) in taken:
            continue
        taken.add(caption(asked))
        number, better = len(lines), len(lines) % 2  # index of the better picture
        shown = pair(examples, asked, number % 3 == 0, spread)
        names = []
        for index in (0, 1):
            names.append(f"images/{number:03}-{'ab'[index]}.png")
            shown[index != better].image.save(out / names[-1], optimize=True)
        lines.append(json.dumps({"query": caption(asked), "response": names, "label_rank": [2, 1] if better else [1, 2]}))
    (out / "pairs.jsonl").write_text("\n".join(lines) + "\n")
    print(f"{len(lines)} pairs in {out}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("configs/quickstart"), help="holds `labelled`, gets the two folders")
    parser.add_argument("--judge", type=Path, default=Path("models/tiny-judge"), help="for its tokenizer")
    parser.add_argument("--spread", type=float, default=0.3, help="range of sizes and positions, as the generator's training had it")
    parser.add_argument("--seed", type=int, default=21)
    args = parser.parse_args()

    examples = RubricExamples(PreTrainedTokenizerFast.from_pretrained(args.judge), args.seed)
    labelled = (args.out / "labelled" / "pairs.jsonl").read_text().splitlines()
    taken = {json.loads(line)["query"] for line in labelled}
    write(examples, args.out / "rubric-seed", 20, taken, args.spread)
    write(examples, args.out / "rubric-check", 200, taken, args.spread)


if __name__ == "__main__":
    main()
