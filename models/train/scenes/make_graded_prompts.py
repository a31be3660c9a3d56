"""Writes the prompts of the graded quickstart, and a rubric set for each training prompt, made from the caption's words by rule.

`prompts.txt` holds captions that the graded base has seen; `held-out.jsonl`, by which runs are reported, and `tuning.jsonl`, by which settings
are chosen, hold captions that it never saw, half of each kind of `scenes/unseen.py`. No caption is in two files.
"""

import argparse
import json
import random
from pathlib import Path

from scenes.scene import Scene, caption, parse
from scenes.unseen import every_scene, kind_of_unseen

GENERAL = (
    "The background has the stated colour.",
    "Each object has its stated colour and shape.",
    "The objects are placed as stated.",
    "The shapes are clean, with nothing extra.",
)


def own_set(scene: Scene, form: str) -> list[str]:
    """The criteria of one caption: what the general ones say, in the caption's words."""
    named = [f"{colour} {shape}" for colour, shape in scene.objects]
    if form == "plain":
        placed = [f"The {named[0]} is {scene.relation} the {named[1]}."] if scene.relation else []
        return [f"The background is {scene.background}.", *(f"The image has a {n}." for n in named), *placed, "The image has nothing extra."]
    placed = [f"The objects are placed as stated, {named[0]} {scene.relation} {named[1]}."] if scene.relation else []
    return [
        f"The background has the stated colour, {scene.background}.",
        f"Each object has its stated colour and shape, {' and '.join(named)}.",
        *placed,
        "The shapes are clean, with nothing extra.",
    ]


def rubrics(captions, form: str) -> str:
    """A rubric file with the general set and one for each caption."""
    lines = ["# Made by models/train/scenes/make_graded_prompts.py from each caption's words, by rule: no model wrote it.", "", "version = 1"]
    lines += ["shared = true", "", "[[themes]]", "tips = ["] + [f"  {json.dumps(text)}," for text in GENERAL] + ["]"]
    for text in captions:
        lines += ["", "[[prompts]]", f"prompt = {json.dumps(text)}", f"tips = {json.dumps(own_set(parse(text), form))}"]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("configs/quickstart-graded"), help="folder of the files")
    parser.add_argument("--train", type=int, default=600, help="training captions")
    parser.add_argument("--held-out", type=int, default=200, help="captions of each of the other two files")
    parser.add_argument("--form", choices=("plain", "stated"), default="stated", help="how a prompt's own criteria are worded")
    parser.add_argument("--captions", type=Path, help="write rubric sets of these captions (one a line) to --out/prompt-rubrics.toml, and nothing else")
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()

    args.out.mkdir(parents=True, exist_ok=True)
    if args.captions:
        (args.out / "prompt-rubrics.toml").write_text(rubrics(args.captions.read_text().splitlines(), args.form))
        return
    rng = random.Random(args.seed)
    by_kind: dict = {}
    for scene in every_scene():
        by_kind.setdefault(kind_of_unseen(scene), []).append(caption(scene))
    for captions in by_kind.values():
        rng.shuffle(captions)
    half = args.held_out // 2
    for number, name in enumerate(("held-out", "tuning")):
        records = [(kind, text) for kind in ("pair", "combination") for text in by_kind[kind][number * half : (number + 1) * half]]
        rng.shuffle(records)
        text = "".join(json.dumps({"prompt": text, "unseen": kind}) + "\n" for kind, text in records)
        (args.out / f"{name}.jsonl").write_text(text)
    train = by_kind[None][: args.train]
    (args.out / "prompts.txt").write_text("\n".join(train) + "\n")
    (args.out / "prompt-rubrics.toml").write_text(rubrics(train, args.form))
    print({str(kind): len(captions) for kind, captions in by_kind.items()}, "captions in all;", len(train), "to train on")


if __name__ == "__main__":
    main()
