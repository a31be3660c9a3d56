"""Which captions the bases without a defect never see: a colour and shape that are never together, combinations of two objects, and numbers.

`kind_of_unseen(scene)` is "pair" where some object is one of `UNSEEN_PAIRS`, "combination" where both objects are seen with others but never
so together (first object, relation, second object, on any background), "number" where an object is seen, also in other numbers, but never in
this one, and None where the scene may be seen.
"""

import itertools
import random

from scenes.scene import BACKGROUNDS, COLOURS, NUMBERS, RELATIONS, SHAPES, Scene

UNSEEN_PAIRS = frozenset({("red", "triangle"), ("blue", "circle"), ("yellow", "square")})


def _unseen_combinations(seed: int = 11, share: float = 0.25) -> frozenset:
    """A quarter of all (object, relation, object) whose two objects are seen."""
    seen = [o for o in itertools.product(COLOURS, SHAPES) if o not in UNSEEN_PAIRS]
    every = [(a, relation, b) for a, relation, b in itertools.product(seen, RELATIONS, seen) if a[0] != b[0]]
    return frozenset(random.Random(seed).sample(every, round(share * len(every))))


UNSEEN_COMBINATIONS = _unseen_combinations()


def _unseen_numbers(seed: int = 12, unseen: int = 21) -> frozenset:
    """Of the (object, number) whose object is seen, 21 of 45: one or two of each object's three numbers, seven of each number."""
    rng = random.Random(seed)
    seen = [o for o in itertools.product(COLOURS, SHAPES) if o not in UNSEEN_PAIRS]
    while True:
        chosen = frozenset((o, n) for o in seen for n in rng.sample(list(NUMBERS), rng.choice((1, 2))))
        if all(sum(number == n for _, number in chosen) == unseen // len(NUMBERS) for n in NUMBERS):
            return chosen


UNSEEN_NUMBERS = _unseen_numbers()


def kind_of_unseen(scene: Scene) -> str | None:
    """Why such a base never saw this scene's caption, or None."""
    if UNSEEN_PAIRS.intersection(scene.objects):
        return "pair"
    if scene.relation and (scene.objects[0], scene.relation, scene.objects[1]) in UNSEEN_COMBINATIONS:
        return "combination"
    if scene.count > 1 and (scene.objects[0], scene.count) in UNSEEN_NUMBERS:
        return "number"
    return None


def every_count_scene() -> list[Scene]:
    """All scenes of two, three or four of one object, in a fixed order."""
    objects = itertools.product(COLOURS, SHAPES)
    return [Scene((a,), None, b, n) for a, n, b in itertools.product(objects, NUMBERS, BACKGROUNDS)]


def every_scene() -> list[Scene]:
    """All scenes of one object and of two, in a fixed order."""
    objects = list(itertools.product(COLOURS, SHAPES))
    one = [Scene((a,), None, b) for a, b in itertools.product(objects, BACKGROUNDS)]
    two = itertools.product(objects, RELATIONS, objects, BACKGROUNDS)
    return one + [Scene((a, b), relation, background) for a, relation, b, background in two if a[0] != b[0]]
