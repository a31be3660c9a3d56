"""Edited pictures that are right or go wrong in known ways, and how well each carries out its instruction and keeps the rest.

Scores come from the scenes, never from pixels. They follow the facts and parts of `scenes/edit_check.py`.
"""

import random
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageFilter
from scenes.edit import ADDED_RADIUS, OPPOSITE, PLACES, Edit, EditScene, PlacedObject, apply, random_edit, random_instruction, render
from scenes.scene import BACKGROUNDS, COLOURS, SHAPES, SIZE

RESHAPED = 0.6  # an object of another shape keeps its colour and most of its pixels
EXTRA = 0.7  # what a background with an object too many keeps
FRAME = np.stack(np.meshgrid(np.arange(SIZE), np.arange(SIZE), indexing="ij"))


def at(scene: EditScene, place: str) -> PlacedObject | None:
    """The object at a place."""
    return next((o for o in scene.objects if o.place == place), None)


def edited_place(edit: Edit) -> str | None:
    """Where the edit happens; None for the background."""
    asked = edit.asked
    if asked.kind == "background":
        return None
    return asked.place or next(o.place for o in edit.source.objects if o.colour == asked.colour)


def fulfilment(edit: Edit, shown: EditScene) -> float:
    """The share of the asked facts that hold in a picture of `shown`."""
    asked, place = edit.asked, edited_place(edit)
    if asked.kind == "background":
        facts = [shown.background != edit.source.background, shown.background == asked.new_colour]
        return sum(facts) / len(facts)
    found = at(shown, place)
    new = found is not None and found.colour == asked.new_colour
    facts = [] if asked.kind == "add" else [found is None or found.colour != asked.colour]
    if asked.kind == "remove":
        facts.append(found is None)
    elif asked.kind == "add":
        new_somewhere = [o for o in shown.objects if o.colour == asked.new_colour]
        facts += [bool(new_somewhere), new, any(o.shape == asked.new_shape for o in new_somewhere)]
    else:
        facts += [new, new and found.shape == (asked.new_shape or asked.shape)]
    return sum(facts) / len(facts)


def preservation(edit: Edit, shown: EditScene) -> float:
    """The mean over what the instruction does not touch: each other object, and the background unless it is to change."""
    place, parts = edited_place(edit), []
    for kept in edit.source.objects:
        if kept.place != place:
            found = at(shown, kept.place)
            same = found is not None and found.colour == kept.colour
            parts.append(0.0 if not same else 1.0 if found.shape == kept.shape else RESHAPED)
    free = {o.place for o in edit.source.objects} | {place}
    extra = sum(o.place not in free for o in shown.objects)
    if edit.kind != "background":
        parts.append(0.0 if shown.background != edit.source.background else EXTRA**extra)
    elif extra:
        parts = [part * EXTRA**extra for part in parts]
    return sum(parts) / len(parts)


@dataclass(frozen=True)
class Candidate:
    """An edited picture's scene with its scores in [0, 1]."""

    scene: EditScene
    edit: float
    rest: float

    def score(self, concepts) -> float:
        return sum(getattr(self, name) for name in concepts)


def changed(rng: random.Random, old: PlacedObject, taken) -> PlacedObject | None:
    """An object in its place with another colour, another shape, both, or nothing."""
    colour = rng.choice([c for c in COLOURS if c not in taken] or [c for c in COLOURS if c != old.colour])
    shape = rng.choice([s for s in SHAPES if s != old.shape])
    return rng.choices(
        (replace(old, colour=colour), replace(old, shape=shape), replace(old, colour=colour, shape=shape), None), (4, 2, 2, 2)
    )[0]


