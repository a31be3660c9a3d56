"""Writes the golden values of the FLUX transformer: forward, LoRA forward, an ODE sample and the gradients of an RPO loss.

    python tests/golden/flux_transformer.py

needs torch, diffusers, peft and safetensors; everything is seeded, float32 and single-threaded, so that a second run writes
the same values. One folder per case under tests/golden/flux_transformer/:

    transformer/         a random tiny model as diffusers saves it (the case `tiny_flux` uses models/tiny-flux instead)
    adapter/             a random adapter as peft saves it
    golden.safetensors   inputs and results; the header holds the versions and the numbers a test needs
"""

import hashlib
import itertools
import json
import os
import platform
import shutil
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import diffusers
import peft
import torch
from diffusers import FluxTransformer2DModel
import fp8
import nf4
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file

HERE = Path(__file__).resolve().parent
OUT = HERE / "flux_transformer"
TINY_FLUX = HERE.parent.parent / "models" / "tiny-flux" / "transformer"

PUBLISHED = [
    "attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0", "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj",
    "attn.to_add_out", "ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2",
]  # fmt: skip

CASES = {
    "tiny_flux": dict(targets=PUBLISHED, rank=4, alpha=8, text=24, size=(4, 4), batch=3, guidance=3.5),
    # The same model with the weights of its blocks in 8 bits.
    "tiny_flux_fp8": dict(targets=PUBLISHED, rank=4, alpha=8, text=24, size=(4, 4), batch=3, guidance=3.5, seed=1008, fp8=True),
    # And in 4.
    "tiny_flux_nf4": dict(targets=PUBLISHED, rank=4, alpha=8, text=24, size=(4, 4), batch=3, guidance=3.5, seed=1009, nf4=True),
    "wide_picture": dict(
        model=dict(
            in_channels=12, num_layers=1, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
            joint_attention_dim=20, pooled_projection_dim=10, guidance_embeds=True, axes_dims_rope=(4, 6, 6),
        ),
        targets=[*PUBLISHED, "proj_mlp", "proj_out"], rank=3, alpha=5, text=7, size=(3, 5), batch=2, guidance=2.0,
    ),
    "sharded_without_guidance": dict(
        model=dict(
            in_channels=8, num_layers=2, num_single_layers=1, attention_head_dim=8, num_attention_heads=3,
            joint_attention_dim=9, pooled_projection_dim=7, guidance_embeds=False, axes_dims_rope=(2, 2, 4),
        ),
        targets=["to_q", "transformer_blocks.1.ff.net.2"], rank=2, alpha=1, text=5, size=(4, 2), batch=3, guidance=None,
        shard="40KB",
    ),
    "double_blocks_only": dict(
        model=dict(
            in_channels=16, num_layers=2, num_single_layers=0, attention_head_dim=20, num_attention_heads=1,
            joint_attention_dim=12, pooled_projection_dim=6, guidance_embeds=True, axes_dims_rope=(4, 8, 8),
        ),
        targets=["x_embedder", "context_embedder", "add_k_proj", "to_add_out", "ff_context.net.0.proj", "proj_out"],
        rank=5, alpha=10, text=1, size=(2, 2), batch=2, guidance=1.0,
    ),
    "single_blocks_only": dict(
        model=dict(
            in_channels=4, num_layers=0, num_single_layers=3, attention_head_dim=12, num_attention_heads=4,
            joint_attention_dim=6, pooled_projection_dim=5, guidance_embeds=False, axes_dims_rope=(2, 4, 6),
        ),
        targets=["single_transformer_blocks.1.proj_mlp", "single_transformer_blocks.2.proj_out", "to_v"],
        rank=1, alpha=2, text=3, size=(1, 6), batch=2, guidance=None,
    ),
}  # fmt: skip

STEPS, SHIFT, ETA, CLIP_RANGE, BETA = 8, 3.0, 0.7, 0.2, 0.5


def random_model(options, folder, shard):
    """A model whose every parameter is random, stored as bfloat16 to halve the files (the values are exact in float32)."""
    model = FluxTransformer2DModel(**options)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            spread = 0.2 if parameter.ndim == 1 else parameter.shape[1] ** -0.5
            is_norm_weight = "attn.norm_" in name
            parameter.copy_(torch.randn_like(parameter) * spread + (1.0 if is_norm_weight else 0.0))
    model.to(torch.bfloat16).save_pretrained(folder, **({"max_shard_size": shard} if shard else {}))


def sha256(folder):
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def main():
    torch.set_num_threads(1)
    seeds = itertools.count(1000)
    for name, case in CASES.items():
        torch.manual_seed(case.get("seed") or next(seeds))
        folder = OUT / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        model_folder = TINY_FLUX
        if "model" in case:
            model_folder = folder / "transformer"
            random_model(case["model"], model_folder, case.get("shard"))
        save_case(name, case, folder, model_folder)


