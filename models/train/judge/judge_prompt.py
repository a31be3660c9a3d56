"""The small judge's prompt, and its verdict from the logits of the answer tokens "1" and "2" (transformers, float32).

transformers' own processor for Qwen2.5-VL needs torchvision; the patch layout is short enough to be written out here.
"""

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLForConditionalGeneration

CRITERIA = {
    "background": "The background has the stated colour.",
    "object": "Each object has its stated colour and shape.",
    "relation": "The objects are placed as stated.",
    "quality": "The shapes are clean, with nothing extra.",
}
MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)
IMAGE = "<|vision_start|>" + "<|image_pad|>" * 16 + "<|vision_end|>"


QUESTION = "Which image is better, 1 or 2?"


def turn(text):
    """The chat text of one user turn."""
    return f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"


def about_pair(caption, text):
    """The chat text of a question about two images of one caption."""
    return turn(f"Image 1: {IMAGE} Caption: {caption}\nImage 2: {IMAGE} Caption: {caption}\n{text}")


def prompt(caption, criteria=tuple(CRITERIA)):
    """The chat text for two images of one caption under criteria: keys of `CRITERIA`, or sentences."""
    rubric = "Rubric:\n" + "".join(f"- {CRITERIA.get(text, text)}\n" for text in criteria) if criteria else ""
    return about_pair(caption, rubric + QUESTION)


def patches(image, patch=8, merge=2, frames=2):
    """A 64x64 RGB image as (64, 3 * 2 * 8 * 8) patches in merge order, as Qwen2-VL's image processor lays them out."""
    x = ((np.asarray(image.convert("RGB"), np.float32) / 255 - MEAN) / STD).transpose(2, 0, 1)
    x = np.stack([x] * frames)
    side = x.shape[2] // patch
    x = x.reshape(1, frames, 3, side // merge, merge, patch, side // merge, merge, patch)
    return x.transpose(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(side * side, 3 * frames * patch * patch)


class Judge:
    """A Qwen2.5-VL folder that answers which of two images follows a caption better."""

    def __init__(self, path):
        self.model = Qwen2_5_VLForConditionalGeneration.from_pretrained(path).eval()
        self.tokenizer = PreTrainedTokenizerFast.from_pretrained(path)
        self.one, self.two = (self.tokenizer.encode(text, add_special_tokens=False)[0] for text in "12")
        self.image_token = self.tokenizer.convert_tokens_to_ids("<|image_pad|>")

    def inputs(self, texts, images, side="right"):
        """Padded model inputs of chat texts and of their pictures, all in order of appearance."""
        ids = [self.tokenizer.encode(text, add_special_tokens=False) for text in texts]
        longest, pad = max(map(len, ids)), self.tokenizer.pad_token_id
        left = side == "left"
        gaps = [longest - len(i) for i in ids]
        x = torch.tensor([[pad] * g * left + i + [pad] * g * (not left) for i, g in zip(ids, gaps)])
        mask = torch.tensor([[0] * g * left + [1] * len(i) + [0] * g * (not left) for i, g in zip(ids, gaps)])
        inputs = dict(input_ids=x, attention_mask=mask)
        if images:
            inputs |= dict(
                pixel_values=torch.from_numpy(np.concatenate([patches(image) for image in images])),
                image_grid_thw=torch.tensor([[1, 8, 8]] * len(images)),
                mm_token_type_ids=(x == self.image_token).long(),
            )
        return inputs

    @torch.no_grad()
    def prob_first(self, captions, first, second, criteria=tuple(CRITERIA)):
        """Probability (len(captions),) that the first image is better, from the two label logits."""
        return self.prob_first_of([prompt(text, criteria) for text in captions], first, second)

    @torch.no_grad()
    def prob_first_of(self, prompts, first, second):
        """As `prob_first`, for whole chat texts."""
        inputs = self.inputs(prompts, [image for pair in zip(first, second) for image in pair])
        hidden = self.model.model(**inputs).last_hidden_state
        last = self.model.lm_head(hidden[torch.arange(len(prompts)), inputs["attention_mask"].sum(1) - 1])
        return torch.softmax(last[:, [self.one, self.two]], 1)[:, 0].numpy()

    @torch.no_grad()
    def write(self, prompts, images, tokens=400):
        """The greedy answers to chat texts; `images` are all their pictures in order."""
        inputs = self.inputs(prompts, images, side="left")
        out = self.model.generate(**inputs, max_new_tokens=tokens, do_sample=False)
        return self.tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
