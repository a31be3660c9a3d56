"""Pairs of pictures that a policy painted (files of `paint_pairs.py`), with the faults that the pixel rules find, as training examples."""

import dataclasses
from dataclasses import dataclass

import numpy as np
from judge.criteria import CONCEPTS, COVERS, SENTENCES
from judge.grouping_examples import GroupingExamples
from judge.rubric_examples import QUICKSTART, Shown
from PIL import Image
from scenes.scene import BACKGROUNDS, PALETTE_NAMES, Scene, check, parse, pixel_classes


@dataclass
class Painted(Shown):
    """A painted picture with the `facts` of `scenes.scene.check`; of its `scene` only the background is looked at, the rest is what was asked for."""

    facts: dict[str, int]

    @classmethod
    def of(cls, image: Image.Image, asked: Scene) -> "Painted":
        facts = check(image, asked)
        faults = {
            "background": 1 - facts["background"],
            "colour": sum(1 - facts[f"colour{i}"] for i in range(len(asked.objects))),
            "shape": sum(1 - facts[f"shape{i}"] for i in range(len(asked.objects))),
            "placement": 1 - facts.get("relation", 1),
            "clean": 1 - facts["no_extra"],
        }
        return cls(image, dataclasses.replace(asked, background=background_of(image)), faults, facts)

    def holds(self, asked: Scene) -> dict[int, bool]:
        """As of `Shown`; nothing is said of the shape and the place of an object whose colour the rules do not find."""
        words, facts = sorted(super().holds(asked)), self.facts
        names = ["colour0", "shape0"] + ["relation", "colour1", "shape1"] * bool(asked.relation) + ["background"]
        needs = {"shape0": ["colour0"], "shape1": ["colour1"], "relation": ["colour0", "colour1"]}
        return {at: bool(facts[name]) for at, name in zip(words, names) if all(facts[need] for need in needs.get(name, ()))}

    def seen(self, asked: Scene) -> dict[int, str]:
        """The words that hold, and the background's colour."""
        words, holds = super().seen(asked), self.holds(asked)
        return {at: word for at, word in words.items() if holds.get(at) or (at == max(words) and word in BACKGROUNDS)}


def background_of(image: Image.Image) -> str:
    """The palette's colour of most of the picture's border; "black" where it has none of them, as `check` counts."""
    c = pixel_classes(image)
    border = np.concatenate([c[0], c[-1], c[:, 0], c[:, -1]])
    border = border[border >= 0] if (border >= 0).any() else np.zeros(1, int)
    return PALETTE_NAMES[np.bincount(border).argmax()]


def read(files) -> list[tuple[Scene, tuple[Painted, Painted]]]:
    """All pairs of some files."""
    pairs = []
    for file in files:
        with np.load(file) as held:
            for text, pictures in zip(held["captions"], held["pictures"]):
                asked = parse(str(text))
                pairs.append((asked, tuple(Painted.of(Image.fromarray(picture), asked) for picture in pictures)))
    return pairs


class PaintedExamples(GroupingExamples):
    """Adds painted pairs to the examples of drawn scenes and of lists."""

    def __init__(self, tokenizer, seed: int, files=()):
        super().__init__(tokenizer, seed)
        self.painted = [pair for pair in read(files) if any(self.sign(pair[1], [name]) for name in CONCEPTS)]

    def painted_tree(self):
        """Verdicts on a painted pair under all concepts and under other rubrics, and a reason where the backgrounds differ."""
        rng = self.rng
        asked, pictures = rng.choice(self.painted)
        pictures = rng.sample(pictures, 2)
        whole, rubrics = self.sign(pictures, CONCEPTS), []
        if whole:
            rubrics = [(list(QUICKSTART), [COVERS[text] for text in QUICKSTART])]
            rubrics += [self.whole() if rng.random() < 0.6 else ([], [CONCEPTS])] * (rng.random() < 0.5)
        rubrics.append(self.decided(pictures, whole))
        branches = [self.verdict(pictures, *rubric) for rubric in rubrics]
        better = self.sign(pictures, ["background"])
        if better and rng.random() < 0.4:
            criteria = rng.choice(([], [rng.choice(SENTENCES["background"])]))
            branches.append(self.told(asked, pictures, 1 if better > 0 else 2, criteria, "background"))
        return self.prefix(asked, pictures), branches, [picture.image for picture in pictures]
