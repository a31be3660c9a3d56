"""Training examples of the small judge: captions, per-criterion yes/no questions, and pairs under a rubric.

Labels come from the scene specifications, never from the pixel checker. Every caption word that states a fact carries an
auxiliary label after it: does this word hold for the image before it?
"""

import random

import numpy as np
from judge.judge_prompt import CRITERIA, QUESTION
from PIL import Image, ImageDraw, ImageFilter
from scenes.scene import BACKGROUNDS, COLOURS, SHAPES, Scene, caption, random_scene, render

IGNORE = -100


def swapped(asked: Scene, shown: Scene) -> bool:
    """Whether the shown scene has the asked objects with their places exchanged."""
    same = len(shown.objects) == 2 and set(asked.objects) == set(shown.objects)
    return asked.relation is not None and same and asked.objects != shown.objects


def faults(asked: Scene, shown: Scene, spoiled: bool) -> dict[str, int]:
    """Number of faults of a picture of `shown` against the caption of `asked`, by criterion."""
    turned = swapped(asked, shown)
    pairs = [] if turned else list(zip(asked.objects, shown.objects))
    return {
        "background": int(asked.background != shown.background),
        "object": sum((a[0] != b[0]) + (a[1] != b[1]) for a, b in pairs),
        "relation": int(asked.relation is not None and (asked.relation != shown.relation or turned)),
        "quality": int(spoiled),
    }


def rubric(names) -> str:
    return "Rubric:\n" + "".join(f"- {CRITERIA[name]}\n" for name in names) if names else ""


def holding(asked: Scene, shown: Scene) -> dict[int, bool]:
    """For the caption's words that state a fact, by their numbers: whether it holds for the shown scene."""
    words, turned, holds = caption(asked).split(), swapped(asked, shown), {}
    relation_at = next((words.index(w) for w in ("of", "above") if w in words), None)
    for i, (colour, shape) in enumerate(asked.objects):
        at = 1 if i == 0 else relation_at + 2
        holds[at] = turned or shown.objects[i][0] == colour
        holds[at + 1] = turned or shown.objects[i][1] == shape
    if asked.relation:
        holds[relation_at] = asked.relation == shown.relation and not turned
    holds[len(words) - 2] = asked.background == shown.background
    return holds


