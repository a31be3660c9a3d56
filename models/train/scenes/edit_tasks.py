"""Writes the editing quickstart's tasks: source pictures, training edits and held-out edits, with a fixed seed.

A task is an instruction with a source picture. Both files ask for every kind of edit equally often, as near as the count allows, and no
task is in both; they share the source pictures.
"""

import argparse
import json
import os
import random
from pathlib import Path

from scenes.edit import KINDS, OPPOSITE, EditScene, Instruction, random_scene, render
from scenes.scene import BACKGROUNDS, COLOURS, SHAPES


def all_instructions(scene: EditScene, kind: str) -> list[Instruction]:
    """Every instruction of one kind for a scene; none is added to a scene of two objects."""
    new_colours = [c for c in COLOURS if c not in {o.colour for o in scene.objects}]
    match kind:
        case "recolour":
            return [Instruction(kind, o.colour, o.shape, new) for o in scene.objects for new in new_colours]
        case "background":
            return [Instruction(kind, new_colour=new) for new in BACKGROUNDS if new != scene.background]
        case "remove":
            return [Instruction(kind, o.colour, o.shape) for o in scene.objects]
        case "add" if len(scene.objects) == 1:
            place = OPPOSITE[scene.objects[0].place]
            return [Instruction(kind, new_colour=new, new_shape=shape, place=place) for new in new_colours for shape in SHAPES]
        case "replace":
            return [
                Instruction(kind, o.colour, o.shape, new, shape)
                for o in scene.objects
                for new in new_colours
                for shape in SHAPES
                if shape != o.shape
            ]
    return []


def share(total: int, kind: int) -> int:
    """How many of `total` tasks the kind with this number gets."""
    return total * (kind + 1) // len(KINDS) - total * kind // len(KINDS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("configs/quickstart-edit"), help="folder of the two files")
    parser.add_argument("--pictures", type=Path, default=Path("examples/quickstart-edit/sources"), help="folder of the PNG files")
    parser.add_argument("--one-object", type=int, default=24, help="source pictures with one object")
    parser.add_argument("--two-objects", type=int, default=40, help="source pictures with two objects")
    parser.add_argument("--train", type=int, default=256, help="training edits")
    parser.add_argument("--held-out", type=int, default=200, help="held-out edits")
    parser.add_argument("--seed", type=int, default=17)
    args = parser.parse_args()

    rng = random.Random(args.seed)
    scenes = [random_scene(rng, 1) for _ in range(args.one_object)] + [random_scene(rng, 2) for _ in range(args.two_objects)]
    rng.shuffle(scenes)
    train, held_out = [], []
    for number, kind in enumerate(KINDS):
        tasks = [(asked.text, source) for source, scene in enumerate(scenes) for asked in all_instructions(scene, kind)]
        rng.shuffle(tasks)
        cut = share(args.held_out, number)
        wanted = cut + share(args.train, number)
        if len(tasks) < wanted:
            raise SystemExit(f"the sources allow {len(tasks)} edits of the kind `{kind}`, {wanted} are asked for: add sources")
        held_out += tasks[:cut]
        train += tasks[cut:wanted]

    args.pictures.mkdir(parents=True, exist_ok=True)
    files = [args.pictures / f"{source:04}.png" for source in range(len(scenes))]
    for file, scene in zip(files, scenes):
        render(scene).save(file, optimize=True)
    names = [os.path.relpath(file, args.out) for file in files]
    for name, tasks in (("prompts.jsonl", train), ("held-out.jsonl", held_out)):
        rng.shuffle(tasks)
        lines = [json.dumps({"instruction": text, "source_image": names[source]}) for text, source in tasks]
        (args.out / name).write_text("\n".join(lines) + "\n")
    print(f"{len(train)} training edits, {len(held_out)} held-out edits of {len(scenes)} pictures in {args.out}")


if __name__ == "__main__":
    main()
