"""Training examples of lists of criteria that are to be grouped into themes."""

import json

from judge import rubric_prompt
from judge.criteria import BOTH, CONCEPTS, COVERS, SENTENCES, grouped, sentences
from judge.rubric_examples import AFTER_CAPTION, AFTER_CONCEPT, RubricExamples, Tokens
from judge.wordings import varied

LIST_MAX = 12  # criteria in one list
WEIGHT_NAME = 1.0  # of the labels that name a sentence
# The trained sentences in the order in which a theme lists them, and the tokens that stand for them, in labels alone.
ORDERED = [t for name, texts in SENTENCES.items() for t in (*texts, *(BOTH if name == "colour" else ()))]
SENTENCE_NAMES = "abcdefghijklmnopqrstuvwxyzA"


class GroupingExamples(RubricExamples):
    """Adds lists to the examples of pairs."""

    def __init__(self, tokenizer, seed: int):
        super().__init__(tokenizer, seed)
        self.names = {text: self.ids(name)[0] for text, name in zip(ORDERED, SENTENCE_NAMES, strict=True)}

    def structure(self):
        """A list of criteria to group; no picture. Labels name each criterion's concept, and which of the trained sentences it is.

        A theme lists the trained sentences in one order, whatever the list's is, and others after them.
        """
        rng = self.rng
        names = rng.sample(CONCEPTS, rng.choice((1, 2, 3, 4, 5, 5)))
        longest = rng.choice((4, 8, LIST_MAX, LIST_MAX))
        chosen = sentences(names, rng, rng.randint(1, longest))[:LIST_MAX]
        other, known = rng.random() < 0.12, {}
        for text in chosen:
            known.setdefault(varied(text, rng) if other else text, COVERS[text])
        tokens, starts, themes = Tokens(), [], rng.randint(1, 5)
        tokens.add([self.start] + self.ids("user\nCriteria:\n"))
        for text, seen in known.items():
            starts.append(len(tokens.ids))
            concept = self.ids("Object" if len(seen) > 1 else f" {seen[0]}")[0]
            tokens.add(self.ids(f"- {text}\n"), last=concept, early=0 if text in self.names else AFTER_CAPTION)
            if text in self.names:
                tokens.more.append((len(tokens.ids) - 1, self.names[text], WEIGHT_NAME, AFTER_CAPTION))
        tokens.add(self.ids(rubric_prompt.structure((), themes).removeprefix("Criteria:\n")))
        ordered = sorted(known, key=lambda text: ORDERED.index(text) if text in ORDERED else len(ORDERED))
        groups = grouped(ordered, [known[text] for text in ordered], themes)
        answer = rubric_prompt.themes_answer(groups)
        self.close(tokens, answer, 1.0)
        self.copied(tokens, dict(zip(known, starts)), answer, groups)
        return tokens, [], []

    def copied(self, tokens: Tokens, starts: dict[str, int], answer: str, groups) -> None:
        """Marks where each token of a criterion in `answer`, the last thing that `tokens` say, comes from, and before it which sentence comes."""
        offsets = self.tokenizer(answer, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        first, none = len(tokens.ids) - len(offsets) - 2, self.no
        for _, tips in groups:
            for text, after in zip(tips, [*tips[1:], None]):
                begin = answer.index(json.dumps(text)) + 1
                lines = self.tokenizer(f"- {text}\n", add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
                inside = [k for k, (at, _) in enumerate(offsets) if begin <= at < begin + len(text)]
                for k in inside:
                    source = max(j for j, (a, _) in enumerate(lines) if a <= offsets[k][0] - begin + 2)
                    tokens.copies.append((first + k, starts[text] + source))
                marks = [(inside[0], text), *((k, text) for k in inside[1:4]), (inside[-1] + 2, after)]
                for k, named in marks:
                    name = none if named is None else self.names.get(named)
                    if name is not None:
                        tokens.more.append((first + k, name, WEIGHT_NAME, AFTER_CONCEPT))
