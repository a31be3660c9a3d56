"""Edits that go wrong in a known way: what a careless editor shows instead of the target.

    spoiled   the edit is done, but the rest is not left alone: the kept object has another colour or the background is gray
    wrong     another edit of the same kind is done instead, and the rest is left alone
    ignored   the source, as it is
"""

import random
from dataclasses import replace

from scenes.edit import Edit, EditScene, apply, random_instruction
from scenes.scene import COLOURS

SPOILED_BACKGROUND = "gray"


def spoiled(edit: Edit, rng: random.Random) -> EditScene:
    """The target with one kept part changed: the kept object recoloured, or the background turned gray (black, where it was gray)."""
    kept = [o for o in edit.target.objects if o in edit.source.objects]
    parts = (["object"] if kept else []) + (["background"] if edit.kind != "background" else [])
    if rng.choice(parts) == "background":
        return replace(edit.target, background="black" if edit.source.background == SPOILED_BACKGROUND else SPOILED_BACKGROUND)
    changed = rng.choice(kept)
    taken = {o.colour for o in (*edit.source.objects, *edit.target.objects)}
    colour = rng.choice([c for c in COLOURS if c not in taken])
    return replace(
        edit.target, objects=tuple(replace(o, colour=colour) if o is changed else o for o in edit.target.objects)
    )


def wrong(edit: Edit, rng: random.Random) -> EditScene:
    """The source after another instruction of the same kind; of another kind where the source has only one edit of this kind."""
    for _ in range(20):
        other = random_instruction(rng, edit.source, edit.kind)
        if other != edit.asked:
            return apply(edit.source, other)
    other_kind = "recolour" if edit.kind == "remove" else "remove"
    return apply(edit.source, random_instruction(rng, edit.source, other_kind))
