"""Golden tensors for Qwen-Image's autoencoder, schedule and guidance: `python tests/golden/qwen_vae.py` from the repository
root.

Writes `tests/golden/qwen_vae/<case>/`: random model folders with the tensors that diffusers computes from them in float32, and
`tests/golden/qwen_vae/sampling.safetensors`: noise levels and guided velocities. Deterministic; the versions of the libraries
stand in each file's metadata.
"""
import inspect
import json
import pathlib
import shutil

import diffusers
import numpy as np
import torch
from diffusers.pipelines.flux.pipeline_flux import calculate_shift as flux_shift
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit as edit
from safetensors.torch import save_file

OUT = pathlib.Path(__file__).resolve().parent / "qwen_vae"
VERSIONS = {"torch": torch.__version__, "diffusers": diffusers.__version__}

QWEN_IMAGE = dict(use_dynamic_shifting=True, base_shift=0.5, max_shift=0.9, base_image_seq_len=256, max_image_seq_len=8192,
                  shift_terminal=0.02, shift=1.0)
SCHEDULES = {
    "qwen-image": QWEN_IMAGE,
    "linear": QWEN_IMAGE | dict(time_shift_type="linear"),
    "static-stretched": dict(shift=3.0, shift_terminal=0.05),
    "flux": dict(use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15, base_image_seq_len=256, max_image_seq_len=4096,
                 shift=3.0),
    "static": dict(shift=3.0),
}


def save(tensors, file):
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file, metadata=VERSIONS)


def normal(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def randomize(model, seed):
    """Random weights everywhere, also in the slices and the convolutions over time that a single frame must not meet."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if name.endswith("gamma"):
            parameter.data = 1 + 0.2 * noise
        elif parameter.ndim == 1:
            parameter.data = 0.1 * noise
        else:
            live = parameter[0].numel() // (parameter.shape[2] if parameter.ndim == 5 else 1)
            parameter.data = noise * live**-0.5
    return model.eval()


@torch.no_grad()
def vae(case, seed, sizes, **config):
    folder = OUT / case
    mean = (0.5 * normal(seed, config["z_dim"])).tolist()
    std = (1 + normal(seed + 1, config["z_dim"]).abs()).tolist()
    model = randomize(diffusers.AutoencoderKLQwenImage(latents_mean=mean, latents_std=std, **config), seed)
    # The last convolution is kept small, so that few pixels run into the clamp that would hide an error.
    model.decoder.conv_out.weight.data *= 0.3
    model.save_pretrained(folder)
    channels = (1, -1, 1, 1, 1)
    mean, std = torch.tensor(mean).view(channels), torch.tensor(std).view(channels)
    tensors = {}
    for i, (height, width) in enumerate(sizes):
        image = normal(seed + 10 + i, 1, 3, 1, height, width).clamp(-1, 1)
        latents = (model.encode(image).latent_dist.mode() - mean) / std
        given = normal(seed + 20 + i, *latents.shape)
        decoded = model.decode(given * std + mean).sample
        inside = (decoded.abs() < 1).float().mean().item()
        assert inside > 0.5, f"{case}: {inside:.0%} of the pixels are not clamped"
        tensors |= {f"image.{i}": image[:, :, 0], f"latents.{i}": latents[:, :, 0], f"given.{i}": given[:, :, 0],
                    f"decoded.{i}": decoded[:, :, 0]}
    save(tensors, folder / "expected.safetensors")


def schedules():
    """The noise levels that a pipeline's call makes: its own sigmas and shift, then the scheduler."""
    assert inspect.getsource(flux_shift) == inspect.getsource(edit.calculate_shift)
    tensors = {}
    for name, config in SCHEDULES.items():
        scheduler = diffusers.FlowMatchEulerDiscreteScheduler(**config)
        folder = OUT / "schedules" / name
        scheduler.save_pretrained(folder)
        for steps, tokens in [(2, 4096), (10, 1024), (10, 16), (4, 1024), (50, 9216)]:
            mu = edit.calculate_shift(tokens, scheduler.config["base_image_seq_len"], scheduler.config["max_image_seq_len"],
                                      scheduler.config["base_shift"], scheduler.config["max_shift"])
            sigmas = np.linspace(1.0, 1 / steps, steps)
            edit.retrieve_timesteps(scheduler, steps, "cpu", sigmas=sigmas, mu=mu)
            tensors[f"sigmas.{name}.{steps}.{tokens}"] = scheduler.sigmas.clone()
    return tensors


def guidance():
    """The lines of `QwenImageEditPipeline.__call__` that join its two passes, run as they stand there."""
    source = inspect.getsource(edit.QwenImageEditPipeline.__call__).splitlines()
    first = next(i for i, line in enumerate(source) if "comb_pred = " in line)
    last = next(i for i, line in enumerate(source) if "noise_pred = comb_pred" in line)
    lines = "\n".join(line.strip() for line in source[first:last + 1])
    noise_pred, neg_noise_pred = normal(31, 2, 7, 64), normal(32, 2, 7, 64)
    tensors = {"prompt": noise_pred, "negative": neg_noise_pred}
    for scale in (1.5, 4.0):
        names = {"torch": torch, "noise_pred": noise_pred, "neg_noise_pred": neg_noise_pred, "true_cfg_scale": scale}
        exec(lines, names)
        tensors[f"guided.{scale}"] = names["noise_pred"]
    return tensors


if __name__ == "__main__":
    torch.set_num_threads(1)
    shutil.rmtree(OUT, ignore_errors=True)
    vae("published-layout", 1, [(24, 40), (16, 8)], base_dim=4, z_dim=4, dim_mult=[1, 2, 4, 4], num_res_blocks=2,
        temperal_downsample=[False, True, True])
    vae("other-layout", 2, [(12, 20)], base_dim=5, z_dim=3, dim_mult=[2, 1, 3], num_res_blocks=1,
        temperal_downsample=[True, False])
    save(schedules() | guidance(), OUT / "sampling.safetensors")
    for file in OUT.rglob("*.json"):
        settings = json.loads(file.read_text())
        settings.pop("_name_or_path", None)
        file.write_text(json.dumps(settings, indent=1) + "\n")
