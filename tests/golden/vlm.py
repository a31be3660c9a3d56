"""Golden tensors for Qwen3-VL and for written answers: `python tests/golden/vlm.py` from the repository root.

Writes `tests/golden/vlm/<case>/`. The Qwen3-VL cases hold the model folder, conversations, images, and what transformers
computes of them in float32: token ids, vision features with those of the deepstack, the last position's logits. Cases whose
embeddings are not tied, one of `judge.py` among them, hold the tokens that transformers' cached greedy generation writes.
Deterministic; the versions of the libraries stand in each file's metadata. Run `judge.py` first.
"""
import json
import pathlib
import shutil

import torch
from safetensors.torch import load_file, save_file
from transformers import (GenerationConfig, Qwen2_5_VLForConditionalGeneration, Qwen3VLConfig,
                          Qwen3VLForConditionalGeneration)

import judge
from encoders import randomize
from judge import SHIPPED, TOKENIZER, VERSIONS, model_inputs, picture, user

OUT = pathlib.Path(__file__).resolve().parent / "vlm"
END = TOKENIZER.convert_tokens_to_ids("<|im_end|>")
# Tokens written for each conversation.
LENGTH = 24
# Smallest distance between the two largest logits, relative to the largest: more than twice what the tests allow them to err.
MARGIN = 5e-4


def written(model, inputs):
    """The greedy answer, whose every choice is clear; nothing ends it early."""
    config = GenerationConfig(do_sample=False, max_new_tokens=LENGTH, eos_token_id=None, pad_token_id=0, use_cache=True,
                              return_dict_in_generate=True, output_logits=True)
    model.generation_config = config
    result = model.generate(**inputs, generation_config=config)
    tokens = result.sequences[0, inputs["input_ids"].shape[1]:]
    top = torch.stack([step[0] for step in result.logits]).topk(2).values
    margin = ((top[:, 0] - top[:, 1]) / top[:, 0].abs()).min().item()
    assert len(tokens) == LENGTH and margin > MARGIN, f"margin {margin}: take another seed"
    assert len(set(tokens.tolist())) >= 6 and END not in tokens, f"take another seed: {tokens.tolist()}"
    return tokens


def save(case, tensors):
    (OUT / case).mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
    save_file(tensors, OUT / case / "expected.safetensors", metadata=VERSIONS)


@torch.no_grad()
def qwen2_5(case, folder):
    """Answers to the conversations of a case of judge.py."""
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    before = load_file(judge.OUT / case / "expected.safetensors")
    images = [before[f"image.{i}"].numpy() for i in range(sum(name.startswith("image.") for name in before))]
    tensors = {}
    for i, spec in enumerate(json.loads((judge.OUT / case / "conversations.json").read_text())):
        inputs = model_inputs(spec["messages"], spec["images"], images, settings)
        assert torch.equal(inputs["input_ids"][0], before[f"ids.{i}"])
        tensors[f"written.{i}"] = written(model, inputs)
    save(case, tensors)