class Candidates:
    """Draws edits with two candidates each."""

    def __init__(self, rng: random.Random):
        self.rng = rng
        self.noise = np.random.default_rng(rng.randrange(1 << 30))

    def attempt(self, edit: Edit) -> EditScene:
        """A scene after an attempt at the edit itself: done, not done, or done wrong; the rest is as in the source."""
        rng, asked, source = self.rng, edit.asked, edit.source
        kind = rng.choices(("done", "not done", "wrong value", "wrong object", "another edit"), (50, 15, 17, 10, 8))[0]
        if kind == "done":
            return edit.target
        if kind == "wrong value":
            return self.wrong_value(edit)
        others = [o for o in source.objects if o.place != edited_place(edit)]
        if kind == "wrong object" and asked.kind in ("recolour", "remove", "replace") and others:
            return apply(source, replace(asked, colour=others[0].colour, shape=others[0].shape))
        if kind == "another edit":
            kinds = [k for k in ("recolour", "background", "remove", "replace") if k != asked.kind]
            return apply(source, random_instruction(rng, source, rng.choice(kinds)))
        return source

    def wrong_value(self, edit: Edit) -> EditScene:
        """The edit with another colour, shape or place than the one asked for."""
        rng, asked, source = self.rng, edit.asked, edit.source
        if asked.kind == "background":
            return replace(source, background=rng.choice([b for b in BACKGROUNDS if b not in (asked.new_colour, source.background)]))
        place = edited_place(edit)
        taken = {o.colour for o in source.objects} | {asked.new_colour}
        if asked.kind == "remove":
            return self.with_object(source, place, changed(rng, at(source, place), taken))
        wanted = at(edit.target, place)
        if asked.kind == "add" and rng.random() < 0.25:
            elsewhere = rng.choice([p for p in PLACES if p not in (place, OPPOSITE[place])])
            return replace(source, objects=(*source.objects, self.new_object(elsewhere, wanted.colour, wanted.shape)))
        return self.with_object(source, place, changed(rng, wanted, taken))

    @staticmethod
    def new_object(place: str, colour: str, shape: str) -> PlacedObject:
        x, y = PLACES[place]
        return PlacedObject(colour, shape, place, (float(x), float(y)), ADDED_RADIUS)

    @staticmethod
    def with_object(scene: EditScene, place: str, new: PlacedObject | None) -> EditScene:
        """The scene with another object, or none, at a place."""
        kept = tuple(o for o in scene.objects if o.place != place)
        return replace(scene, objects=kept if new is None else (*kept, new))

    def spoiled(self, edit: Edit, scene: EditScene, faults: int) -> EditScene:
        """The scene with faults in what the instruction does not touch."""
        rng, place = self.rng, edited_place(edit)
        kept = [o for o in edit.source.objects if o.place != place]
        parts = [*kept, *kept, "extra"] + (["background", "background"] if edit.kind != "background" else [])
        for part in rng.sample(parts, min(faults, len(parts))):
            taken = {o.colour for o in (*scene.objects, *edit.target.objects, *edit.source.objects)}
            if part == "background":
                grounds = [b for b in BACKGROUNDS if b != edit.source.background]
                scene = replace(scene, background="gray" if "gray" in grounds and rng.random() < 0.3 else rng.choice(grounds))
            elif part == "extra":
                used = {o.place for o in (*scene.objects, *edit.target.objects, *edit.source.objects)}
                free = [p for p in PLACES if p not in used]
                colours = [c for c in COLOURS if c not in taken]
                if free and colours:
                    small = replace(self.new_object(rng.choice(free), rng.choice(colours), rng.choice(SHAPES)), radius=rng.uniform(7, 10))
                    scene = replace(scene, objects=(small, *scene.objects))
            else:
                scene = self.with_object(scene, part.place, changed(rng, part, taken))
        return scene

    def candidate(self, edit: Edit) -> Candidate:
        rng = self.rng
        scene = self.attempt(edit)
        faults = rng.choices((0, 1, 2, 4), (60, 26, 9, 5))[0]
        if faults:
            scene = self.spoiled(edit, scene, faults)
        return Candidate(scene, fulfilment(edit, scene), preservation(edit, scene))

    def pair(self, wanted=lambda a, b: True) -> tuple[Edit, tuple[Candidate, Candidate]]:
        """An edit and two candidates that differ in the sum of their scores."""
        rng = self.rng
        edit = random_edit(rng)
        while True:
            pair = self.candidate(edit), self.candidate(edit)
            if self.told_apart(pair) and wanted(*pair):
                return edit, pair
            if rng.random() < 0.1:
                edit = random_edit(rng)

    @staticmethod
    def told_apart(pair, concepts=("edit", "rest")) -> bool:
        """Whether the scores differ by enough to name a better picture."""
        return abs(pair[0].score(concepts) - pair[1].score(concepts)) > 0.12

    def paint(self, scene: EditScene, source: Image.Image, roughness: float) -> Image.Image:
        """A picture as a small generator may paint it, not as a fault: bent outlines, blur, noise, a tint, a trace of the source."""
        rng, image = self.rng, render(scene)
        if roughness == 0:
            return image
        x = np.asarray(image, np.float32)
        if rng.random() < 0.6:
            x = self.bent(x, roughness * rng.uniform(0.5, 2))
        if rng.random() < 0.3:
            x += roughness * rng.uniform(0, 0.22) * (np.asarray(source, np.float32) - x)
        if rng.random() < 0.5:
            x = x + self.noise.normal(0, 10 * roughness, 3)
        if rng.random() < 0.5:
            blurred = Image.fromarray(np.clip(x, 0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(roughness * rng.uniform(0.3, 2)))
            x = np.asarray(blurred, np.float32)
        if rng.random() < 0.6:
            x = x + self.noise.normal(0, roughness * rng.uniform(2, 14), x.shape)
        return Image.fromarray(np.clip(x, 0, 255).astype(np.uint8))

    def bent(self, x: np.ndarray, pixels: float) -> np.ndarray:
        """The picture with a smooth random displacement of about `pixels`."""
        coarse = self.noise.normal(0, pixels, (2, 6, 6)).astype(np.float32)
        fields = [np.asarray(Image.fromarray(field, "F").resize((SIZE, SIZE), Image.BICUBIC)) for field in coarse]
        rows, columns = (np.clip(np.rint(FRAME[k] + fields[k]), 0, SIZE - 1).astype(int) for k in (0, 1))
        return x[rows, columns]
