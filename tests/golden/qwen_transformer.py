"""Writes the golden values of the Qwen-Image transformer: forward, LoRA forward, guidance, and the gradients of an RPO loss.

    python tests/golden/qwen_transformer.py

needs torch, diffusers, peft and safetensors; everything is seeded, float32 and single-threaded, so that a second run writes
the same values. One folder per case under tests/golden/qwen_transformer/:

    transformer/         a random tiny model as diffusers saves it
    adapter/             a random adapter as peft saves it
    golden.safetensors   inputs and results; the header holds the versions and the numbers a test needs
"""

import json
import os
import platform
import shutil
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import diffusers
import peft
import torch
from diffusers import QwenImageTransformer2DModel
from flux_transformer import BETA, CLIP_RANGE, ETA, SHIFT, STEPS, rpo_gradients, save_adapter, sha256
from fp8 import quantized
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file

OUT = Path(__file__).resolve().parent / "qwen_transformer"

PUBLISHED = [
    "attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0", "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj",
    "attn.to_add_out",
]  # fmt: skip

# Sizes are rows and columns of tokens.
CASES = {
    "text_to_image": dict(
        model=dict(
            in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=3,
            joint_attention_dim=20, axes_dims_rope=(4, 6, 6),
        ),
        targets=PUBLISHED, rank=4, alpha=8, text=7, size=(3, 5), sources=[], batch=3,
    ),
    "edit": dict(
        model=dict(
            in_channels=64, out_channels=16, num_layers=2, attention_head_dim=24, num_attention_heads=2,
            joint_attention_dim=36, axes_dims_rope=(4, 8, 12),
        ),
        targets=PUBLISHED, rank=3, alpha=5, text=9, size=(4, 6), sources=[(5, 3)], batch=2,
    ),
    "two_sources": dict(
        model=dict(
            in_channels=8, out_channels=2, num_layers=2, attention_head_dim=32, num_attention_heads=2,
            joint_attention_dim=24, axes_dims_rope=(4, 14, 14),
        ),
        targets=["img_in", "txt_in", "add_k_proj", "to_v", "img_mlp.net.0.proj", "txt_mlp.net.2", "proj_out"],
        rank=2, alpha=6, text=5, size=(2, 7), sources=[(3, 4), (1, 6)], batch=2,
    ),
    "source_at_time_zero": dict(
        model=dict(
            in_channels=12, out_channels=3, num_layers=3, attention_head_dim=12, num_attention_heads=4,
            joint_attention_dim=18, axes_dims_rope=(2, 4, 6), zero_cond_t=True,
        ),
        targets=[*PUBLISHED, "img_mlp.net.0.proj", "img_mlp.net.2", "txt_mlp.net.0.proj", "txt_mlp.net.2"],
        rank=4, alpha=4, text=6, size=(4, 3), sources=[(2, 5), (5, 4)], batch=3,
    ),
    "sharded": dict(
        model=dict(
            in_channels=16, out_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=6,
            joint_attention_dim=10, axes_dims_rope=(2, 2, 4), zero_cond_t=True,
        ),
        targets=["to_q", "transformer_blocks.1.attn.to_out.0"], rank=5, alpha=10, text=1, size=(1, 4), sources=[(4, 1)],
        batch=2, shard="200KB",
    ),
    # The weights of its blocks in 8 bits.
    "text_to_image_fp8": dict(
        model=dict(
            in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=3,
            joint_attention_dim=20, axes_dims_rope=(4, 6, 6),
        ),
        targets=PUBLISHED, rank=4, alpha=8, text=7, size=(3, 5), sources=[], batch=3, fp8=True,
    ),
}  # fmt: skip

GUIDANCE_SCALE = 4.0

# What the released configurations lack: keys of later releases, and of none.
LATER_KEYS = ("guidance_embeds", "use_additional_t_cond", "use_layer3d_rope")


def random_model(options, folder, shard):
    """A model whose every parameter is random, stored as bfloat16 to halve the files (the values are exact in float32)."""
    model = QwenImageTransformer2DModel(**options)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            spread = 0.2 if parameter.ndim == 1 else parameter.shape[1] ** -0.5
            is_norm_weight = "attn.norm_" in name or name == "txt_norm.weight"
            parameter.copy_(torch.randn_like(parameter) * spread + (1.0 if is_norm_weight else 0.0))
    model.to(torch.bfloat16).save_pretrained(folder, **({"max_shard_size": shard} if shard else {}))


