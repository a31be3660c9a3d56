"""Pixel rules for edited pictures: was the instruction carried out, and was the rest left alone?

Both scores are functions of (source picture, instruction text, edited picture), 64x64 RGB uint8, in integers up to the last division.
They build on the two rules of `scene.py`: `pixel_classes` (palette colour of each pixel, none at edges and specks) and `shape_of`.

Notation: S and C are the pixel classes of source and edited picture. M is the set of pixels with S = the colour of the object that
the instruction names, N the set with C = the new colour, in the whole picture. An object of the source is a colour, not a background,
that S gives to at least 60 pixels. The source's background is the commonest background colour of S.

`fulfilment` is the share of these facts that hold:

    recolour    at most 1/4 of M has kept its colour; at least 1/2 of M has the new one; N has the named shape
    background  at most 1/4 of the background has kept its colour; at least 3/4 of it has the new one
    remove      at most 1/4 of M has kept its colour; at least 3/4 of M has the background's
    add         N has at least 60 pixels; its centre is at most 8 pixels from the place's, in x and in y; it has the named shape
    replace     at most 1/4 of M has kept its colour; N has at least 60 pixels with a centre at most 8 pixels from M's, in x and in
                y; N has the new shape

`preservation` is the mean over the parts that the instruction does not touch: each other object (its pixels whose eight neighbours have
its class too, since edges mix with the background), and unless it is to change, the background outside the edit's box. A part scores the
share of its pixels that are kept: squared RGB distance between source and edited picture below 60^2, the distance at which a colour
stops being itself for the pixel classes. The box is M's bounding box grown by 4 pixels; for "add", the 32x32 square around the place.
So a second object of 300 pixels weighs as much as a background of 3,000. A kept object that changes its shape alone loses little.

The source itself scores fulfilment 0 and preservation 1, the target 1 and 1.
"""

import random
from dataclasses import dataclass

import numpy as np
from scenes.edit import KINDS, PLACES, Instruction, parse_instruction, random_edit, render
from scenes.scene import BACKGROUNDS, COLOURS, PALETTE_NAMES, SIZE, pixel_classes, shape_of

SHOWN_PIXELS = 60
KEPT_DISTANCE_SQUARED = 60 * 60
NEAR = 8
BOX_MARGIN = 4
PLACE_HALF = 16


@dataclass(frozen=True)
class Source:
    """What the rules see in a source picture: its pixel classes and its background's name."""

    classes: np.ndarray
    background: str

    def mask(self, name: str) -> np.ndarray:
        """The pixels of a palette colour."""
        return self.classes == PALETTE_NAMES.index(name)

    def objects(self) -> list[str]:
        """The colours of the objects."""
        return [name for name in COLOURS if self.mask(name).sum() >= SHOWN_PIXELS]


def read_source(picture) -> Source:
    """Finds background and objects of a source picture by its pixels."""
    classes = pixel_classes(picture)
    counts = {name: int((classes == PALETTE_NAMES.index(name)).sum()) for name in BACKGROUNDS}
    return Source(classes, max(counts, key=counts.get))


def named_pixels(source: Source, asked: Instruction) -> np.ndarray:
    """M; ValueError when the source does not show the object that the instruction names."""
    mask = source.mask(asked.colour)
    if mask.sum() < SHOWN_PIXELS:
        raise ValueError(f"`{asked.text}`: the source picture shows no {asked.colour} object")
    return mask


def at_most(part: np.ndarray, whole: np.ndarray, numerator: int, denominator: int) -> bool:
    """Whether `part` covers at most numerator/denominator of `whole`."""
    return int((part & whole).sum()) * denominator <= int(whole.sum()) * numerator


def at_least(part: np.ndarray, whole: np.ndarray, numerator: int, denominator: int) -> bool:
    """Whether `part` covers at least numerator/denominator of `whole`."""
    return int((part & whole).sum()) * denominator >= int(whole.sum()) * numerator


def centred(mask: np.ndarray, x: float, y: float) -> bool:
    """Whether the mean place of at least 60 pixels is near (x, y)."""
    ys, xs = np.nonzero(mask)
    return len(xs) >= SHOWN_PIXELS and abs(xs.mean() - x) <= NEAR and abs(ys.mean() - y) <= NEAR


