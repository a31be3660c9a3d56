"""Golden tensors for Qwen2.5-VL: `python tests/golden/judge.py` from the repository root.

Writes `tests/golden/judge/<case>/`: conversations, images, the token ids and the last position's logits of transformers in
float32, and for the random cases the model folder too. Images are turned to patches by Pillow and numpy, because
transformers' processor needs torchvision. Deterministic; the versions of the libraries stand in each file's metadata.
"""
import json
import math
import pathlib
import shutil

import numpy as np
import PIL
import torch
import transformers
from PIL import Image
from safetensors.torch import save_file
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from encoders import ROOT, randomize, rename, shard

OUT = pathlib.Path(__file__).resolve().parent / "judge"
SHIPPED = ROOT / "models" / "tiny-judge"
VERSIONS = {"torch": torch.__version__, "transformers": transformers.__version__, "pillow": PIL.__version__}
TOKENIZER = PreTrainedTokenizerFast.from_pretrained(SHIPPED)
IMAGE_PAD = TOKENIZER.convert_tokens_to_ids("<|image_pad|>")


def smart_resize(height, width, factor, low, high):
    h, w = round(height / factor) * factor, round(width / factor) * factor
    if h * w > high:
        beta = math.sqrt(height * width / high)
        return max(factor, math.floor(height / beta / factor) * factor), max(factor, math.floor(width / beta / factor) * factor)
    if h * w < low:
        beta = math.sqrt(low / (height * width))
        return math.ceil(height * beta / factor) * factor, math.ceil(width * beta / factor) * factor
    return h, w


