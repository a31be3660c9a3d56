"""Synthetic edits: a source scene, an instruction, and the scene that the instruction asks for.

A scene holds one or two flat shapes, in one of four places, on a flat background; colours, backgrounds, shapes and size (64x64) are
those of `scene.py`. Objects are kept with their place and radius, so that source and target differ in the edit alone.

    make the red circle blue                      recolour      the object keeps its shape
    make the background pink                      background
    remove the red circle                         remove
    add a blue square on the right                add           the place opposite to the only object
    replace the red circle with a blue square     replace       another shape of another colour

An object of a scene is told by its colour alone: no two have the same, and a new colour is one that the source does not show.
`edit_check.py` scores an edited picture by pixel rules, `edit_faults.py` makes edits that go wrong.
"""

import random
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw
from scenes.scene import BACKGROUNDS, COLOURS, SHAPES, SIZE, draw_shape

KINDS = ("recolour", "background", "remove", "add", "replace")
# The words for a place, its centre in pixels, and the place opposite to it.
PLACES = {"on the left": (16, 32), "on the right": (48, 32), "at the top": (32, 16), "at the bottom": (32, 48)}
OPPOSITE = {"on the left": "on the right", "on the right": "on the left", "at the top": "at the bottom", "at the bottom": "at the top"}
ADDED_RADIUS = 12.0
_SUPERSAMPLING = 4


@dataclass(frozen=True)
class PlacedObject:
    """A shape with its place in the picture; centre and radius in pixels."""

    colour: str
    shape: str
    place: str
    centre: tuple[float, float]
    radius: float

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"


@dataclass(frozen=True)
class EditScene:
    """One or two objects (none after the only one is removed) on a background."""

    objects: tuple[PlacedObject, ...]
    background: str


@dataclass(frozen=True)
class Instruction:
    """What an instruction says; fields that its kind does not use are None."""

    kind: str
    colour: str | None = None  # of the object that the instruction names
    shape: str | None = None
    new_colour: str | None = None  # an object colour, or a background for the kind "background"
    new_shape: str | None = None
    place: str | None = None

    @property
    def text(self) -> str:
        match self.kind:
            case "recolour":
                return f"make the {self.colour} {self.shape} {self.new_colour}"
            case "background":
                return f"make the background {self.new_colour}"
            case "remove":
                return f"remove the {self.colour} {self.shape}"
            case "add":
                return f"add a {self.new_colour} {self.new_shape} {self.place}"
            case "replace":
                return f"replace the {self.colour} {self.shape} with a {self.new_colour} {self.new_shape}"
        raise ValueError(f"unknown kind of edit `{self.kind}`, expected one of {', '.join(KINDS)}")


@dataclass(frozen=True)
class Edit:
    """A source scene, what is asked for, and the scene that fulfils it and keeps the rest."""

    source: EditScene
    asked: Instruction
    target: EditScene

    @property
    def kind(self) -> str:
        return self.asked.kind

    @property
    def instruction(self) -> str:
        return self.asked.text


def parse_instruction(text: str) -> Instruction:
    """Reads an instruction's words back; ValueError for a text that no edit has."""
    match text.split():
        case ["make", "the", "background", new] if new in BACKGROUNDS:
            return Instruction("background", new_colour=new)
        case ["make", "the", colour, shape, new] if colour in COLOURS and shape in SHAPES and new in COLOURS:
            return Instruction("recolour", colour, shape, new)
        case ["remove", "the", colour, shape] if colour in COLOURS and shape in SHAPES:
            return Instruction("remove", colour, shape)
        case ["add", "a", new, shape, *place] if new in COLOURS and shape in SHAPES and " ".join(place) in PLACES:
            return Instruction("add", new_colour=new, new_shape=shape, place=" ".join(place))
        case ["replace", "the", colour, shape, "with", "a", new, new_shape] if (
            colour in COLOURS and shape in SHAPES and new in COLOURS and new_shape in SHAPES
        ):
            return Instruction("replace", colour, shape, new, new_shape)
    raise ValueError(f"`{text}` is no instruction of this world; see the table in scenes/edit.py")


