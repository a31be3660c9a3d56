"""Golden tensors for the Qwen-Image pipelines: `python tests/golden/qwen_pipeline.py` from the repository root.

Writes `tests/golden/qwen_pipeline/`: the parts of small pipelines with random weights (`parts/`, float16 on disk), for each pipeline a
folder with its `model_index.json`, its tasks, and what diffusers computes of them in float32: token ids, text states, source
latents, and the latents and the picture after ten steps, with and without a negative prompt. `COMPOSED` says which parts a pipeline
is put together from; the Rust test does the same. Deterministic; the versions of the libraries stand in each file's metadata.

This release of diffusers does not tell transformers which tokens are pictures, without which their positions are wrong: they are
told here. Pictures are resized for the text encoder by Pillow, as everywhere in this project, and not by torchvision, which rounds
up to one in a hundred bytes to the other side.
"""

import json
import pathlib
import shutil
import tempfile

import diffusers
import numpy as np
import PIL
import torch
import transformers
from diffusers import AutoencoderKLQwenImage, FlowMatchEulerDiscreteScheduler, QwenImageTransformer2DModel
from diffusers.pipelines.qwenimage import pipeline_qwenimage, pipeline_qwenimage_edit, pipeline_qwenimage_edit_plus
from encoders import randomize
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2VLImageProcessorPil

OUT = pathlib.Path(__file__).resolve().parent / "qwen_pipeline"
PARTS = OUT / "parts"
VERSIONS = {lib.__name__: lib.__version__ for lib in (torch, transformers, diffusers, PIL)}
SPECIAL = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>",
    "<|video_pad|>",
]  # fmt: skip
WORDS = r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
STEPS, TRUE_CFG, NEGATIVE = 10, 4.0, " "
# Areas of the source pictures, for the autoencoder and for the text encoder.
LATENTS_AREA, TEXT_AREA = 96 * 64, 64 * 64
# States that the text-to-image pipeline is asked to keep, fewer than its long prompt has.
CUT = 40
LONG = "Replace the sky by a night full of stars, keep the house as it is, and write 'café №7' above its door. " * 3

# Pipeline -> (class, its module, transformer settings, text encoder, tokenizer folders)
COMPOSED = {
    "edit": ("QwenImageEditPipeline", pipeline_qwenimage_edit, "transformer", "text_encoder", ["processor", "tokenizer"]),
    "edit-2509": ("QwenImageEditPlusPipeline", pipeline_qwenimage_edit_plus, "transformer", "text_encoder-sharded", ["processor"]),
    "edit-2511": ("QwenImageEditPlusPipeline", pipeline_qwenimage_edit_plus, "transformer-2511", "text_encoder", ["processor"]),
    "text-to-image": ("QwenImagePipeline", pipeline_qwenimage, "transformer", "text_encoder-sharded", ["tokenizer"]),
}
# Pipeline -> (words, sizes (width, height) of its sources, size of the output)
TASKS = {
    "edit": [("make it red", [(90, 61)], (96, 64)), (LONG, [(40, 100)], (32, 80))],
    "edit-2509": [("put the first beside the second", [(90, 61), (50, 50)], (64, 64)), ("x", [(31, 64)], (48, 80))],
    "edit-2511": [("swap them", [(64, 64), (120, 40)], (80, 48))],
    "text-to-image": [("a fox in the snow", [], (64, 96)), (LONG, [], (32, 32))],
}


def horizontally_first(image, size, *settings, _resize=Image.Image.resize, **more):
    """Pillow's resizing, the horizontal pass always before the vertical one. Pillow 13 turns the passes round where the height shrinks
    more than the width, which changes bytes by several levels; the published models are older than that release."""
    wide = _resize(image, (size[0], image.height), *settings, **more)
    return _resize(wide, size, *settings, **more)


Image.Image.resize = horizontally_first