def patches(pixels, settings):
    """(height, width, 3) bytes -> (patches, 3 * 2 * patch * patch) in merge order, and the grid."""
    p, m, t = settings["patch_size"], settings["merge_size"], settings["temporal_patch_size"]
    height, width = smart_resize(*pixels.shape[:2], p * m, settings["min_pixels"], settings["max_pixels"])
    image = Image.fromarray(pixels)
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    mean, std = (np.array(settings[key], np.float32) for key in ("image_mean", "image_std"))
    x = ((np.asarray(image, np.float32) * np.float32(settings["rescale_factor"]) - mean) / std).transpose(2, 0, 1)
    rows, columns = height // p, width // p
    x = np.stack([x] * t).reshape(1, t, 3, rows // m, m, p, columns // m, m, p).transpose(0, 3, 6, 4, 7, 2, 1, 5, 8)
    return torch.from_numpy(x.reshape(rows * columns, -1).copy()), [1, rows, columns]


def picture(seed, height, width):
    """Soft random colours, so that resizing matters but does not alias."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BILINEAR))


def model_inputs(messages, chosen, images, settings, prompt=None):
    """Token ids and patches of one conversation, as keyword arguments; its prompt must be `prompt`, if that is given."""
    text = TOKENIZER.apply_chat_template(messages, tokenize=False, add_generation_prompt=True,
                                         chat_template=(SHIPPED / "chat_template.jinja").read_text())
    inputs = [patches(images[j], settings) for j in chosen]
    for _, (_, rows, columns) in inputs:
        count = rows * columns // settings["merge_size"] ** 2
        text = text.replace("<|image_pad|>", "<|place|>" * count, 1)
    text = text.replace("<|place|>", "<|image_pad|>")
    if prompt:
        assert text == prompt, "the shipped chat template does not give the prompt that the judge was trained on"
    ids = torch.tensor([TOKENIZER.encode(text, add_special_tokens=False)])
    vision = dict(pixel_values=torch.cat([x for x, _ in inputs]), image_grid_thw=torch.tensor([g for _, g in inputs]),
                  mm_token_type_ids=(ids == IMAGE_PAD).long()) if inputs else {}
    return dict(input_ids=ids, attention_mask=torch.ones_like(ids), **vision)


@torch.no_grad()
def expected(case, folder, images, conversations, prompts=None):
    """Runs each conversation, (messages, image indices), alone."""
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    tensors = {f"image.{i}": torch.from_numpy(image.copy()) for i, image in enumerate(images)}
    for i, (messages, chosen) in enumerate(conversations):
        inputs = model_inputs(messages, chosen, images, settings, prompts and prompts[i])
        tensors |= {f"ids.{i}": inputs["input_ids"][0], f"logits.{i}": model(**inputs).logits[0, -1]}
    (OUT / case).mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in tensors.items()}, OUT / case / "expected.safetensors", metadata=VERSIONS)
    spec = [{"messages": messages, "images": chosen} for messages, chosen in conversations]
    (OUT / case / "conversations.json").write_text(json.dumps(spec, indent=1))


def user(*parts):
    content = [{"type": "image"} if part is None else {"type": "text", "text": part} for part in parts]
    return {"role": "user", "content": content}


def shipped():
    """The judge that the project ships, asked in its own words about pictures of its own size."""
    import sys
    # Its folder itself: as a package it would have the name of this file.
    sys.path.insert(0, str(ROOT / "models" / "train" / "judge"))
    import judge_prompt
    captions = ["a red circle on a blue background", "a green square left of a yellow triangle on a white background"]
    conversations, prompts = [], []
    for caption, names in ((captions[0], tuple(judge_prompt.CRITERIA)), (captions[1], ())):
        whole = judge_prompt.prompt(caption, names)
        head, middle, tail = whole.removeprefix("<|im_start|>user\n").split(judge_prompt.IMAGE)
        tail = tail.removesuffix("<|im_end|>\n<|im_start|>assistant\n")
        for order in ([0, 1], [1, 0]):
            conversations.append(([user(head, None, middle, None, tail)], order))
            prompts.append(whole)
    expected("tiny-judge", SHIPPED, [picture(1, 64, 64), picture(2, 64, 64)], conversations, prompts)


def random(case, seed, vision, text, settings, images, conversations, tie, nested_keys, flat_config, shards):
    folder = OUT / case
    base = json.loads((SHIPPED / "config.json").read_text())
    ids = {key: base[key] for key in ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")}
    config = Qwen2_5_VLConfig(vision_config=vision, text_config=text, tie_word_embeddings=tie, **ids)
    model = randomize(Qwen2_5_VLForConditionalGeneration(config), seed)
    model.tie_weights()
    model.save_pretrained(folder)
    shipped_settings = json.loads((SHIPPED / "preprocessor_config.json").read_text())
    shipped_settings.pop("size")
    (folder / "preprocessor_config.json").write_text(json.dumps(shipped_settings | settings, indent=1))
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.json"):
        shutil.copy(SHIPPED / name, folder / name)
    expected(case, folder, images, conversations)
    # The layouts are changed after the run: transformers reads both, and the tensors stay the same.
    if nested_keys:
        rename(folder, lambda k: "model." + k if k.startswith("visual.") else k.replace("model.", "model.language_model.", 1))
    if shards:
        shard(folder, "model", shards)
    if flat_config:
        written = json.loads((folder / "config.json").read_text())
        flat = written.pop("text_config") | written
        rope = flat.pop("rope_parameters")
        flat |= {"model_type": "qwen2_5_vl", "rope_theta": rope["rope_theta"], "tie_word_embeddings": tie,
                 "rope_scaling": {"type": "mrope", "mrope_section": rope["mrope_section"]}}
        flat["vision_config"]["in_chans"] = flat["vision_config"].pop("in_channels")
        flat["vision_config"].pop("rope_parameters", None)
        (folder / "config.json").write_text(json.dumps(flat, indent=1))


if __name__ == "__main__":
    torch.set_num_threads(1)
    shutil.rmtree(OUT, ignore_errors=True)
    shipped()
    several = [([{"role": "system", "content": "Compare with care."}, user("First: ", None, "\nthen ", None, "\nlast ", None, " Which?")], [0, 1, 2]),
               ([user(None, "and", None, "?")], [3, 0]),
               ([user("No picture at all; which is 1?")], [])]
    random("judge-untied-sharded", 11,
           dict(depth=3, hidden_size=24, intermediate_size=40, num_heads=3, patch_size=4, spatial_merge_size=2,
                temporal_patch_size=2, window_size=24, out_hidden_size=32, fullatt_block_indexes=[1], hidden_act="silu"),
           dict(vocab_size=464, hidden_size=32, intermediate_size=56, num_hidden_layers=3, num_attention_heads=4,
                num_key_value_heads=1, rms_norm_eps=1e-6, rope_parameters=dict(rope_type="default", rope_theta=1e4, mrope_section=[1, 1, 2])),
           dict(patch_size=4, merge_size=2, min_pixels=256, max_pixels=4096),
           [picture(1, 40, 56), picture(2, 17, 90), picture(3, 130, 75), picture(4, 8, 9)], several,
           tie=False, nested_keys=True, flat_config=False, shards=3)
    random("judge-flat-tied", 12,
           dict(depth=2, hidden_size=24, intermediate_size=36, num_heads=2, patch_size=8, spatial_merge_size=2,
                temporal_patch_size=2, window_size=48, out_hidden_size=36, fullatt_block_indexes=[0], hidden_act="silu"),
           dict(vocab_size=464, hidden_size=36, intermediate_size=44, num_hidden_layers=2, num_attention_heads=6,
                num_key_value_heads=3, rms_norm_eps=1e-5, rope_parameters=dict(rope_type="default", rope_theta=1e6, mrope_section=[1, 1, 1])),
           dict(min_pixels=1024, max_pixels=8192),
           [picture(5, 64, 112), picture(6, 80, 48), picture(7, 33, 200), picture(8, 150, 105)], several,
           tie=True, nested_keys=False, flat_config=True, shards=0)
    random("judge-one-head", 13,
           dict(depth=4, hidden_size=16, intermediate_size=20, num_heads=1, patch_size=4, spatial_merge_size=3,
                temporal_patch_size=2, window_size=36, out_hidden_size=20, fullatt_block_indexes=[2, 3], hidden_act="silu"),
           dict(vocab_size=464, hidden_size=20, intermediate_size=33, num_hidden_layers=1, num_attention_heads=2,
                num_key_value_heads=2, rms_norm_eps=1e-5, rope_parameters=dict(rope_type="default", rope_theta=5e3, mrope_section=[1, 3, 1])),
           dict(patch_size=4, merge_size=3, min_pixels=300, max_pixels=5000),
           [picture(9, 48, 60), picture(10, 25, 61), picture(11, 99, 70), picture(12, 36, 84)], several,
           tie=True, nested_keys=True, flat_config=False, shards=0)