def facts(source_picture, instruction: str, edited_picture) -> dict[str, bool]:
    """The facts of the module's table, by name."""
    asked, source = parse_instruction(instruction), read_source(source_picture)
    shown = pixel_classes(edited_picture)
    colour = {name: shown == index for index, name in enumerate(PALETTE_NAMES)}
    if asked.kind == "background":
        ground = source.mask(source.background)
        return {
            "old background gone": at_most(colour[source.background], ground, 1, 4),
            "new background": at_least(colour[asked.new_colour], ground, 3, 4),
        }
    if asked.kind == "add":
        new = colour[asked.new_colour]
        return {
            "new object": int(new.sum()) >= SHOWN_PIXELS,
            "place": centred(new, *PLACES[asked.place]),
            "shape": shape_of(new) == asked.new_shape,
        }
    named = named_pixels(source, asked)
    found = {"old colour gone": at_most(colour[asked.colour], named, 1, 4)}
    if asked.kind == "remove":
        return found | {"background in its place": at_least(colour[source.background], named, 3, 4)}
    new = colour[asked.new_colour]
    if asked.kind == "recolour":
        return found | {"new colour": at_least(new, named, 1, 2), "shape": shape_of(new) == asked.shape}
    ys, xs = np.nonzero(named)
    return found | {"new object": centred(new, xs.mean(), ys.mean()), "shape": shape_of(new) == asked.new_shape}


def fulfilment(source_picture, instruction: str, edited_picture) -> float:
    """The share of the facts that the instruction asks for which hold in the edited picture."""
    found = facts(source_picture, instruction, edited_picture)
    return sum(found.values()) / len(found)


def edit_box(source: Source, asked: Instruction) -> np.ndarray:
    """The pixels around the edit that do not count as background, (64, 64) bool."""
    if asked.kind == "add":
        x, y = PLACES[asked.place]
        left, right, top, bottom = x - PLACE_HALF, x + PLACE_HALF, y - PLACE_HALF, y + PLACE_HALF
    else:
        ys, xs = np.nonzero(named_pixels(source, asked))
        left, right = max(0, xs.min() - BOX_MARGIN), xs.max() + BOX_MARGIN + 1
        top, bottom = max(0, ys.min() - BOX_MARGIN), ys.max() + BOX_MARGIN + 1
    box = np.zeros((SIZE, SIZE), dtype=bool)
    box[top:bottom, left:right] = True
    return box


def interior(mask: np.ndarray) -> np.ndarray:
    """The pixels of a mask whose eight neighbours belong to it; none at the picture's border."""
    padded = np.pad(mask, 1)
    return np.logical_and.reduce([padded[y : y + SIZE, x : x + SIZE] for y in range(3) for x in range(3)])


def kept_shares(source_picture, instruction: str, edited_picture) -> dict[str, float]:
    """Of each part that the instruction does not touch, the share of its pixels that are kept, by the part's colour."""
    asked, source = parse_instruction(instruction), read_source(source_picture)
    parts = {name: interior(source.mask(name)) for name in source.objects() if name != asked.colour}
    if asked.kind != "background":
        parts[source.background] = source.mask(source.background) & ~edit_box(source, asked)
    before, after = (np.asarray(p.convert("RGB"), dtype=np.int32) for p in (source_picture, edited_picture))
    kept = ((before - after) ** 2).sum(2) < KEPT_DISTANCE_SQUARED
    return {name: int((kept & part).sum()) / int(part.sum()) for name, part in parts.items()}


def preservation(source_picture, instruction: str, edited_picture) -> float:
    """The mean share of kept pixels over the parts that the instruction does not touch."""
    shares = kept_shares(source_picture, instruction, edited_picture)
    return sum(shares.values()) / len(shares)


if __name__ == "__main__":
    rng = random.Random(0)
    for kind in KINDS:
        scores = []
        for _ in range(400):
            edit = random_edit(rng, (kind,))
            source, target = render(edit.source), render(edit.target)
            scores.append([f(source, edit.instruction, out) for out in (source, target) for f in (fulfilment, preservation)])
        mean, lowest = np.mean(scores, axis=0).round(3), np.min(scores, axis=0)
        print(f"{kind:10} copy {mean[:2]}, target {mean[2:]}, lowest {lowest[2:]}")
