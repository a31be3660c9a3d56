"""Training examples of the small judge of edits: a source, an instruction and two candidates, then verdicts under several rubrics.

An example is a prefix and branches, as in `rubric_examples.py`. Auxiliary labels, from the scenes: at each image token, whether its
part of the picture was to change, and whether it is as it should be; after each repetition of the instruction, how much of it is
not carried out, and how much of the rest is lost; after each criterion, which candidate meets it better and by how much.
"""

import math

import numpy as np
from judge.edit_candidates import Candidate, Candidates
from judge.edit_prompt import CONCEPTS, QUICKSTART, SENTENCES
from judge.judge_examples import Examples
from judge.judge_prompt import QUESTION
from judge.rubric_examples import Tokens
from scenes.edit import Edit, EditScene, render

WEIGHT_VERDICT, WEIGHT_CELL = 4.0, 0.15  # against 1 for the other auxiliary labels
# Auxiliary labels must also be told from the hidden state after this many of the six layers, so that the layers above can use them.
AFTER_SOURCE, AFTER_CELL, AFTER_INSTRUCTION, AFTER_CRITERION = 2, 3, 4, 5
CELL_CHANGED = 12.0  # mean difference of RGB values from which a cell counts as another


def cells(a: EditScene, b: EditScene) -> np.ndarray:
    """(16,) whether the 16x16 pixels of a cell differ between two scenes."""
    x, y = (np.asarray(render(scene), np.float32) for scene in (a, b))
    return np.abs(x - y).mean(2).reshape(4, 16, 4, 16).mean((1, 3)).reshape(16) > CELL_CHANGED


def thirds(missing: float) -> int:
    """A share in thirds, rounded up."""
    return math.ceil(3 * missing - 1e-6)


class EditExamples(Examples):
    """Draws (prefix, branches, images)."""

    def __init__(self, tokenizer, seed: int):
        super().__init__(tokenizer, seed)
        self.candidates = Candidates(self.rng)
        self.digits = [self.ids(str(digit))[0] for digit in range(10)]

    def picture(self, tokens: Tokens, labels, early: int) -> None:
        """Appends the tokens of a picture with a label for each cell."""
        tokens.add(self.image_ids)
        at = len(tokens.ids) - 1 - len(labels)
        tokens.targets[at:-1] = list(labels)
        tokens.weights[at:-1] = [WEIGHT_CELL] * len(labels)
        tokens.early[at:-1] = [early] * len(labels)

    def prefix(self, edit: Edit, pair) -> Tokens:
        """The instruction and the three pictures."""
        tokens = Tokens()
        tokens.add([self.start] + self.ids(f"user\nInstruction: {edit.instruction}\nSource: "))
        to_change = cells(edit.source, edit.target)
        self.picture(tokens, [self.yes if changes else self.no for changes in to_change], AFTER_SOURCE)
        for number, candidate in enumerate(pair, 1):
            tokens.add(self.ids(f"\nImage {number}: "))
            wrong = cells(edit.target, candidate.scene)
            self.picture(tokens, [self.digits[2 * c + w] for c, w in zip(to_change.astype(int), wrong)], AFTER_CELL)
        tokens.add(self.ids("\n"))
        return tokens

    def repeated(self, tokens: Tokens, edit: Edit, pair) -> None:
        """Appends the instruction for each candidate, with labels after its last word and after the line."""
        for number, candidate in enumerate(pair, 1):
            tokens.add(self.ids(f"Image {number}:"))
            tokens.add(self.ids(f" {edit.instruction}"), last=self.digits[thirds(1 - candidate.edit)], early=AFTER_INSTRUCTION)
            tokens.add(self.ids("\n"), last=self.digits[thirds(1 - candidate.rest)], early=AFTER_INSTRUCTION)

    def verdict(self, pair, criteria, concepts) -> Tokens:
        """Which candidate is better under criteria, each about the concept beside it; without criteria both concepts count."""
        tokens = Tokens()
        if criteria:
            tokens.add(self.ids("Rubric:\n"))
        for text, concept in zip(criteria, concepts):
            gap = pair[0].score([concept]) - pair[1].score([concept])
            step = thirds(abs(gap))
            label = self.digits[0 if not step else 2 * step - (gap > 0)]  # odd: the first is better
            tokens.add(self.ids(f"- {text}\n"), last=label, early=AFTER_CRITERION)
        tokens.add(self.ids(QUESTION))
        tokens.add([self.end] + self.ids("\n") + [self.start] + self.ids("assistant\n"))
        better = "1" if pair[0].score(concepts) > pair[1].score(concepts) else "2"
        tokens.answer(self.ids(better) + [self.end], WEIGHT_VERDICT)
        return tokens

    def rubrics(self, pair):
        """Criteria with their concepts: both concepts, and one of them alone where it tells the candidates apart."""
        rng = self.rng
        draw = rng.random()
        if draw < 0.1:
            yield (), CONCEPTS
        elif draw < 0.5:
            yield QUICKSTART, CONCEPTS
        else:
            order = rng.sample(CONCEPTS, 2)
            yield [rng.choice(SENTENCES[name]) for name in order], order
        alone = [name for name in CONCEPTS if Candidates.told_apart(pair, [name])]
        if alone:
            name = rng.choice(alone)
            yield [rng.choice(SENTENCES[name])], [name]

    def painted(self, edit: Edit, pair: tuple[Candidate, ...]):
        """The pictures of source and candidates; sources are drawn clean, as those of the quickstart are."""
        roughness = self.rng.choice((0.0, 0.5, 1.0, 1.0))
        source = render(edit.source)
        return [source] + [self.candidates.paint(candidate.scene, source, roughness) for candidate in pair]

    def look(self):
        """The pictures alone, with the labels of their cells."""
        edit, pair = self.candidates.pair()
        return self.prefix(edit, pair), [], self.painted(edit, pair)

    def pair_tree(self):
        """A pair with verdicts."""
        edit, pair = self.candidates.pair()
        tokens = self.prefix(edit, pair)
        self.repeated(tokens, edit, pair)
        return tokens, [self.verdict(pair, *rubric) for rubric in self.rubrics(pair)], self.painted(edit, pair)
