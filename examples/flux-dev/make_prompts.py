"""Writes prompts.txt and held-out.txt of configs/flux-dev: what FLUX.1-dev is trained and measured on where nobody brings a list.

Each kind asks for something that a judge can see to be there or not: how many, which colour, where, which words, which material, what is
done. Held-out prompts use words that no training prompt has. Same lists for the same Python (`random.Random` of a fixed seed).
"""

import random
from pathlib import Path

NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six"}
# Of each pair of lists the first is for training, the second is held out.
WORDS = {
    "countable": (
        ["apples", "teacups", "candles", "sparrows", "kites", "lemons", "chess pieces", "bicycles", "lanterns", "tulips", "keys", "buttons"],
        ["pears", "umbrellas", "goldfish", "wooden spoons", "balloons"],
    ),
    "surface": (
        ["a wooden table", "a marble counter", "a mossy rock", "a windowsill", "a woven carpet", "wet cobblestones"],
        ["a stone bench", "a piano lid", "dry leaves"],
    ),
    "thing": (
        ["armchair", "suitcase", "teapot", "lighthouse", "rowing boat", "scarf", "vase", "typewriter", "tent", "raincoat", "mailbox", "guitar"],
        ["kettle", "windmill", "armoire", "backpack", "telescope"],
    ),
    "colour": (
        ["red", "yellow", "turquoise", "white", "black", "orange", "violet", "olive green", "pale pink", "navy blue"],
        ["mustard", "crimson", "silver", "mint green"],
    ),
    "material": (
        ["glass", "rusty iron", "origami paper", "polished wood", "knitted wool", "ice", "mosaic tiles", "brass"],
        ["clay", "woven straw", "jade"],
    ),
    "animal": (
        ["fox", "heron", "tortoise", "greyhound", "barn owl", "hedgehog", "goat", "octopus", "tabby cat", "draft horse"],
        ["badger", "pelican", "otter", "donkey"],
    ),
    "person": (
        ["an old fisherman", "a girl in a yellow coat", "a violinist", "a baker", "a mountain guide", "two schoolchildren", "a glassblower", "a dancer in mid leap"],
        ["a watchmaker", "a postwoman", "a choir of four"],
    ),
    "deed": (
        ["mending a net", "reading a letter", "tying a shoelace", "holding up an umbrella", "pouring tea", "laughing at something out of the picture", "counting coins", "waving with the left hand"],
        ["peeling an orange", "pointing at the horizon", "buttoning a cuff"],
    ),
    "place": (
        ["in a harbour at dawn", "on a night train", "in a greenhouse", "under a stone bridge", "in a snowed-in village", "on a rooftop at noon", "in a workshop full of tools", "at the edge of a wheat field"],
        ["in an empty swimming pool", "on a ferry in fog", "in a library after closing"],
    ),
    "style": (
        ["a photograph with a shallow depth of field", "a watercolour with visible paper", "a linocut in two colours", "an oil painting with thick strokes", "a pencil drawing", "a flat vector illustration", "a long exposure at night", "a botanical plate"],
        ["a charcoal sketch", "a stained-glass window", "a macro photograph"],
    ),
    "sign": (
        ["OPEN", "BOOKS", "PLATFORM 3", "SOUP OF THE DAY", "LOST CAT", "NO SWIMMING", "TICKETS", "MIND THE STEP", "FRESH BREAD", "ROOM 12"],
        ["BACK SOON", "PIANO LESSONS", "EXIT", "WET PAINT"],
    ),
    "carrier": (
        ["in white chalk on a blackboard", "in blue neon above a door", "on a hand-painted wooden board", "on a paper pinned to a tree", "in brass letters on a brick wall", "on an enamel plate"],
        ["embroidered on a cushion", "in frost on a window", "on a cardboard box"],
    ),
    "relation": (
        ["to the left of", "to the right of", "on top of", "in front of", "behind", "under"],
        ["inside"],
    ),
}


def article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


class Writer:
    def __init__(self, held_out: bool, seed: int):
        self.held_out, self.random = held_out, random.Random(seed)

    def word(self, kind: str, other_than: str | None = None) -> str:
        return self.random.choice([word for word in WORDS[kind][self.held_out] if word != other_than])

    def count(self) -> str:
        number = self.random.choice(list(NUMBERS))
        return f"{NUMBERS[number]} {self.word('colour')} {self.word('countable')} on {self.word('surface')}"

    def two_counts(self) -> str:
        first = self.word("countable")
        few, many = self.random.sample(list(NUMBERS), 2)
        return f"{NUMBERS[few]} {first} and {NUMBERS[many]} {self.word('countable', first)} on {self.word('surface')}, seen from above"

    def colours(self) -> str:
        first, colour = self.word("thing"), self.word("colour")
        second, other = self.word("thing", first), self.word("colour", colour)
        return f"{article(f'{colour} {first}')} next to {article(f'{other} {second}')}, {self.word('place')}"

    def where(self) -> str:
        first = self.word("thing")
        relation = self.word("relation")
        second = self.word("thing", first)
        if relation == "inside":
            return f"{article(self.word('animal'))} asleep inside {article(second)}, {self.word('style')}"
        return f"{article(first)} {relation} {article(second)}, {self.word('style')}"

    def writing(self) -> str:
        return f"the words {self.word('sign')} written {self.word('carrier')}"

    def material(self) -> str:
        return f"{article(self.word('animal'))} made of {self.word('material')}, on {self.word('surface')}"

    def deed(self) -> str:
        return f"{self.word('person')} {self.word('deed')} {self.word('place')}"

    def style(self) -> str:
        return f"{article(self.word('animal'))} and {article(self.word('thing'))} {self.word('place')}, {self.word('style')}"

    def list(self, count: int) -> list[str]:
        kinds = [self.count, self.two_counts, self.colours, self.where, self.writing, self.material, self.deed, self.style]
        prompts: list[str] = []
        while len(prompts) < count:
            prompt = kinds[len(prompts) % len(kinds)]()
            if prompt not in prompts:
                prompts.append(prompt)
        self.random.shuffle(prompts)
        return prompts


if __name__ == "__main__":
    folder = Path(__file__).parents[2] / "configs" / "flux-dev"
    for name, held_out, count in [("prompts.txt", False, 320), ("held-out.txt", True, 48)]:
        text = "\n".join(Writer(held_out, 7 + held_out).list(count))
        (folder / name).write_text(f"{text}\n", encoding="utf-8")
