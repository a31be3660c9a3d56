"""Writes the prompts of the quickstart with counts, each with questions that are made from the caption's words by rule.

`prompts.txt` holds captions that the base has seen, all of those with a number among them; `held-out.jsonl`, by which runs are reported, and
`tuning.jsonl`, by which settings are chosen, hold captions that it never saw (`scenes/unseen.py`), half of them with a number. No caption is in two
files.
"""

import argparse
import json
import random
from pathlib import Path

from scenes.questions import questions
from scenes.scene import caption
from scenes.unseen import every_count_scene, every_scene, kind_of_unseen

# Captions of held-out.jsonl and tuning.jsonl, by why they are unseen and whether they say a number.
HELD_OUT = {("number", True): 75, ("pair", True): 25, ("pair", False): 50, ("combination", False): 50}
TUNING = {("number", True): 9, ("pair", True): 11, ("pair", False): 10, ("combination", False): 10}


def record(scene) -> dict:
    """A record of a file of prompts."""
    asked = [question.record() for question in questions(scene)]
    return {"prompt": caption(scene), "unseen": kind_of_unseen(scene), "counts": scene.count > 1, "questions": asked}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("configs/quickstart-counts"), help="folder of the files")
    parser.add_argument("--train", type=int, default=288, help="training captions")
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()

    rng = random.Random(args.seed)
    by_kind: dict = {}
    for scene in every_scene() + every_count_scene():
        by_kind.setdefault((kind_of_unseen(scene), scene.count > 1), []).append(scene)
    for scenes in by_kind.values():
        rng.shuffle(scenes)
    args.out.mkdir(parents=True, exist_ok=True)
    for name, sizes in (("held-out", HELD_OUT), ("tuning", TUNING)):
        scenes = [by_kind[kind].pop() for kind, size in sizes.items() for _ in range(size)]
        rng.shuffle(scenes)
        (args.out / f"{name}.jsonl").write_text("".join(json.dumps(record(scene)) + "\n" for scene in scenes))
    counted = by_kind[None, True]
    train = counted + by_kind[None, False][: args.train - len(counted)]
    rng.shuffle(train)
    (args.out / "prompts.txt").write_text("".join(caption(scene) + "\n" for scene in train))


if __name__ == "__main__":
    main()