def picture(seed, width, height):
    """A picture with edges and gradients."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.BICUBIC), dtype=np.int16)
    noise = rng.integers(-30, 31, (height, width, 3))
    return Image.fromarray(np.clip(smooth + noise, 0, 255).astype(np.uint8))


def write_tokenizers():
    """One tokenizer in both layouts."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=340, initial_alphabet=alphabet, special_tokens=[], show_progress=False)
    tokenizer.train_from_iterator([LONG, "describe the picture and how the text changes it"] * 4, trainer)
    tokenizer.add_special_tokens(SPECIAL)
    ids = {token: tokenizer.token_to_id(token) for token in SPECIAL}

    settings = {"tokenizer_class": "Qwen2Tokenizer", "pad_token": "<|endoftext|>", "eos_token": "<|im_end|>", "model_max_length": 131072}
    for name in ("processor", "tokenizer"):
        (PARTS / name).mkdir(parents=True)
    tokenizer.save(str(PARTS / "processor" / "tokenizer.json"))
    (PARTS / "processor" / "tokenizer_config.json").write_text(json.dumps(settings, indent=1))
    model = json.loads(tokenizer.to_str())["model"]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    (PARTS / "tokenizer" / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False))
    (PARTS / "tokenizer" / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    added = {str(id): {"content": token, "special": True} for token, id in ids.items()}
    (PARTS / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(settings | {"added_tokens_decoder": added}, indent=1))
    processor = dict(
        image_processor_type="Qwen2VLImageProcessor", min_pixels=56 * 56, max_pixels=12845056, patch_size=14, temporal_patch_size=2,
        merge_size=2, resample=3, rescale_factor=1 / 255, do_convert_rgb=True, do_normalize=True, do_rescale=True, do_resize=True,
        image_mean=[0.48145466, 0.4578275, 0.40821073], image_std=[0.26862954, 0.26130258, 0.27577711],
        size={"shortest_edge": 56 * 56, "longest_edge": 12845056},
    )  # fmt: skip
    (PARTS / "processor" / "preprocessor_config.json").write_text(json.dumps(processor, indent=1))
    template = "{% for m in messages %}{{ m.role }}{% endfor %}"
    (PARTS / "processor" / "chat_template.jinja").write_text(template)
    return ids, tokenizer.get_vocab_size()


def write_text_encoder(ids, vocabulary):
    """One model, in one file with the settings of transformers 5, and in shards with those of transformers 4."""
    text = dict(
        vocab_size=vocabulary, hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        rms_norm_eps=1e-6, max_position_embeddings=4096, hidden_act="silu", tie_word_embeddings=False,
        rope_parameters=dict(rope_type="default", rope_theta=1e6, mrope_section=[1, 2, 3]),
        eos_token_id=ids["<|im_end|>"], bos_token_id=None, pad_token_id=ids["<|endoftext|>"],
    )  # fmt: skip
    vision = dict(
        depth=2, hidden_size=32, intermediate_size=48, num_heads=2, out_hidden_size=48, patch_size=14, spatial_patch_size=14,
        spatial_merge_size=2, temporal_patch_size=2, in_channels=3, in_chans=3, window_size=56, fullatt_block_indexes=[1],
        hidden_act="silu",
    )  # fmt: skip
    config = Qwen2_5_VLConfig(
        text_config=text, vision_config=vision, tie_word_embeddings=False, image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"], vision_start_token_id=ids["<|vision_start|>"], vision_end_token_id=ids["<|vision_end|>"],
    )  # fmt: skip
    model = randomize(Qwen2_5_VLForConditionalGeneration(config), 1).half()
    model.save_pretrained(PARTS / "text_encoder")
    sharded = PARTS / "text_encoder-sharded"
    model.save_pretrained(sharded, max_shard_size="80KB")
    settings = json.loads((sharded / "config.json").read_text())
    old = settings["text_config"]
    rope = old.pop("rope_parameters")
    old |= dict(rope_theta=rope["rope_theta"], rope_scaling={"type": "default", "rope_type": "default", "mrope_section": rope["mrope_section"]})
    (sharded / "config.json").write_text(json.dumps(old | settings, indent=1))


def write_parts():
    shutil.rmtree(OUT, ignore_errors=True)
    ids, vocabulary = write_tokenizers()
    write_text_encoder(ids, vocabulary)
    rng = np.random.default_rng(5)
    vae = AutoencoderKLQwenImage(
        base_dim=4, z_dim=16, dim_mult=[1, 2, 4, 4], num_res_blocks=1, attn_scales=[], temperal_downsample=[False, True, True],
        latents_mean=rng.uniform(-1, 1, 16).round(3).tolist(), latents_std=rng.uniform(0.5, 2, 16).round(3).tolist(),
    )  # fmt: skip
    randomize(vae, 2).half().save_pretrained(PARTS / "vae")
    transformer = QwenImageTransformer2DModel(
        patch_size=2, in_channels=64, out_channels=16, num_layers=2, attention_head_dim=16, num_attention_heads=3,
        joint_attention_dim=48, axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    randomize(transformer, 3).half().save_pretrained(PARTS / "transformer")
    (PARTS / "transformer-2511").mkdir()
    settings = json.loads((PARTS / "transformer" / "config.json").read_text())
    (PARTS / "transformer-2511" / "config.json").write_text(json.dumps(settings | {"zero_cond_t": True}, indent=1))
    FlowMatchEulerDiscreteScheduler(
        shift=1.0, use_dynamic_shifting=True, base_shift=0.5, max_shift=0.9, base_image_seq_len=256, max_image_seq_len=8192,
        shift_terminal=0.02, time_shift_type="exponential",
    ).save_pretrained(PARTS / "scheduler")  # fmt: skip


def compose(name, folder):
    """The folder of a pipeline, out of the parts."""
    kind, _, transformer, text_encoder, tokenizers = COMPOSED[name]
    index = {
        "_class_name": kind, "_diffusers_version": "0.42.1", "transformer": ["diffusers", "QwenImageTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderKLQwenImage"], "text_encoder": ["transformers", "Qwen2_5_VLForConditionalGeneration"],
        "tokenizer": ["transformers", "Qwen2Tokenizer"], "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    }  # fmt: skip
    if name != "text-to-image":
        index["processor"] = ["transformers", "Qwen2VLProcessor"]
    (OUT / name).mkdir(parents=True, exist_ok=True)
    (OUT / name / "model_index.json").write_text(json.dumps(index, indent=1))
    shutil.copy(OUT / name / "model_index.json", folder)
    shutil.copytree(PARTS / "transformer", folder / "transformer")
    shutil.copy(PARTS / transformer / "config.json", folder / "transformer")
    for part, source in (("vae", "vae"), ("text_encoder", text_encoder), ("scheduler", "scheduler"), *((t, t) for t in tokenizers)):
        shutil.copytree(PARTS / source, folder / part)


def load(name, folder):
    """The pipeline with small source pictures; `seen` collects what the text encoder is given and gives."""
    kind, module, _, _, tokenizers = COMPOSED[name]
    parts = {}
    if "tokenizer" not in tokenizers:
        # The edit pipelines never use it beside the processor.
        parts["tokenizer"] = transformers.Qwen2Tokenizer.from_pretrained(folder / "processor")
    if name == "edit":
        dimensions = module.calculate_dimensions
        module.calculate_dimensions = lambda area, ratio: dimensions(LATENTS_AREA, ratio)
    elif name != "text-to-image":
        module.VAE_IMAGE_SIZE, module.CONDITION_IMAGE_SIZE = LATENTS_AREA, TEXT_AREA
    pipe = getattr(diffusers, kind).from_pretrained(folder, torch_dtype=torch.float32, **parts)
    pipe.set_progress_bar_config(disable=True)
    if name != "text-to-image":
        pipe.processor.image_processor = Qwen2VLImageProcessorPil.from_pretrained(folder / "processor")
    seen = []
    forward, image_token = pipe.text_encoder.forward, pipe.text_encoder.config.image_token_id

    def recorded(*args, **kwargs):
        if kwargs.get("pixel_values") is not None:
            kwargs["mm_token_type_ids"] = (kwargs["input_ids"] == image_token).int()
        outputs = forward(*args, **kwargs)
        seen.append((kwargs["input_ids"][0], outputs.hidden_states[-1][0]))
        return outputs

    pipe.text_encoder.forward = recorded
    return pipe, seen


@torch.no_grad()
def golden(name):
    dimensions = pipeline_qwenimage_edit_plus.calculate_dimensions
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        compose(name, folder)
        pipe, seen = load(name, folder)
    tensors = {}
    source_latents = {}
    prepare = pipe.prepare_latents

    def recorded(*args, **kwargs):
        result = prepare(*args, **kwargs)
        if isinstance(result, tuple):
            source_latents["packed"] = result[1]
        return result

    pipe.prepare_latents = recorded
    tasks = []
    for index, (words, sizes, (width, height)) in enumerate(TASKS[name]):
        sources = [picture(10 * index + i, *size) for i, size in enumerate(sizes)]
        tasks.append({"words": words, "sources": len(sources), "width": width, "height": height})
        generator = torch.Generator().manual_seed(index)
        latents = torch.randn(1, (height // 16) * (width // 16), 64, generator=generator)
        tensors[f"{index}.latents"] = latents[0]
        for i, source in enumerate(sources):
            tensors[f"{index}.source.{i}"] = torch.from_numpy(np.asarray(source).copy())
        given = {} if not sources else {"image": sources[0] if name == "edit" else sources}
        for guided in (False, True):
            seen.clear()
            settings = dict(prompt=words, height=height, width=width, num_inference_steps=STEPS, latents=latents.clone(), **given)
            if guided:
                settings |= dict(negative_prompt=NEGATIVE, true_cfg_scale=TRUE_CFG)
            else:
                settings |= dict(true_cfg_scale=1.0)
            last = pipe(output_type="latent", **settings).images
            prefix = pipe.prompt_template_encode_start_idx
            label = f"{index}.guided" if guided else f"{index}.plain"
            tensors[f"{label}.final"] = last[0]
            decoded = pipe(output_type="pil", **settings).images[0]
            tensors[f"{label}.picture"] = torch.from_numpy(np.asarray(decoded).copy())
            if not guided:
                ids, states = seen[0]
                tensors[f"{index}.input_ids"] = ids
                tensors[f"{index}.prompt_embeds"] = states[prefix:]
                if "packed" in source_latents:
                    tensors[f"{index}.source_latents"] = source_latents["packed"][0]
        if name == "text-to-image":
            tensors[f"{index}.cut"] = pipe.encode_prompt(words, max_sequence_length=CUT)[0][0]
        for i, source in enumerate(sources):
            for reader, area in (("vae", LATENTS_AREA), ("text", LATENTS_AREA if name == "edit" else TEXT_AREA)):
                width, height = dimensions(area, source.width / source.height)[:2]
                resized = pipe.image_processor.resize(source, int(height), int(width))
                tensors[f"{index}.{reader}_source.{i}"] = torch.from_numpy(np.asarray(resized).copy())
    (OUT / name / "tasks.json").write_text(json.dumps(tasks, indent=1, ensure_ascii=False))
    save_file({key: value.contiguous() for key, value in tensors.items()}, OUT / name / "expected.safetensors", metadata=VERSIONS)


if __name__ == "__main__":
    torch.set_num_threads(1)
    write_parts()
    for name in COMPOSED:
        golden(name)