def like_a_released_file(folder):
    """Drops the keys that released files lack, and adds one that only they have."""
    file = folder / "config.json"
    config = json.loads(file.read_text())
    for key in LATER_KEYS:
        config.pop(key)
    config["pooled_projection_dim"] = 768
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def main():
    torch.set_num_threads(1)
    shutil.rmtree(OUT, ignore_errors=True)
    for index, (name, case) in enumerate(CASES.items()):
        torch.manual_seed(2000 + index)
        folder = OUT / name
        folder.mkdir(parents=True)
        random_model(case["model"], folder / "transformer", case.get("shard"))
        if name == "text_to_image":
            like_a_released_file(folder / "transformer")
        save_case(name, case, folder)


def save_case(name, case, folder):
    model_folder = folder / "transformer"
    base = QwenImageTransformer2DModel.from_pretrained(model_folder, torch_dtype=torch.float32).eval()
    if case.get("fp8"):
        quantized(base)
    config = base.config
    (height, width), batch, text = case["size"], case["batch"], case["text"]
    model = get_peft_model(base, LoraConfig(r=case["rank"], lora_alpha=case["alpha"], target_modules=case["targets"]))
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if ".lora_" in parameter_name:
                parameter.copy_(torch.randn_like(parameter) * 0.6 * parameter.shape[1] ** -0.5)
    save_adapter(model, folder / "adapter")

    tokens = height * width
    latents = torch.randn(batch, tokens, config.in_channels)
    sources = [torch.randn(batch, rows, columns, config.in_channels) for rows, columns in case["sources"]]
    # The text encoder's states are far from unit size, which the norm of the text undoes.
    prompt_embeds = torch.randn(batch, text, config.joint_attention_dim) * 3.0 + 0.5

    def velocity(x, sigma):
        return model(
            hidden_states=torch.cat([x, *(source.flatten(1, 2) for source in sources)], dim=1),
            encoder_hidden_states=prompt_embeds, timestep=sigma,
            img_shapes=[[(1, height, width), *((1, rows, columns) for rows, columns in case["sources"])]] * batch,
            return_dict=False,
        )[0][:, :tokens]  # fmt: skip

    t = torch.linspace(1, 0, STEPS + 1)
    sigmas = SHIFT * t / (1 + (SHIFT - 1) * t)
    steps = torch.arange(1, batch + 1)
    sigma, sigma_next = sigmas[steps], sigmas[steps + 1]
    tensors = dict(latents=latents, prompt_embeds=prompt_embeds, sigma=sigma, sigma_next=sigma_next)
    tensors |= {f"source_latents.{index}": source for index, source in enumerate(sources)}
    with torch.no_grad():
        tensors["velocity"] = velocity(latents, sigma)
        with model.disable_adapter():
            tensors["velocity_base"] = velocity(latents, sigma)
        tensors["guided"] = guided(tensors["velocity"], tensors["velocity_base"])
    tensors |= rpo_gradients(model, velocity, tensors)
    versions = dict(
        torch=torch.__version__, diffusers=diffusers.__version__, peft=peft.__version__, python=platform.python_version()
    )
    numbers = dict(
        height_tokens=height, width_tokens=width, eta=ETA, clip_range=CLIP_RANGE, beta=BETA,
        guidance_scale=GUIDANCE_SCALE, weights_sha256=sha256(model_folder), versions=versions,
    )  # fmt: skip
    tensors = {key: value.detach().float().contiguous() for key, value in tensors.items()}
    save_file(tensors, folder / "golden.safetensors", metadata={"golden": json.dumps(numbers, sort_keys=True)})
    change = (tensors["velocity"] - tensors["velocity_base"]).abs().max() / tensors["velocity"].abs().max()
    print(f"{name}: {len(tensors)} tensors, the adapter changes the velocity by {change:.2f}, loss {tensors['loss'].item():.4f}")


def guided(prompt, negative):
    """As diffusers' Qwen-Image pipelines combine both passes; here the base stands for the pass under the negative prompt."""
    combined = negative + GUIDANCE_SCALE * (prompt - negative)
    return combined * (prompt.norm(dim=-1, keepdim=True) / combined.norm(dim=-1, keepdim=True))


if __name__ == "__main__":
    main()
