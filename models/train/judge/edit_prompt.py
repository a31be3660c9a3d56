"""The small judge of edits: its words, its tokenizer, and its verdict from the logits of the answer tokens "1" and "2".

The instruction stands before the pictures, so that each image token can tell whether its part of the picture is as it should be.
The three pictures follow at fixed distances, so that a candidate's token finds the source's token of the same place. Then the
instruction is repeated for each candidate. `configs/judge/small-edit.toml` holds the same words.
"""

import json

import numpy as np
import torch
from judge.judge_prompt import IMAGE, QUESTION, Judge, turn
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

SENTENCES = {
    "edit": (
        "The instruction is carried out.",
        "The instruction is followed.",
        "The edit is as the instruction states.",
        "The edit follows the instruction.",
    ),
    "rest": (
        "The rest is as in the source.",
        "All else is as in the source.",
        "The rest of the source is kept.",
        "Nothing else has changed.",
    ),
}
HELD_OUT = {"edit": "The image follows the instruction.", "rest": "The rest has not changed."}  # never trained
CONCEPTS = tuple(SENTENCES)
QUICKSTART = tuple(texts[0] for texts in SENTENCES.values())  # the rubric of configs/quickstart-edit
# Words of the instructions and of this prompt that the first judge's tokenizer knows in pieces only, as its pre-tokenizer cuts them.
WORDS = (
    *"Instruction Source".split(),
    *(f" {w}" for w in "make remove add replace with a on at the left right top bottom All Nothing".split()),
    *(f" {w}" for w in "instruction carried out followed edit follows rest in source else kept changed not of".split()),
)


def prompt(instruction: str, criteria=QUICKSTART) -> str:
    """The chat text for a source and two edits of it under criteria."""
    rubric = "Rubric:\n" + "".join(f"- {text}\n" for text in criteria) if criteria else ""
    return turn(
        f"Instruction: {instruction}\nSource: {IMAGE}\nImage 1: {IMAGE}\nImage 2: {IMAGE}\n"
        f"Image 1: {instruction}\nImage 2: {instruction}\n{rubric}{QUESTION}"
    )


def extended(tokenizer: PreTrainedTokenizerFast, words=WORDS) -> tuple[PreTrainedTokenizerFast, list[list[int]]]:
    """The tokenizer with a token for each of `words`, and for each of its ids the old ids that it is made of.

    New merges come after the old ones; the special tokens stay last, under higher ids.
    """
    layout = json.loads(tokenizer.backend_tokenizer.to_str())
    vocab, merges, special = layout["model"]["vocab"], layout["model"]["merges"], layout["added_tokens"]
    made_of = [[index] for index in range(len(vocab))]
    layout["added_tokens"] = []
    for word in words:
        tokens = Tokenizer.from_str(json.dumps(layout)).encode(word, add_special_tokens=False).tokens
        while len(tokens) > 1:
            joined = "".join(tokens[:2])
            merges.append(tokens[:2])
            made_of.append([old for token in tokens[:2] for old in made_of[vocab[token]]])
            vocab[joined] = len(made_of) - 1
            tokens = [joined, *tokens[2:]]
    for token in special:
        made_of.append([token["id"]])
        token["id"] = len(made_of) - 1
    layout["added_tokens"] = special
    result = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(layout)), eos_token="<|im_end|>", pad_token="<|endoftext|>",
        model_max_length=2048, extra_special_tokens={"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"},
    )  # fmt: skip
    result.chat_template = tokenizer.chat_template
    return result, made_of


class EditJudge(Judge):
    """A Qwen2.5-VL folder that answers which of two edits of a source is better."""

    def __init__(self, path):
        super().__init__(path)
        self.model = self.model.float()

    def prob_first(self, instructions, sources, first, second, criteria=QUICKSTART, batch: int = 50) -> np.ndarray:
        """Probability (len(instructions),) that the first image is better; `criteria` are those of all, or a list for each."""
        if not criteria or isinstance(criteria[0], str):
            criteria = [criteria] * len(instructions)
        texts = [prompt(text, rubric) for text, rubric in zip(instructions, criteria)]
        found = []
        for at in range(0, len(texts), batch):
            part = slice(at, at + batch)
            images = [image for three in zip(sources[part], first[part], second[part]) for image in three]
            found.append(self._label_probabilities(texts[part], images))
        return np.concatenate(found)

    @torch.no_grad()
    def _label_probabilities(self, texts, images) -> np.ndarray:
        inputs = self.inputs(texts, images)
        hidden = self.model.model(**inputs).last_hidden_state
        last = self.model.lm_head(hidden[torch.arange(len(texts)), inputs["attention_mask"].sum(1) - 1])
        return torch.softmax(last[:, [self.one, self.two]], 1)[:, 0].numpy()

    def verdicts(self, instructions, sources, first, second, criteria=QUICKSTART) -> list[int | None]:
        """0 or 1 for the better image, None where the two orders disagree."""
        p = self.prob_first(instructions, sources, first, second, criteria)
        q = self.prob_first(instructions, sources, second, first, criteria)
        return [int(a <= 0.5) if (a > 0.5) == (b <= 0.5) else None for a, b in zip(p, q)]
