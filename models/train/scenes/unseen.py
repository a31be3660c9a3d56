"""Which captions the graded base never sees: those with a colour and shape that are never together, and combinations of two objects.

`kind_of_unseen(scene)` is "pair" where some object is one of `UNSEEN_PAIRS`, "combination" where both objects are seen with others but never
so together (first object, relation, second object, on any background), and None where the scene may be seen.
"""

import itertools
import random

from scenes.scene import BACKGROUNDS, COLOURS, RELATIONS, SHAPES, Scene

UNSEEN_PAIRS = frozenset({("red", "triangle"), ("blue", "circle"), ("yellow", "square")})


def _unseen_combinations(seed: int = 11, share: float = 0.25) -> frozenset:
    """A quarter of all (object, relation, object) whose two objects are seen."""
    seen = [o for o in itertools.product(COLOURS, SHAPES) if o not in UNSEEN_PAIRS]
    every = [(a, relation, b) for a, relation, b in itertools.product(seen, RELATIONS, seen) if a[0] != b[0]]
    return frozenset(random.Random(seed).sample(every, round(share * len(every))))


UNSEEN_COMBINATIONS = _unseen_combinations()


def kind_of_unseen(scene: Scene) -> str | None:
    """Why the graded base never saw this scene's caption, or None."""
    if UNSEEN_PAIRS.intersection(scene.objects):
        return "pair"
    if scene.relation and (scene.objects[0], scene.relation, scene.objects[1]) in UNSEEN_COMBINATIONS:
        return "combination"
    return None


def every_scene() -> list[Scene]:
    """All scenes of this world, in a fixed order."""
    objects = list(itertools.product(COLOURS, SHAPES))
    one = [Scene((a,), None, b) for a, b in itertools.product(objects, BACKGROUNDS)]
    two = itertools.product(objects, RELATIONS, objects, BACKGROUNDS)
    return one + [Scene((a, b), relation, background) for a, relation, b, background in two if a[0] != b[0]]
