"""Makes edits.png and edits.json: edited pictures with the facts and shares that models/train/scenes/edit_check.py finds in them.

Run from the repository root: python tests/golden/edits.py
Made with Python 3.11, numpy 2.4, Pillow 13: of each edit the source, the target, edits that go wrong as in
models/train/scenes/edit_faults.py, and damaged targets, whose edges, colours and places are off as rendered ones are not. Each source
is also asked for another edit, which it may not show the object for.
"""

import json
import random
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageFilter

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "models" / "train"))
from scenes import edit as world  # noqa: E402
from scenes import edit_check, edit_faults  # noqa: E402

COLUMNS, EDITS_PER_KIND = 20, 12


def blurred(picture, source, rng):
    """Out of focus."""
    return picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.8, 4.0)))


def speckled(picture, source, rng):
    """With pixels of stray colours, in flat values so that the sheet stays small."""
    pixels = np.array(picture)
    for _ in range(rng.randrange(100, 1500)):
        pixels[rng.randrange(64), rng.randrange(64)] = rng.choice(list(world.COLOURS.values()))
    return Image.fromarray(pixels)


def tinted(picture, source, rng):
    """Recoloured as a whole, some across the distance at which a colour stops being itself."""
    shift = np.array([rng.randrange(-60, 61) for _ in range(3)])
    return Image.fromarray(np.clip(np.asarray(picture, dtype=int) + shift, 0, 255).astype(np.uint8))


def unfinished(picture, source, rng):
    """Between source and target."""
    return Image.blend(source, picture, rng.uniform(0.2, 0.9))


def moved(picture, source, rng):
    """Shifted as a whole, around the border."""
    return ImageChops.offset(picture, rng.randrange(-14, 15), rng.randrange(-14, 15))


DAMAGES = (blurred, speckled, tinted, unfinished, moved)


def answer(source, instruction, edited):
    """What the rules say, or that they refuse the source."""
    try:
        facts = edit_check.facts(source, instruction, edited)
        kept = edit_check.preservation(source, instruction, edited)
    except ValueError:
        return {"refused": True}
    return {
        "facts": {name: int(holds) for name, holds in facts.items()},
        "fulfilment": edit_check.fulfilment(source, instruction, edited),
        "preservation": kept,
    }


def main():
    rng = random.Random(11)
    tiles, cases = [], []

    def tile(picture):
        tiles.append(picture)
        return len(tiles) - 1

    for number in range(EDITS_PER_KIND * len(world.KINDS)):
        edit = world.random_edit(rng, (world.KINDS[number % len(world.KINDS)],))
        source, target = world.render(edit.source), world.render(edit.target)
        damage = DAMAGES[number // len(world.KINDS) % len(DAMAGES)]
        spoiled, wrong = (world.render(fault(edit, rng)) for fault in (edit_faults.spoiled, edit_faults.wrong))
        pictures = [source, target, spoiled, wrong, damage(target, source, rng)]
        places = [tile(picture) for picture in pictures]
        foreign = world.random_edit(rng).instruction
        for instruction in (edit.instruction, foreign):
            for place, picture in zip(places, pictures, strict=True):
                found = answer(source, instruction, picture)
                cases.append({"source": places[0], "instruction": instruction, "edited": place} | found)
    sheet = Image.new("RGB", (COLUMNS * 64, -(-len(tiles) // COLUMNS) * 64))
    for place, picture in enumerate(tiles):
        sheet.paste(picture, (place % COLUMNS * 64, place // COLUMNS * 64))
    here = Path(__file__).parent
    sheet.save(here / "edits.png", optimize=True)
    lines = ",\n".join(json.dumps(case) for case in cases)
    (here / "edits.json").write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