def apply(scene: EditScene, asked: Instruction) -> EditScene:
    """The scene after an instruction; ValueError when it names an object that the scene lacks."""
    if asked.kind == "background":
        return replace(scene, background=asked.new_colour)
    if asked.kind == "add":
        centre = tuple(float(c) for c in PLACES[asked.place])
        new = PlacedObject(asked.new_colour, asked.new_shape, asked.place, centre, ADDED_RADIUS)
        return replace(scene, objects=(*scene.objects, new))
    named = next((o for o in scene.objects if (o.colour, o.shape) == (asked.colour, asked.shape)), None)
    if named is None:
        raise ValueError(f"`{asked.text}`: the scene has no {asked.colour} {asked.shape}")
    if asked.kind == "remove":
        changed = ()
    else:
        changed = (replace(named, colour=asked.new_colour, shape=asked.new_shape or named.shape),)
    return replace(scene, objects=tuple(o for old in scene.objects for o in (changed if old is named else (old,))))


def random_scene(rng: random.Random, count: int) -> EditScene:
    """A scene of one or two objects; two stand opposite to each other."""
    first = rng.choice(list(PLACES))
    places = [first, OPPOSITE[first]][:count]
    colours = rng.sample(list(COLOURS), count)

    def placed(colour: str, place: str) -> PlacedObject:
        x, y = PLACES[place]
        centre = (x + rng.uniform(-1.5, 1.5), y + rng.uniform(-1.5, 1.5))
        return PlacedObject(colour, rng.choice(SHAPES), place, centre, rng.uniform(11, 13))

    return EditScene(tuple(placed(c, p) for c, p in zip(colours, places)), rng.choice(list(BACKGROUNDS)))


def random_instruction(rng: random.Random, scene: EditScene, kind: str) -> Instruction:
    """An instruction of one kind for a scene."""
    named = rng.choice(scene.objects)
    new_colour = rng.choice([c for c in COLOURS if c not in {o.colour for o in scene.objects}])
    match kind:
        case "recolour":
            return Instruction(kind, named.colour, named.shape, new_colour)
        case "background":
            return Instruction(kind, new_colour=rng.choice([b for b in BACKGROUNDS if b != scene.background]))
        case "remove":
            return Instruction(kind, named.colour, named.shape)
        case "add":
            if len(scene.objects) != 1:
                raise ValueError("an object is added to a scene of one object only: the places opposite to it must be free")
            return Instruction(kind, new_colour=new_colour, new_shape=rng.choice(SHAPES), place=OPPOSITE[named.place])
        case "replace":
            new_shape = rng.choice([s for s in SHAPES if s != named.shape])
            return Instruction(kind, named.colour, named.shape, new_colour, new_shape)
    raise ValueError(f"unknown kind of edit `{kind}`, expected one of {', '.join(KINDS)}")


def random_edit(rng: random.Random, kinds=KINDS) -> Edit:
    """A random edit of one of `kinds`; two thirds of the sources have two objects, except where one is added."""
    kind = rng.choice(kinds)
    source = random_scene(rng, 1 if kind == "add" else rng.choice((1, 2, 2)))
    asked = random_instruction(rng, source, kind)
    return Edit(source, asked, apply(source, asked))


def render(scene: EditScene) -> Image.Image:
    """Draws a scene, 64x64 RGB; equal scenes give equal pixels."""
    k = _SUPERSAMPLING
    image = Image.new("RGB", (SIZE * k, SIZE * k), BACKGROUNDS[scene.background])
    draw = ImageDraw.Draw(image)
    for o in scene.objects:
        draw_shape(draw, COLOURS[o.colour], o.shape, o.centre[0] * k, o.centre[1] * k, o.radius * k)
    return image.resize((SIZE, SIZE), Image.LANCZOS)


def change_mask(edit: Edit) -> np.ndarray:
    """The pixels that the edit changes, (64, 64) bool: where source and target differ by more than 8 in a channel."""
    source, target = (np.asarray(render(scene), dtype=np.int16) for scene in (edit.source, edit.target))
    return np.abs(source - target).max(2) > 8
