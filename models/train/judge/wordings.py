"""Other wordings of the five concepts, written by small grammars, so that a judge learns what a sentence asks and not the sentence.

In a pattern `{a|b}` stands for one of its alternatives. `FRESH` is never trained: sentences of other forms, of words that are trained.
"""

import random
import re

from judge.criteria import CONCEPTS, COVERS, HELD_OUT, SENTENCES, reworded
from scenes.scene import Scene

STATED = "{as stated|as asked|as named|right|as the caption states|as the caption asks}"
ASKED = "{asked|named|right|stated}"
THINGS = "{objects|shapes}"
EACH = "{Each|Every} {object|shape}"
ALL = "{The|All|These} " + THINGS

PATTERNS = {
    ("background",): (
        f"{{The|This|Its}} background {{has|shows|is of}} {{the|its}} {ASKED} colour.",
        f"{{The|This}} background is {STATED}.",
        f"{{The|Its}} background colour is {STATED}.",
        f"The colour {{behind|around}} {{the|all}} {THINGS} is {STATED}.",
        f"{{The|This|Each}} image {{has|shows}} {{a|its}} background {STATED}.",
        "{The|This} image {has|shows} the {asked|right|named} background{| colour}.",
        f"{{The|All}} {THINGS} are on the {ASKED} background.",
        f"Behind the {THINGS} is the {ASKED} {{background|colour}}.",
        "The background follows {what the caption states|what is stated|this caption}.",
        "The {caption|stated} background is {shown|on the image|there}.",
    ),
    ("colour",): (
        f"{EACH} {{has|shows|is of}} {{its|the}} {ASKED} colour.",
        f"{ALL} {{have|show|are of}} {{the|their}} {ASKED} {{colour|colours}}.",
        f"The colour of {{every|each|an|this}} {{object|shape}} is {STATED}.",
        f"The colours of {{the|all|both}} {THINGS} are {{as asked|right|as named|as the caption states}}.",
        "{Each|Every} {object|shape} is coloured {as stated|as asked|as the caption states}.",
        f"{ALL} are coloured {{as stated|as asked|as named}}.",
        "{No|Not one} {object|shape} has a wrong colour.",
        f"The caption states {{each|the}} colour of {{the|all}} {THINGS}.",
        f"{{Both|All}} colours of {THINGS} are {STATED}.",
    ),
    ("shape",): (
        f"{EACH} {{has|shows|is of}} {{its|the}} {ASKED} shape.",
        f"{{The|All|These}} objects {{have|show|are of}} {{the|their}} {ASKED} {{shape|shapes}}.",
        f"The shape of {{every|each|an|this}} object is {STATED}.",
        "The shapes of {all|both|these} objects are {as stated|as asked|right|as the caption states}.",
        f"{{All|Both|These}} shapes are {STATED}.",
        "{Each|Every} object is shaped {as stated|as asked|as the caption states}.",
        "{The|All} objects are shaped {as stated|as asked|as named}.",
        "{No|Not one} object has a wrong shape.",
        f"{{Each|Every}} shape is {STATED}.",
    ),
    ("placement",): (
        f"{ALL} are placed {{as asked|as named|right|as the caption states|as the caption asks}}.",
        "{Each|Every|No other} {object|shape} is placed {as asked|right|where it is stated}.",
        f"{ALL} {{are|stand}} {{where the caption states|in the stated place|in the right place|left of or above as asked}}.",
        f"The {{place|placement}} of {{the|both|all|every}} {{object|objects|shapes}} is {STATED}.",
        "{No|Not one} {object|shape} is {in a wrong place|placed wrong}.",
        "{Each|Every} {object|shape} is {in the right place|in its stated place|left of or above as stated}.",
        "{Left of or above|What is left of or above} is as {stated|asked}.",
        f"{{The|Both}} {THINGS} are in the stated places.",
    ),
    ("clean",): (
        "{This|Each} image is clean{|, with nothing extra|, with no extra shapes}.",
        "{The|This} image {has|shows} {no extra shapes|no extra objects|nothing else|nothing more than stated}.",
        "{There is nothing extra|Nothing extra is there|Nothing extra is shown}{| on the image}.",
        "No extra {object|objects|shape|shapes} {is|are} {shown|there|on the image}.",
        "{Every|This} {object|shape} is clean{|, with nothing extra}.",
        f"{{All|These|Both}} {THINGS} are clean{{|, with nothing extra}}.",
        "The image is {clean, with nothing extra|clean and has nothing extra|not blurred|sharp}.",
        f"{{The|All}} {THINGS} are {{sharp|drawn clean|clean and sharp}}.",
    ),
    ("colour", "shape"): (
        f"{{Each|Every}} object has its {ASKED} colour and {{shape|its shape}}.",
        f"{{Each|Every}} object has its {ASKED} shape and colour.",
        f"{{The|All}} objects have the {ASKED} {{colours and shapes|shapes and colours}}.",
        f"{{Colour and shape|Shape and colour|The colour and shape}} of {{each|every}} object are {STATED}.",
        f"{{Each|Every}} object is {STATED}.",
    ),
}  # fmt: skip
FRESH = {
    "background": "All around the objects the image has the colour that the caption states.",
    "colour": "What the caption states of colour is right of each object.",
    "shape": "What the caption states of shape is right of each object.",
    "placement": "One object is left of or above the other, as is stated.",
    "clean": "Each object is sharp and clean and there is no other shape.",
}
_CHOICE = re.compile(r"\{([^{}]*)\}")
_NEVER = {*HELD_OUT.values(), *FRESH.values()}


def worded(seen: tuple[str, ...], rng: random.Random) -> str:
    """A sentence that asks for the concepts `seen`: a key of `PATTERNS`. None of the held-out ones."""
    while True:
        text = _CHOICE.sub(lambda found: rng.choice(found[1].split("|")), rng.choice(PATTERNS[seen]))
        if text not in _NEVER:
            return text


def varied(text: str, rng: random.Random) -> str:
    """A trained sentence, or a clumsy variant of it, or another wording of what it asks for."""
    draw = rng.random()
    if draw < 0.6:
        return text
    return worded(COVERS[text], rng) if draw < 0.85 else reworded(text, rng)


def detailed(text: str, asked: Scene) -> str:
    """A trained sentence with what the caption says of it at its end, as `scenes/make_graded_prompts.py` writes them; "clean" has nothing to add."""
    concepts = COVERS[text]
    part = {("colour",): slice(0, 1), ("shape",): slice(1, 2), ("colour", "shape"): slice(0, 2)}.get(concepts)
    if part:
        said = " and ".join(" ".join(thing[part]) for thing in asked.objects)
    elif concepts == ("background",):
        said = asked.background
    elif concepts == ("placement",) and asked.relation:
        said = f" {asked.relation} ".join(" ".join(thing) for thing in asked.objects)
    else:
        return text
    return f"{text.removesuffix('.')}, {said}."


assert all(key == (name,) for key, name in zip(PATTERNS, CONCEPTS)) and set(SENTENCES) == set(FRESH)
