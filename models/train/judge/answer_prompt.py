"""The words in which `gavel evaluate` asks a model about one picture, and the answers of the small model that is trained on them.

The sentence stands in `crates/rubric/src/yes_no.rs`. The answer is held to a schema there, so that it is a JSON text: "yes" or "no" with its quotation
marks.
"""

import numpy as np
import torch
from judge.judge_prompt import IMAGE, Judge, turn

INSTRUCTION = "Look at the picture and answer with one word, yes or no."
# Words of the sentence and of the questions that the small judge's tokenizer knows in pieces only, as its pre-tokenizer cuts them.
WORDS = (
    "Look",
    *(f" {w}" for w in "at the picture and answer with one word yes or no Is Are there exactly every shape shapes a an".split()),
    *(f" {w}" for w in "two three four circles squares triangles background left of above".split()),
)


def prompt(question: str) -> str:
    """The chat text of a question about one picture."""
    return turn(f"{IMAGE}{INSTRUCTION} {question}")


def answer(yes: bool) -> str:
    """The answer as the schema has it."""
    return '"yes"' if yes else '"no"'


class Answerer(Judge):
    """A Qwen2.5-VL folder that answers questions about one picture by yes or no."""

    def __init__(self, path):
        super().__init__(path)
        self.model = self.model.float()

    @torch.no_grad()
    def prob_yes(self, questions, images, batch: int = 64) -> np.ndarray:
        """Probability of yes against no, after the quotation mark, of each question about the picture beside it."""
        quote, yes, no = (self.tokenizer.encode(text, add_special_tokens=False)[0] for text in ('"', "yes", "no"))
        found = []
        for at in range(0, len(questions), batch):
            inputs = self.inputs([prompt(text) for text in questions[at : at + batch]], images[at : at + batch], side="right")
            rows, ends = torch.arange(len(inputs["input_ids"])), inputs["attention_mask"].sum(1)
            pad = torch.full((len(rows), 1), self.tokenizer.pad_token_id)
            ids, mask = torch.cat([inputs["input_ids"], pad], 1), torch.cat([inputs["attention_mask"], 0 * pad], 1)
            ids[rows, ends], mask[rows, ends] = quote, 1
            inputs |= dict(input_ids=ids, attention_mask=mask, mm_token_type_ids=(ids == self.image_token).long())
            logits = self.model.lm_head(self.model.model(**inputs).last_hidden_state[rows, ends])
            found.append(torch.softmax(logits[:, [yes, no]], 1)[:, 0].numpy())
        return np.concatenate(found)