class Examples:
    """Draws examples as (token ids, labels, images)."""

    def __init__(self, tokenizer, seed: int):
        self.tokenizer, self.rng, self.noise = tokenizer, random.Random(seed), np.random.default_rng(seed)
        self.yes, self.no = self.ids("yes")[0], self.ids("no")[0]
        image = tokenizer.convert_tokens_to_ids(["<|vision_start|>", "<|image_pad|>", "<|vision_end|>"])
        self.image_ids = [image[0]] + [image[1]] * 16 + [image[2]]
        self.start, self.end = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])

    def ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def mutate(self, scene: Scene) -> Scene:
        """A scene that breaks one to three stated facts."""
        rng = self.rng
        while True:
            objects, relation, background = [list(o) for o in scene.objects], scene.relation, scene.background
            for _ in range(rng.choice((1, 1, 1, 2, 3))):
                kind, chosen = rng.choice(("background", "colour", "shape", "relation", "swap")), rng.choice(objects)
                if kind == "background":
                    background = rng.choice([b for b in BACKGROUNDS if b != background])
                elif kind == "colour":
                    chosen[0] = rng.choice([c for c in COLOURS if c not in {o[0] for o in objects}])
                elif kind == "shape":
                    chosen[1] = rng.choice([s for s in SHAPES if s != chosen[1]])
                elif kind == "relation" and relation:
                    relation = "above" if relation == "left of" else "left of"
                elif kind == "swap" and relation:
                    objects.reverse()
            mutant = Scene(tuple(tuple(o) for o in objects), relation, background)
            if mutant != scene:
                return mutant

    def spoil(self, image: Image.Image) -> Image.Image:
        """A quality fault that keeps the scene: blur, noise, or a stray blob."""
        kind, rng = self.rng.randrange(3), self.rng
        if kind == 0:
            return image.filter(ImageFilter.GaussianBlur(rng.uniform(2, 4)))
        if kind == 1:
            x = np.asarray(image, np.float32)
            return Image.fromarray(np.clip(x + self.noise.normal(0, rng.uniform(25, 60), x.shape), 0, 255).astype(np.uint8))
        image = image.copy()
        x, y = rng.randrange(50), rng.randrange(50)
        colour = rng.choice(list(COLOURS.values()))
        ImageDraw.Draw(image).ellipse([x, y, x + rng.randrange(6, 14), y + rng.randrange(6, 14)], fill=colour)
        return image

    def picture(self, scene: Scene, spoil_share: float):
        """A picture of a scene and whether it was spoiled."""
        spoiled, image = self.rng.random() < spoil_share, render(scene, self.rng)
        return (self.spoil(image) if spoiled else image), spoiled

    def captioned(self, asked: Scene, holds: dict[int, bool], verdict: bool | None):
        """Ids of "Caption: ...", and per id the label of the answer that follows it (or IGNORE); `holds` as `holding` gives it."""
        ids = self.ids("Caption:")
        after = [IGNORE] * len(ids)
        for k, word in enumerate(caption(asked).split()):
            piece = self.ids(" " + word)
            ids += piece
            after += [IGNORE] * (len(piece) - 1) + [IGNORE if k not in holds else self.yes if holds[k] else self.no]
        piece = self.ids("\n")
        ids += piece
        after += [IGNORE] * (len(piece) - 1) + [IGNORE if verdict is None else self.yes if verdict else self.no]
        return ids, after

    def chat(self, parts, answer: str | None):
        """One user turn of text, images and captioned scenes, then the answer, which alone is a label beside the auxiliary ones."""
        ids, images, auxiliary = [self.start] + self.ids("user\n"), [], {}
        for part in parts:
            if isinstance(part, str):
                ids += self.ids(part)
            elif isinstance(part, tuple):
                asked, shown, verdict = part
                piece, after = self.captioned(asked, holding(asked, shown), verdict)
                auxiliary |= {len(ids) + k + 1: label for k, label in enumerate(after) if label != IGNORE}
                ids += piece
            else:
                ids += self.image_ids
                images.append(part)
        ids += [self.end] + self.ids("\n") + [self.start] + self.ids("assistant\n")
        labels = [auxiliary.get(k, IGNORE) for k in range(len(ids))]
        tail = [] if answer is None else self.ids(answer) + [self.end]
        return ids + tail, labels + tail, images

    def pair(self):
        """A scene, criteria, and two pictures (image, scene, faults) with unequal faults under the criteria, the better one first."""
        rng = self.rng
        draw, names = rng.random(), list(CRITERIA)
        if draw >= 0.65:
            names = [] if draw < 0.75 else rng.sample(names, rng.randint(1, 3))
        rng.shuffle(names)
        while True:
            asked = random_scene(rng)
            if names == ["relation"] and asked.relation is None:
                continue
            candidates = []
            for _ in range(2):
                shown = asked if rng.random() < 0.45 else self.mutate(asked)
                if shown is not asked and rng.random() < 0.2:
                    shown = self.mutate(shown)
                image, spoiled = self.picture(shown, 0.15)
                found = faults(asked, shown, spoiled)
                candidates.append((image, shown, sum(found[name] for name in names or CRITERIA)))
            if candidates[0][2] != candidates[1][2]:
                return asked, names, *sorted(candidates, key=lambda c: c[2])

    def pair_parts(self, asked, names, first, second):
        """The parts of a pair question."""
        return [
            "Image 1: ", first[0], " ", (asked, first[1], first[2] == 0),
            "Image 2: ", second[0], " ", (asked, second[1], second[2] == 0), rubric(names), QUESTION,
        ]  # fmt: skip

    def draw(self, kind: str):
        """One example of kind "caption", "yesno" or "pair"."""
        rng, asked = self.rng, random_scene(self.rng)
        if kind == "caption":
            return self.chat([render(asked, rng), "Describe the image."], caption(asked))
        if kind == "pair":
            asked, names, better, worse = self.pair()
            if rng.random() < 0.5:
                return self.chat(self.pair_parts(asked, names, better, worse), "1")
            return self.chat(self.pair_parts(asked, names, worse, better), "2")
        shown = self.mutate(asked) if rng.random() < 0.65 else asked
        image, spoiled = self.picture(shown, 0.2)
        found = faults(asked, shown, spoiled)
        ids, labels, images = self.chat(
            [image, " ", (asked, shown, None), "Does the image meet each criterion? Answer yes or no."], None
        )
        for name in rng.sample(list(CRITERIA), 4):
            question, answer, line = self.ids(CRITERIA[name] + " "), self.ids("no" if found[name] else "yes"), self.ids("\n")
            ids += question + answer + line
            labels += [IGNORE] * len(question) + answer + [IGNORE] * len(line)
        return ids, labels, images