def save_case(name, case, folder, model_folder):
    base = FluxTransformer2DModel.from_pretrained(model_folder, torch_dtype=torch.float32).eval()
    for kind, module in (("fp8", fp8), ("nf4", nf4)):
        if case.get(kind):
            module.quantized(base)
    config = base.config
    rank, (height, width), batch, text = case["rank"], case["size"], case["batch"], case["text"]
    model = get_peft_model(base, LoraConfig(r=rank, lora_alpha=case["alpha"], target_modules=case["targets"]))
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if ".lora_" in parameter_name:
                parameter.copy_(torch.randn_like(parameter) * 0.3 * parameter.shape[1] ** -0.5)
    save_adapter(model, folder / "adapter")

    ids = torch.zeros(height, width, 3)
    ids[..., 1] += torch.arange(height)[:, None]
    ids[..., 2] += torch.arange(width)[None, :]
    image_ids, text_ids = ids.reshape(-1, 3), torch.zeros(text, 3)
    guidance = case["guidance"]
    latents = torch.randn(batch, height * width, config.in_channels)
    prompt_embeds = torch.randn(batch, text, config.joint_attention_dim)
    pooled = torch.randn(batch, config.pooled_projection_dim)

    def velocity(x, sigma):
        return model(
            hidden_states=x, encoder_hidden_states=prompt_embeds, pooled_projections=pooled, timestep=sigma,
            img_ids=image_ids, txt_ids=text_ids, return_dict=False,
            guidance=None if guidance is None else torch.full((batch,), guidance),
        )[0]  # fmt: skip

    t = torch.linspace(1, 0, STEPS + 1)
    sigmas = SHIFT * t / (1 + (SHIFT - 1) * t)
    steps = torch.arange(1, batch + 1)
    sigma, sigma_next = sigmas[steps], sigmas[steps + 1]
    tensors = dict(latents=latents, prompt_embeds=prompt_embeds, pooled=pooled, sigma=sigma, sigma_next=sigma_next)
    with torch.no_grad():
        tensors["velocity"] = velocity(latents, sigma)
        with model.disable_adapter():
            tensors["velocity_base"] = velocity(latents, sigma)
        x = latents.clone()
        for i in range(STEPS):
            x = x + (sigmas[i + 1] - sigmas[i]) * velocity(x, sigmas[i].expand(batch))
        tensors["sigmas"], tensors["ode_sample"] = sigmas, x
    tensors |= rpo_gradients(model, velocity, tensors)
    versions = dict(
        torch=torch.__version__, diffusers=diffusers.__version__, peft=peft.__version__, python=platform.python_version()
    )
    numbers = dict(
        height_tokens=height, width_tokens=width, guidance=guidance, eta=ETA, clip_range=CLIP_RANGE, beta=BETA,
        weights_sha256=sha256(model_folder), versions=versions,
    )  # fmt: skip
    tensors = {key: value.detach().float().contiguous() for key, value in tensors.items()}
    save_file(tensors, folder / "golden.safetensors", metadata={"golden": json.dumps(numbers, sort_keys=True)})
    change = (tensors["velocity"] - tensors["velocity_base"]).abs().max() / tensors["velocity"].abs().max()
    print(f"{name}: {len(tensors)} tensors, the adapter changes the velocity by {change:.2f}, loss {tensors['loss'].item():.4f}")


def save_adapter(model, folder):
    """As peft saves it, less what names this machine."""
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    file = folder / "adapter_config.json"
    config = json.loads(file.read_text())
    config["base_model_name_or_path"] = None
    config["target_modules"] = sorted(config["target_modules"])
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def rpo_gradients(model, velocity, tensors):
    """Gradients of mean(clipped PPO + beta * Gaussian KL) over the batch; ratios inside and outside of the clip range."""
    x, sigma, sigma_next = tensors["latents"], tensors["sigma"][:, None, None], tensors["sigma_next"][:, None, None]
    d = sigma_next - sigma
    std = ETA * torch.sqrt(-d)

    def mean_of(v):
        x0 = x - sigma * v
        score = -(x - (1 - sigma) * x0) / sigma**2
        return x + d * v - 0.5 * ETA**2 * score * d

    def log_prob(mean):
        terms = -((x_next - mean) ** 2) / (2 * std**2) - torch.log(std) - 0.5 * torch.log(torch.tensor(2 * torch.pi))
        return terms.mean(dim=(1, 2))

    mean_reference = mean_of(tensors["velocity_base"])
    x_next = mean_of(tensors["velocity"]) + std * torch.randn_like(x)
    batch = x.shape[0]
    advantages = torch.tensor([1.0, -0.1, 0.7])[:batch]
    # The second sample's ratio lies far outside of the clip range on the side where clipping acts.
    log_prob_old = log_prob(mean_of(tensors["velocity"])) - torch.tensor([0.05, -0.5, 0.1])[:batch]

    mean = mean_of(velocity(x, tensors["sigma"]))
    ratio = torch.exp(log_prob(mean) - log_prob_old)
    clipped = ratio.clamp(1 - CLIP_RANGE, 1 + CLIP_RANGE)
    ppo = torch.maximum(-advantages * ratio, -advantages * clipped)
    kl = ((mean - mean_reference) ** 2 / (2 * std**2)).mean(dim=(1, 2))
    loss = (ppo + BETA * kl).mean()
    loss.backward()
    # The text branch of a last double block reaches no output: torch has no gradient there, which means zero.
    gradients = {
        "grad." + name.removeprefix("base_model.model.").replace(".default.", "."): (
            torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        )
        for name, parameter in model.named_parameters()
        if ".lora_" in name
    }
    return dict(x_next=x_next, advantages=advantages, log_prob_old=log_prob_old, ratio=ratio, loss=loss[None]) | gradients


if __name__ == "__main__":
    main()
