"""Questions about one picture that its caption's scene answers by yes, made from the caption's words by rule, and the facts that answer them."""

from dataclasses import dataclass

from scenes.scene import NUMBERS, Scene

KINDS = ("background", "colour", "existence", "count", "relation", "extra")


@dataclass(frozen=True)
class Question:
    """A question, its kind, the numbers of those that it needs, and the facts of `scenes.scene.check` that all hold where the answer is yes."""

    text: str
    kind: str
    needs: tuple[int, ...]
    facts: tuple[str, ...]

    def holds(self, facts: dict) -> bool:
        return all(facts[name] for name in self.facts)

    def record(self) -> dict:
        """The form of a prompt's field `questions`."""
        needs = {"needs": list(self.needs)} if self.needs else {}
        return {"question": self.text, "kind": self.kind} | needs


def one(words: str) -> str:
    """The words with their article."""
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def questions(scene: Scene) -> list[Question]:
    """One for each fact of a caption but that shapes are asked for with their colour: existence."""
    several, colours = scene.count > 1, [colour for colour, _ in scene.objects]
    is_there = (lambda words: f"Are there {words}s?") if several else (lambda words: f"Is there {one(words)}?")
    asked = [Question(f"Is the background {scene.background}?", "background", (), ("background",))]
    asked += [Question(is_there(f"{colour} shape"), "colour", (), (f"colour{i}",)) for i, colour in enumerate(colours)]
    asked += [
        Question(is_there(f"{colour} {shape}"), "existence", (1 + i,), (f"colour{i}", f"shape{i}"))
        for i, (colour, shape) in enumerate(scene.objects)
    ]
    if several:
        asked.append(Question(f"Are there exactly {NUMBERS[scene.count]} {colours[0]} shapes?", "count", (1,), ("count",)))
    if scene.relation:
        first, second = (f"the {colour} {shape}" for colour, shape in scene.objects)
        asked.append(Question(f"Is {first} {scene.relation} {second}?", "relation", (1, 2), ("relation",)))
    asked.append(Question(f"Is every shape {' or '.join(colours)}?", "extra", (), ("no_extra",)))
    return asked