@torch.no_grad()
def qwen3(case, seed, vision, text, settings, images, conversations, tie, old_config):
    folder = OUT / case
    base = json.loads((SHIPPED / "config.json").read_text())
    ids = {key: base[key] for key in ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")}
    vision |= dict(num_heads=2, temporal_patch_size=2, in_channels=3, hidden_act="gelu_pytorch_tanh")
    text |= dict(vocab_size=464, rms_norm_eps=1e-6, eos_token_id=END)
    config = Qwen3VLConfig(vision_config=vision, text_config=text, tie_word_embeddings=tie, **ids)
    model = randomize(Qwen3VLForConditionalGeneration(config), seed)
    model.tie_weights()
    model.save_pretrained(folder)
    # Read below, so that the end of an answer is that of config.json, as in folders without the file.
    (folder / "generation_config.json").unlink()
    settings |= dict(temporal_patch_size=2, rescale_factor=1 / 255, image_mean=[0.5] * 3, image_std=[0.5] * 3, resample=3)
    written_settings = {key: settings[key] for key in settings if not key.endswith("_pixels")}
    written_settings["size"] = {"shortest_edge": settings["min_pixels"], "longest_edge": settings["max_pixels"]}
    (folder / "preprocessor_config.json").write_text(json.dumps(written_settings, indent=1))
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.json"):
        shutil.copy(SHIPPED / name, folder / name)
    model = Qwen3VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    tensors = {f"image.{i}": torch.from_numpy(image.copy()) for i, image in enumerate(images)}
    for i, image in enumerate(images):
        pixels, grid = judge.patches(image, settings)
        seen = model.model.visual(pixels, grid_thw=torch.tensor([grid]))
        tensors[f"features.{i}"] = seen.pooler_output
        tensors |= {f"deepstack.{i}.{level}": x for level, x in enumerate(seen.deepstack_features)}
    for i, (messages, chosen) in enumerate(conversations):
        inputs = model_inputs(messages, chosen, images, settings)
        tensors |= {f"ids.{i}": inputs["input_ids"][0], f"logits.{i}": model(**inputs).logits[0, -1]}
        # Random models with tied embeddings repeat their last token.
        if not tie:
            tensors[f"written.{i}"] = written(model, inputs)
    save(case, tensors)
    spec = [{"messages": messages, "images": chosen} for messages, chosen in conversations]
    (folder / "conversations.json").write_text(json.dumps(spec, indent=1))
    if old_config:
        written_config = json.loads((folder / "config.json").read_text())
        part = written_config["text_config"]
        rope = part.pop("rope_parameters")
        part |= {"rope_theta": rope.pop("rope_theta"), "rope_scaling": rope}
        written_config["vision_config"].pop("rope_parameters", None)
        (folder / "config.json").write_text(json.dumps(written_config, indent=1))


if __name__ == "__main__":
    torch.set_num_threads(1)
    shutil.rmtree(OUT, ignore_errors=True)
    qwen2_5("judge-untied-sharded", judge.OUT / "judge-untied-sharded")
    two = [([user("First: ", None, "\nthen ", None, "\nWhich?")], [0, 1]),
           ([{"role": "system", "content": "Compare with care."}, user(None, "and", None, "?")], [1, 2]),
           ([user("No picture at all; which is 1?")], [])]
    qwen3("qwen3-two-levels", 61,
          dict(depth=3, hidden_size=8, intermediate_size=20, patch_size=4, spatial_merge_size=2, out_hidden_size=20,
               num_position_embeddings=25, deepstack_visual_indexes=[0, 2]),
          dict(hidden_size=20, intermediate_size=36, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, head_dim=12,
               hidden_act="silu", attention_bias=False,
               rope_parameters=dict(rope_type="default", rope_theta=1e4, mrope_section=[2, 2, 2], mrope_interleaved=True)),
          dict(patch_size=4, merge_size=2, min_pixels=256, max_pixels=2048),
          [picture(1, 40, 56), picture(2, 17, 50), picture(3, 60, 35)], two, tie=False, old_config=True)
    qwen3("qwen3-every-layer", 22,
          dict(depth=2, hidden_size=16, intermediate_size=20, patch_size=4, spatial_merge_size=2, out_hidden_size=16,
               num_position_embeddings=16, deepstack_visual_indexes=[0, 1]),
          dict(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=3, num_key_value_heads=1, head_dim=16,
               hidden_act="silu", attention_bias=True,
               rope_parameters=dict(rope_type="default", rope_theta=5e4, mrope_section=[4, 2, 2], mrope_interleaved=True)),
          dict(patch_size=4, merge_size=2, min_pixels=256, max_pixels=2048),
          [picture(4, 48, 32), picture(5, 16, 32), picture(6, 41, 70)], two, tie=True, old_config=False)
