"""Training examples of the small model that answers questions: one picture, drawn or painted, and several questions about it.

The exact rules (`scenes.scene.ColourMap`) answer, for drawn pictures too. An example is a prefix (the picture and the sentence that asks) and a branch
for each question, as in `rubric_examples.py`.
"""

import dataclasses
import random
from functools import cached_property

import numpy as np
from judge.answer_prompt import INSTRUCTION, answer
from judge.judge_examples import IGNORE, Examples
from judge.rubric_examples import Tokens
from PIL import Image, ImageDraw
from scenes.questions import KINDS, Question, questions
from scenes.scene import BACKGROUNDS, COLOURS, NUMBERS, RELATIONS, SHAPES, ColourMap, Scene, draw_shape, parse, random_count_scene, random_scene, render

WEIGHT_ANSWER = 3.0  # against 1 for the labels within a question
AFTER_QUESTION = 2  # the layer that must tell them too
SHARES = {"background": 1, "colour": 1, "existence": 2.5, "count": 3, "relation": 1.5, "extra": 1.5}


@dataclasses.dataclass
class Shown:
    """A picture and the scene that was drawn or asked for."""

    image: Image.Image
    scene: Scene

    @cached_property
    def map(self) -> ColourMap:
        return ColourMap(self.image)

    @cached_property
    def asked(self) -> dict[tuple[str, bool], list[Question]]:
        """Questions about scenes near its own, by kind and right answer."""
        found: dict = {}
        for scene in dict.fromkeys(near(self.scene, random.Random(0))):
            facts = self.map.check(scene)
            for question in questions(scene):
                # Of several pieces of a colour the rule for one object says nothing about a single one.
                if not (question.kind == "existence" and scene.count == 1 and self.scene.count > 1):
                    found.setdefault((question.kind, question.holds(facts)), []).append(question)
        return found


def near(own: Scene, rng: random.Random) -> list[Scene]:
    """Scenes that differ from this one in background, colour, shape, number or relation, or that say less."""
    scenes = [own, *(dataclasses.replace(own, background=background) for background in BACKGROUNDS)]
    for colour, shape in own.objects:
        other = rng.choice([c for c in COLOURS if c not in {o[0] for o in own.objects}])
        for objects in (((colour, s),) for s in SHAPES):
            scenes += [Scene(objects, None, own.background, n) for n in (1, *NUMBERS)]
        scenes += [Scene(((other, shape),), None, own.background, n) for n in (1, rng.choice(list(NUMBERS)))]
        pair = ((colour, shape), (other, rng.choice(SHAPES)))
        scenes += [Scene(pair, rng.choice(RELATIONS), own.background), Scene(pair[::-1], rng.choice(RELATIONS), own.background)]
    if own.relation:
        scenes += [Scene(objects, relation, own.background) for objects in (own.objects, own.objects[::-1]) for relation in RELATIONS]
    return scenes


class AnswerExamples(Examples):
    """Draws a picture with questions about it."""

    def __init__(self, tokenizer, seed: int, files=(), drawn: int = 4000, painted_share: float = 0.6, per_picture: int = 6):
        super().__init__(tokenizer, seed)
        self.painted, self.painted_share, self.per_picture = read(files), painted_share if files else 0.0, per_picture
        self.drawn = [self.drawing() for _ in range(drawn)]
        self.numbers = [self.no, *(self.ids(f" {word}")[0] for word in ("one", *NUMBERS.values()))]

    def drawing(self) -> Shown:
        """A drawn scene, in some a further shape or a spoiled picture."""
        rng = self.rng
        scene = random_count_scene(rng) if rng.random() < 0.55 else random_scene(rng)
        image = render(scene, rng, rng.choice((0.3, 1.0)))
        if rng.random() < 0.25:
            draw, colour = ImageDraw.Draw(image), rng.choice(list(COLOURS.values()))
            draw_shape(draw, colour, rng.choice(SHAPES), rng.uniform(8, 56), rng.uniform(8, 56), rng.uniform(5, 10))
        return Shown(self.spoil(image) if rng.random() < 0.1 else image, scene)

    def question(self, picture: Shown, question: Question, yes: bool) -> Tokens:
        """A question and its answer; at a colour's word the number of its pieces must be told, at "background" the true one."""
        tokens = Tokens()
        for word in question.text.removesuffix("?").split():
            label = IGNORE
            if word in COLOURS:
                label = dict(enumerate(self.numbers)).get(len(picture.map.pieces(word)), IGNORE)
            elif word == "background" and picture.map.background in BACKGROUNDS:
                label = self.ids(f" {picture.map.background}")[0]
            tokens.add(self.ids(f" {word}"), label, AFTER_QUESTION if label != IGNORE else 0)
        tokens.add(self.ids("?") + [self.end] + self.ids("\n") + [self.start] + self.ids("assistant\n"))
        tokens.answer(self.ids(answer(yes)) + [self.end], WEIGHT_ANSWER)
        return tokens

    def asked(self):
        """One picture with questions about it, as many to be answered by yes as by no where it has both."""
        rng = self.rng
        picture = rng.choice(self.painted if rng.random() < self.painted_share else self.drawn)
        prefix, branches = Tokens(), []
        prefix.add([self.start] + self.ids("user\n"))
        prefix.add(self.image_ids)
        prefix.add(self.ids(INSTRUCTION))
        for kind in rng.choices(KINDS, [SHARES[kind] for kind in KINDS], k=self.per_picture):
            answers = [yes for yes in (False, True) if (kind, yes) in picture.asked]
            if answers:
                yes = rng.choice(answers)
                branches.append(self.question(picture, rng.choice(picture.asked[kind, yes]), yes))
        return prefix, branches, [picture.image]


def read(files) -> list[Shown]:
    """All pictures of some files of `paint_pairs.py`."""
    found = []
    for file in files:
        with np.load(file) as held:
            for text, pictures in zip(held["captions"], held["pictures"]):
                found += [Shown(Image.fromarray(picture), parse(str(text))) for picture in pictures]
    return found
