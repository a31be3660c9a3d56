"""What a rubric of the small world can ask: five concepts, each in several short sentences, and their grouping into themes.

The first sentence of a concept comes from `judge_prompt.CRITERIA` where that has one. Sentences in `HELD_OUT` are never trained.
"""

import random

SENTENCES = {
    "background": (
        "The background has the stated colour.",
        "The background is as stated.",
        "The colour of the background is as stated.",
        "The image has the stated background.",
        "The background follows the caption.",
    ),
    "colour": (
        "Each object has its stated colour.",
        "The objects have the stated colours.",
        "The colour of each object is as stated.",
        "Each shape has the stated colour.",
        "The colours of the objects follow the caption.",
    ),
    "shape": (
        "Each object has its stated shape.",
        "The objects have the stated shapes.",
        "The shape of each object is as stated.",
        "The shapes are as stated.",
        "The shapes follow the caption.",
    ),
    "placement": (
        "The objects are placed as stated.",
        "The shapes are placed as stated.",
        "Each object is placed as the caption states.",
        "The place of each object is as stated.",
        "The objects are left of or above as stated.",
    ),
    "clean": (
        "The shapes are clean, with nothing extra.",
        "The image is clean.",
        "The image has nothing extra.",
        "Each shape is clean.",
        "The image is clean, with no extra shapes.",
    ),
}
BOTH = ("Each object has its stated colour and shape.", "The objects have the stated colour and shape.")  # colour and shape
HELD_OUT = {
    "background": "The image has the stated background colour.",
    "colour": "The colours of the shapes are as stated.",
    "shape": "The shapes of the objects are as stated.",
    "placement": "Each shape is placed as stated.",
    "clean": "The objects are clean, with nothing extra.",
}
CONCEPTS = tuple(SENTENCES)
COVERS = {text: (name,) for name, texts in SENTENCES.items() for text in texts}
COVERS |= {text: ("colour", "shape") for text in BOTH}
COVERS |= {text: (name,) for name, text in HELD_OUT.items()}

# From fine to coarse: names of themes and the concepts that they hold.
THEMES = (
    {"Background": ("background",), "Colour": ("colour",), "Shape": ("shape",), "Placement": ("placement",), "Clean": ("clean",)},
    {"Background": ("background",), "Object": ("colour", "shape"), "Placement": ("placement",), "Clean": ("clean",)},
    {"Background": ("background",), "Object": ("colour", "shape", "placement"), "Clean": ("clean",)},
    {"Background": ("background",), "Object": ("colour", "shape", "placement", "clean")},
    {"Image": CONCEPTS},
)
NEUTRAL = "the The stated each Each as is its this".split()


def grouped(criteria, covers, themes: int) -> list[tuple[str, list[str]]]:
    """The criteria by theme, in the finest grouping with at most `themes` themes; a sentence for two concepts is never split."""
    for level in THEMES:
        holds = {name: [c for c, seen in zip(criteria, covers) if set(seen) <= set(held)] for name, held in level.items()}
        found = [(name, texts) for name, texts in holds.items() if texts]
        if len(found) <= themes and sum(len(texts) for _, texts in found) == len(criteria):
            return found
    raise ValueError("at least one theme is needed")


def reworded(text: str, rng: random.Random) -> str:
    """A clumsy variant with the same meaning: a neutral word more, less or exchanged, so that sentences cannot be learnt by heart."""
    words = text.split()
    for _ in range(rng.randint(1, 2)):
        at = rng.randrange(len(words) - 1)
        neutral = words[at] in NEUTRAL
        action = rng.randrange(3)
        if action == 0 and len(words) < 11:
            words.insert(at + 1, rng.choice(NEUTRAL).lower())
        elif action == 1 and neutral and at > 0:
            del words[at]
        elif neutral and at > 0:
            words[at] = rng.choice(NEUTRAL).lower()
    return " ".join(words)


def sentences(names, rng: random.Random, count: int) -> list[str]:
    """`count` different trained sentences in random order that cover every named concept and no other."""
    pool = [text for name in names for text in SENTENCES[name]] + (list(BOTH) if {"colour", "shape"} <= set(names) else [])
    chosen = [] if {"colour", "shape"} - set(names) or rng.random() < 0.6 else [rng.choice(BOTH)]
    covered = {name for text in chosen for name in COVERS[text]}
    chosen += [rng.choice(SENTENCES[name]) for name in names if name not in covered]
    rest = [text for text in pool if text not in chosen]
    chosen += rng.sample(rest, max(0, min(count - len(chosen), len(rest))))
    rng.shuffle(chosen)
    return chosen
