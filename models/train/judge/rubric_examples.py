"""Training examples for a judge whose rubric matters: pairs under many rubrics, criteria, themes and reasons.

An example is a prefix (both pictures with their captions) and several branches, each a question about them with its answer.
Branches see the prefix and themselves, so one look at a pair serves four questions. Labels come from the scene specifications.
"""

from dataclasses import dataclass, field

from judge import rubric_prompt
from judge.criteria import BOTH, CONCEPTS, COVERS, SENTENCES, sentences
from judge.judge_examples import IGNORE, QUESTION, Examples, holding, swapped
from judge.judge_prompt import CRITERIA
from judge.wordings import detailed, varied
from PIL import Image
from scenes.scene import BACKGROUNDS, COLOURS, SHAPES, Scene, caption, random_scene, render

QUICKSTART = tuple(CRITERIA.values())  # the quickstart's rubric
WEIGHT_VERDICT, WEIGHT_FIRST, WEIGHT_WORD, WEIGHT_PATCH = 4.0, 1.5, 0.5, 0.1  # against 1 for the auxiliary labels
WEIGHT_SEEN, WEIGHT_FACT = 0.5, 3.0
# Where two pictures are equal under a rubric, the first is to be named with this probability: the mean over both orders is one half, and as
# both orders name their first picture they disagree, so that the judge abstains without a margin too.
TIE_FIRST = 0.6
# Auxiliary labels must also be told from the hidden state after this many layers, so that the layers above can use them.
AFTER_CAPTION, AFTER_CONCEPT = 2, 3


@dataclass
class Tokens:
    """Token ids, and for each the token to predict after it (or IGNORE), its weight in the loss, and an earlier layer or 0.

    `more` has further labels: index, token, weight, layer (0: the last). `copies` has pairs of indices: what is predicted at the first
    stands at the second.
    """

    ids: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    early: list[int] = field(default_factory=list)
    more: list[tuple[int, int, float, int]] = field(default_factory=list)
    copies: list[tuple[int, int]] = field(default_factory=list)

    def add(self, ids, last: int = IGNORE, early: int = 0) -> None:
        """Appends prompt tokens; `last` is an auxiliary label after the last one, told already after `early` layers."""
        self.ids += ids
        self.targets += [IGNORE] * (len(ids) - 1) + [last]
        self.weights += [1.0] * len(ids)
        self.early += [0] * (len(ids) - 1) + [early]

    def answer(self, ids, weight: float) -> None:
        """Appends tokens that must be predicted."""
        self.targets[-1], self.weights[-1] = ids[0], weight
        self.ids += ids
        self.targets += ids[1:] + [IGNORE]
        self.weights += [weight] * len(ids)
        self.early += [0] * len(ids)


@dataclass
class Shown:
    """A picture, what it shows, and its faults by concept."""

    image: Image.Image
    scene: Scene
    faults: dict[str, int]

    def count(self, names) -> int:
        return sum(self.faults[name] for name in names)

    def holds(self, asked: Scene) -> dict[int, bool]:
        """For the caption's words that state a fact, by their numbers: whether it holds."""
        return holding(asked, self.scene)

    def seen(self, asked: Scene) -> dict[int, str]:
        """For the same words: the word that is true of the picture. Exchanged places are left out."""
        turned = swapped(asked, self.scene)
        objects = asked.objects if turned else self.scene.objects
        words = {1: objects[0][0], 2: objects[0][1]}
        if asked.relation:
            second = 6 if asked.relation == "left of" else 5
            words |= {second: objects[1][0], second + 1: objects[1][1]}
            words |= {} if turned else {second - 2: self.scene.relation.split()[0]}
        return words | {len(caption(asked).split()) - 2: self.scene.background}


def faulty(asked: Scene, shown: Scene, concept: str) -> int:
    """The first object whose colour or shape is another one, from 0."""
    part = 0 if concept == "colour" else 1
    return next(i for i, (a, b) in enumerate(zip(asked.objects, shown.objects)) if a[part] != b[part])


