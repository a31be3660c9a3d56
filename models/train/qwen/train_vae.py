"""Trains the tiny AutoencoderKLQwenImage (16 latent channels, 8x) on rendered scenes and stores the latents' mean and deviation."""

import argparse
import math
import random
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLQwenImage
from PIL import Image
from qwen.vae_plane import decode, encode, planes, with_planes
from scenes.edit import random_edit, render
from scenes.edit_check import fulfilment, preservation


def pixels(pictures) -> torch.Tensor:
    """RGB pictures as (n, 3, 64, 64) in [-1, 1]."""
    return torch.from_numpy(np.stack([np.asarray(p) for p in pictures])).float().permute(0, 3, 1, 2) / 127.5 - 1


def pictures_of(x: torch.Tensor) -> list[Image.Image]:
    """(n, 3, 64, 64) in about [-1, 1] as RGB pictures."""
    return [Image.fromarray(((p.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()) for p in x]


def untrained() -> AutoencoderKLQwenImage:
    """A VAE with the real architecture's stages, narrow and with one residual block in each."""
    return AutoencoderKLQwenImage(
        base_dim=8, z_dim=16, dim_mult=[1, 2, 4, 4], num_res_blocks=1, attn_scales=[], temperal_downsample=[False, True, True]
    )


def starting_planes(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Trainable planes that start well.

    The 3D default gives kernels of a third of the variance that a picture's plane needs, and the loss stalls. Convolutions between
    blocks get deviation 1/sqrt(fan in), the last one of each residual branch a tenth of the default, biases zero.
    """
    between = ("resample", "conv_in", "conv_out", "quant_conv", "conv_shortcut")
    weights = {}
    for name, value in planes(state).items():
        if state[name].ndim == 5:
            value *= state[name].shape[2] ** 0.5
        if name.endswith("bias"):
            value.zero_()
        elif any(part in name for part in between):
            value *= 3**0.5
        elif name.endswith(("conv2.weight", "proj.weight")):
            value *= 0.1
        layout = torch.channels_last if value.ndim == 4 and "gamma" not in name else torch.contiguous_format
        weights[name] = value.contiguous(memory_format=layout).requires_grad_()
    return weights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/edit-vae"))
    parser.add_argument("--steps", type=int, default=2600)
    parser.add_argument("--batch", type=int, default=12)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--noise", type=float, default=0.1, help="deviation of the noise on the latents")
    parser.add_argument("--pool", type=int, default=2000, help="rendered edits to draw from")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    rng = random.Random(0)

    vae = untrained()
    config, state = dict(vae.config), vae.state_dict()
    weights = starting_planes(state)
    parameters = list(weights.values())
    edits = [random_edit(rng) for _ in range(args.pool)]
    pool = pixels([render(scene) for edit in edits for scene in (edit.source, edit.target)])
    optimizer = torch.optim.AdamW(parameters, lr=args.lr, betas=(0.9, 0.99), weight_decay=0)
    start, average = time.time(), None
    for step in range(args.steps):
        decay = max(0.02, 0.5 * (1 + math.cos(math.pi * step / args.steps)))
        optimizer.param_groups[0]["lr"] = args.lr * min(1, (step + 1) / 50) * decay
        x = pool[torch.randint(len(pool), (args.batch,))].contiguous(memory_format=torch.channels_last)
        z = encode(weights, config, x)
        y = decode(weights, config, z + args.noise * torch.randn_like(z))
        l1 = (y - x).abs().mean()
        loss = l1 + 0.5 * (y - x).square().mean() + 1e-4 * (z.square() - 1).relu().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        average = l1.item() if average is None else 0.97 * average + 0.03 * l1.item()
        if step % 100 == 99:
            print(step + 1, "L1", round(average, 4), round(time.time() - start), "s", flush=True)

    with torch.no_grad():
        z = torch.cat([encode(weights, config, chunk) for chunk in pool[:1000].split(100)])
        vae.load_state_dict(with_planes(state, weights))
        vae.register_to_config(
            latents_mean=[round(m, 4) for m in z.mean((0, 2, 3)).tolist()], latents_std=[round(s, 4) for s in z.std((0, 2, 3)).tolist()]
        )
        vae.save_pretrained(args.out)
        edits = [random_edit(rng) for _ in range(300)]
        x = pixels([render(edit.target) for edit in edits])
        y = decode(weights, config, encode(weights, config, x))
    noise = ((y.clamp(-1, 1) - x) / 2).square().mean().item()
    shown = [(render(edit.source), edit.instruction, picture) for edit, picture in zip(edits, pictures_of(y))]
    fulfilled, kept = (np.mean([score(*case) for case in shown]) for score in (fulfilment, preservation))
    print(f"after encode and decode: {-10 * math.log10(noise):.1f} dB, fulfilment {fulfilled:.3f}, preservation {kept:.3f}")
    print("latent mean", vae.config.latents_mean, "deviation", vae.config.latents_std)


if __name__ == "__main__":
    main()