def difference(asked: Scene, worse: Shown, number: int, concept: str) -> str:
    """One sentence that names a fault of picture `number`."""
    if concept == "background":
        return f"Image {number} has a {worse.scene.background} background, not {asked.background}."
    if concept == "clean":
        return f"Image {number} is not clean."
    if concept == "placement":
        text = caption(worse.scene)
        return f"Image {number} shows {text[:text.index(' on a ')]}."
    number = faulty(asked, worse.scene, concept)
    a, b = asked.objects[number], worse.scene.objects[number]
    return f"Image {number} shows a {b[0]} {b[1]}, not a {a[0]} {a[1]}."


class RubricExamples(Examples):
    """Draws (prefix, branches, images)."""

    def __init__(self, tokenizer, seed: int):
        super().__init__(tokenizer, seed)
        self.facts = {self.ids(f" {word}")[0] for word in (*COLOURS, *BACKGROUNDS, *SHAPES, "left", "above", "clean")}

    def broken(self, asked: Scene, names, both: bool = False) -> tuple[Scene, dict[str, int]]:
        """A scene that breaks exactly the named concepts and its faults: colour and shape on one object or, with `both`, on all."""
        rng, faults = self.rng, dict.fromkeys(CONCEPTS, 0)
        objects, relation, background = [list(o) for o in asked.objects], asked.relation, asked.background
        if "background" in names:
            background = rng.choice([b for b in BACKGROUNDS if b != background])
        for concept, part, values in (("colour", 0, COLOURS), ("shape", 1, SHAPES)):
            if concept in names:
                for chosen in rng.sample(objects, 1 if rng.random() < 0.7 and not both else len(objects)):
                    taken = {o[part] for o in [*objects, *asked.objects]} if part == 0 else {chosen[part]}
                    chosen[part] = rng.choice([v for v in values if v not in taken])
                    faults[concept] += 1
        if "placement" in names:
            # With an object changed too, exchanged places could be read as more changed objects.
            if {"colour", "shape"} & set(names) or rng.random() < 0.5:
                relation = "above" if relation == "left of" else "left of"
            else:
                objects.reverse()
        faults |= {name: 1 for name in ("background", "placement", "clean") if name in names}
        return Scene(tuple(tuple(o) for o in objects), relation, background), faults

    def shown(self, asked: Scene, names, spread: float, both: bool = False) -> Shown:
        scene, faults = self.broken(asked, names, both)
        image = render(scene, self.rng, spread)
        return Shown(self.spoil(image) if "clean" in names else image, scene, faults)

    def two(self, kind: str | None = None) -> tuple[Scene, list[Shown]]:
        """A scene and two pictures: "conflict" (each breaks what the other keeps), "one" (one is faultless), "any".

        "heavy" is a conflict in which one picture breaks the colour or the shape of all objects, the other one concept.
        """
        rng = self.rng
        asked = random_scene(rng, two_prob=0.8)
        names = [c for c in CONCEPTS if c != "placement" or asked.relation]
        rng.shuffle(names)
        kind = kind or rng.choices(("conflict", "one", "any"), (6, 2.5, 1.5))[0]
        if kind == "conflict":
            cut = rng.choice((1, 1, 2))
            sets = [names[:cut], names[cut : cut + rng.choice((1, 1, 2))]]
        elif kind == "heavy":
            names.sort(key=lambda name: name not in ("colour", "shape"))
            sets = [names[:1], [rng.choice(names[1:])]]
        elif kind == "one":
            sets = [[], names[: rng.choice((1, 1, 2, 3))]]
        else:
            sets = [rng.sample(names, rng.randint(0, 3)) for _ in range(2)]
        rng.shuffle(sets)
        spread = rng.choice((0.3, 1.0))
        return asked, [self.shown(asked, s, spread, kind == "heavy" and s == names[:1]) for s in sets]

    def prefix(self, asked: Scene, pictures) -> Tokens:
        """Both pictures with the caption after each; the label after the caption's end says whether the picture is clean."""
        tokens = Tokens()
        tokens.add([self.start] + self.ids("user\n"))
        for number, picture in enumerate(pictures, 1):
            tokens.add(self.ids(f"Image {number}: "))
            self.look(tokens, asked, picture)
        return tokens

    def look(self, tokens: Tokens, asked: Scene, picture: Shown) -> None:
        """Appends a picture and its caption; each image token and the caption's end must tell whether the picture is clean.

        An earlier layer must tell at each word of the caption what the picture shows in its stead, for reasons to read it there.
        """
        clean = not picture.faults["clean"]
        tokens.add(self.image_ids)
        told = len(self.image_ids) - 1
        tokens.targets[-told:] = [self.yes if clean else self.no] * told
        tokens.weights[-told:] = [WEIGHT_PATCH] * told
        tokens.add(self.ids(" "))
        ids, after = self.captioned(asked, picture.holds(asked), clean)
        at, instead = len(tokens.ids) + len(self.ids("Caption:")) - 1, picture.seen(asked)
        for number, word in enumerate(caption(asked).split()):
            at += len(self.ids(f" {word}"))
            if number in instead:
                tokens.more.append((at, self.ids(f" {instead[number]}")[0], WEIGHT_SEEN, AFTER_CONCEPT))
        tokens.ids += ids
        tokens.targets += after
        tokens.weights += [1.0] * len(ids)
        tokens.early += [AFTER_CAPTION] * len(ids)

    def close(self, tokens: Tokens, answer: str, weight: float) -> Tokens:
        tokens.add([self.end] + self.ids("\n") + [self.start] + self.ids("assistant\n"))
        tokens.answer(self.ids(answer) + [self.end], weight)
        return tokens

    def rubric(self) -> tuple[list[str], tuple]:
        """Criteria, some of them reworded, and the concepts that they cover. No criteria cover all concepts."""
        rng = self.rng
        draw = rng.random()
        if draw < 0.1:
            return [], (CONCEPTS,)
        if draw < 0.2:
            chosen = list(QUICKSTART)
        else:
            names = rng.sample(CONCEPTS, 5 if draw < 0.3 else rng.choice((1, 1, 2, 2, 3, 4)))
            chosen = sentences(names, rng, rng.choice((0, 0, 0, 0, 0, 3, 5, 10)))
        covers = [COVERS[text] for text in chosen]
        return [varied(text, rng) if draw >= 0.2 else text for text in chosen], tuple(covers)

    def decided(self, pictures, against: int = 0):
        """A rubric (as `rubric`) under which the pictures differ; if possible the picture of the sign `against` loses under it."""
        rng = self.rng
        signs = {name: self.sign(pictures, [name]) for name in CONCEPTS}
        if against and -against in signs.values() and rng.random() < 0.6:
            # All that does not speak for that picture: the whole rubric but for what decided it, or a part of that.
            names = [name for name in CONCEPTS if signs[name] != against]
            if rng.random() < 0.4:
                names = [name for name in names if signs[name] or rng.random() < 0.5]
            chosen = sentences(names, rng, 0)
            return self.phrased(chosen), [COVERS[text] for text in chosen]
        for _ in range(30):
            criteria, covers = self.rubric()
            sign = self.sign(pictures, {name for seen in covers for name in seen})
            if sign and sign != against:
                return criteria, covers
        name = rng.choice([name for name in CONCEPTS if signs[name]])
        return [rng.choice(SENTENCES[name])], [(name,)]

    def whole(self):
        """A rubric (as `rubric`) of all concepts."""
        chosen = list(QUICKSTART) if self.rng.random() < 0.3 else sentences(CONCEPTS, self.rng, 0)
        return chosen, [COVERS[text] for text in chosen]

    def phrased(self, criteria) -> list[str]:
        """The criteria as they are, or in other words, half of the time each."""
        return [varied(text, self.rng) for text in criteria] if self.rng.random() < 0.5 else list(criteria)

    def tied(self, pictures):
        """A rubric (as `rubric`) under which the pictures are equal, or None."""
        rng = self.rng
        equal = [name for name in CONCEPTS if not self.sign(pictures, [name])]
        if not equal or rng.random() < 0.3:
            for _ in range(10):
                names = rng.sample(CONCEPTS, rng.randint(2, 5))
                if not self.sign(pictures, names):
                    break
            else:
                return None
        else:
            names = equal if rng.random() < 0.6 else rng.sample(equal, rng.randint(1, len(equal)))
        chosen = sentences(names, rng, 0)
        return self.phrased(chosen), [COVERS[text] for text in chosen]

    @staticmethod
    def sign(pictures, names) -> int:
        """1 or -1 where the first or the second picture has fewer faults in the named concepts, otherwise 0."""
        first, second = (picture.count(names) for picture in pictures)
        return (first < second) - (first > second)

    def compared(self, tokens: Tokens, text: str, pictures, names) -> None:
        """Appends text about the named concepts with an auxiliary label: "no" difference, or an odd (even) digit for the first (second)."""
        gap = pictures[1].count(names) - pictures[0].count(names)
        label = "no" if not gap else str(2 * gap - 1) if gap > 0 else str(-2 * gap)
        tokens.add(self.ids(text), last=self.ids(label)[0], early=AFTER_CONCEPT)

    def verdict(self, pictures, criteria, covers) -> Tokens:
        """Which picture is better under a rubric; where it does not tell them apart, hardly the one more than the other."""
        tokens = Tokens()
        if criteria:
            tokens.add(self.ids("Rubric:\n"))
        for text, seen in zip(criteria, covers):
            self.compared(tokens, f"- {text}\n", pictures, seen)
        tokens.add(self.ids(QUESTION))
        better = self.sign(pictures, {name for seen in covers for name in seen})
        self.close(tokens, "1" if better >= 0 else "2", WEIGHT_VERDICT)
        if not better:
            at = len(tokens.ids) - 3
            tokens.weights[at] = TIE_FIRST * WEIGHT_VERDICT
            tokens.more.append((at, self.ids("2")[0], (1 - TIE_FIRST) * WEIGHT_VERDICT, 0))
        return tokens

    def comparison(self, tokens: Tokens, text: str, pictures) -> None:
        """Appends a question that begins with `COMPARE`, with a label after each of its concepts."""
        assert text.startswith(rubric_prompt.COMPARE)
        tokens.add(self.ids("Compare"))
        for name in CONCEPTS:
            self.compared(tokens, ("," if name != CONCEPTS[0] else "") + f" {name}", pictures, [name])
        tokens.add(self.ids(".\n"))
        tokens.add(self.ids(text[len(rubric_prompt.COMPARE) :]))

    def explained(self, pictures):
        """A label that something explains: the better picture's number, the concepts that explain it, and the rest, contrary last.

        Within each the order is that of `CONCEPTS`, so that answers are not a matter of chance.
        """
        numbers = [1, 2]
        self.rng.shuffle(numbers)
        for better in numbers:
            good, bad = pictures[better - 1].faults, pictures[2 - better].faults
            deciding = [name for name in CONCEPTS if bad[name] > good[name]]
            if deciding:
                neutral = [name for name in CONCEPTS if bad[name] == good[name]]
                return better, deciding, neutral + [name for name in CONCEPTS if bad[name] < good[name]]
        return None

    def proposal(self, pictures) -> Tokens:
        """Criteria that explain a label, asked for at first or after the judge chose the other picture."""
        rng, found = self.rng, self.explained(pictures)
        better, deciding, others = found
        count = rng.randint(1, 5)
        wanted = [rng.choice(SENTENCES[name][: rng.choice((1, 5))]) for name in (deciding + others)[:count]]
        tokens = Tokens()
        if rng.random() < 0.4:
            tried = sentences(rng.sample(others, min(len(others), rng.randint(1, 3))), rng, 0)
            tokens.add(self.ids("Criteria:\n"))
            for text in tried:
                self.compared(tokens, f"- {text}\n", pictures, COVERS[text])
            tokens.add(self.ids(f"The judge chose image {3 - better}.\n"))
        self.comparison(tokens, rubric_prompt.propose(better, count), pictures)
        self.close(tokens, rubric_prompt.criteria_answer(wanted), WEIGHT_WORD)
        first = len(tokens.ids) - 1 - len(self.ids(rubric_prompt.criteria_answer(wanted)))
        lead = len(self.ids(rubric_prompt.criteria_answer(wanted[:1])))
        tokens.weights[first : first + lead] = [WEIGHT_FIRST] * lead
        return tokens

    def reason(self, asked: Scene, pictures) -> Tokens:
        """The difference that decides, under all concepts or a few."""
        rng = self.rng
        better, deciding, others = self.explained(pictures)
        criteria = []
        if rng.random() < 0.75:
            deciding = sorted(rng.sample(deciding, rng.randint(1, len(deciding))), key=CONCEPTS.index)
            criteria = sentences(deciding + rng.sample(others, rng.randint(0, min(2, len(others)))), rng, 0)
        return self.told(asked, pictures, better, criteria, deciding[0])

    def told(self, asked: Scene, pictures, better: int, criteria, concept: str) -> Tokens:
        """A reason that names a fault of the worse picture in one concept; the words that state it weigh more than the others.

        Of a colour or a shape, an earlier layer must tell before each such word which object it is about, so that the last one can look there.
        """
        tokens = Tokens()
        if criteria:
            tokens.add(self.ids("Rubric:\n"))
        for text in criteria:
            self.compared(tokens, f"- {text}\n", pictures, COVERS[text])
        self.comparison(tokens, rubric_prompt.reason((), better), pictures)
        sentence = difference(asked, pictures[2 - better], 3 - better, concept)
        self.close(tokens, sentence, 1.0)
        told = self.ids(sentence)
        first = len(tokens.ids) - len(told) - 2
        for k, token in enumerate(told):
            if token in self.facts:
                tokens.weights[first + k] = WEIGHT_FACT
                if concept in ("colour", "shape"):
                    number = faulty(asked, pictures[2 - better].scene, concept) + 1
                    tokens.more.append((first + k, self.ids(str(number))[0], WEIGHT_FACT, AFTER_CONCEPT))
        return tokens

    def pair_tree(self):
        """Verdicts on one pair under all concepts, under one, under rubrics that turn the verdict or leave a tie; reasons and a proposal."""
        while True:
            asked, pictures = self.two("heavy" if self.rng.random() < 0.25 else None)
            if self.explained(pictures):
                break
        rng, whole = self.rng, self.sign(pictures, CONCEPTS)
        rubrics = [self.decided(pictures, whole)]
        rubrics.append(self.whole() if rng.random() < 0.85 else ([], [CONCEPTS]))
        if rng.random() < 0.5:
            name = rng.choice([name for name in CONCEPTS if self.sign(pictures, [name])])
            rubrics.append(([rng.choice(SENTENCES[name])], [(name,)]))
        else:
            rubrics.append(self.decided(pictures))
            if rng.random() < 0.3:
                rubrics[-1] = ([detailed(text, asked) if text in COVERS else text for text in rubrics[-1][0]], rubrics[-1][1])
        tied = self.tied(pictures) if whole and rng.random() < 0.5 else None
        rubrics += [tied] if tied else []
        branches = [self.verdict(pictures, *rubric) for rubric in rubrics]
        branches.append(self.reason(asked, pictures))
        branches.append(self.proposal(pictures) if rng.random() < 0.7 else self.reason(asked, pictures))
        return self.prefix(asked, pictures), branches, [picture.image for picture in pictures]

    def questions(self):
        """Yes/no questions about one picture, one after another."""
        rng = self.rng
        asked = random_scene(rng)
        names = [c for c in CONCEPTS if c != "placement" or asked.relation]
        shown = self.shown(asked, rng.sample(names, rng.choice((0, 1, 1, 2, 3))), rng.choice((0.3, 1.0)))
        tokens = Tokens()
        tokens.add([self.start] + self.ids("user\n"))
        self.look(tokens, asked, shown)
        tokens.add(self.ids("Does the image meet each criterion? Answer yes or no.") + [self.end] + self.ids("\n") + [self.start])
        tokens.add(self.ids("assistant\n"))
        for text in rng.sample(list(self.trained), 6):
            tokens.add(self.ids(varied(text, rng)) + self.ids(" "))
            tokens.answer(self.ids("no" if shown.count(COVERS[text]) else "yes"), 1.0)
            tokens.add(self.ids("\n"))
        return tokens, [], [shown.image]

    trained = [text for texts in SENTENCES.values() for text in texts] + list(BOTH)

    def description(self):
        """A picture to describe."""
        asked = random_scene(self.rng)
        tokens = Tokens()
        tokens.add([self.start] + self.ids("user\n") + self.image_ids + self.ids("Describe the image."))
        return self.close(tokens, caption(asked), 1.0), [], [render(asked, self.rng, self.rng.choice((0.3, 1.0)))]
