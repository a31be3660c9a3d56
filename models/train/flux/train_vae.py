"""Trains the tiny AutoencoderKL (16 latent channels, 8x) on rendered scenes and stores its scaling and shift factors."""

import argparse
import math
import random
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from PIL import Image
from scenes.scene import check, random_scene, render


def pixels(images) -> torch.Tensor:
    """RGB images as (n, 3, 64, 64) in [-1, 1]."""
    return torch.from_numpy(np.stack([np.asarray(i) for i in images])).float().permute(0, 3, 1, 2) / 127.5 - 1


def image(x: torch.Tensor) -> Image.Image:
    """(3, 64, 64) in [-1, 1] as an RGB image."""
    return Image.fromarray(((x.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/vae"))
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--pool", type=int, default=2000, help="rendered scenes to draw from")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    rng = random.Random(0)

    vae = AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=16, block_out_channels=(8, 16, 32, 32), layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, norm_num_groups=8,
        mid_block_add_attention=True, use_quant_conv=False, use_post_quant_conv=False, sample_size=64,
    ).to(memory_format=torch.channels_last)
    pool = pixels([render(random_scene(rng), rng) for _ in range(args.pool)])
    optimizer = torch.optim.AdamW(vae.parameters(), lr=args.lr, weight_decay=1e-4)
    start = time.time()
    for step in range(args.steps):
        decay = 0.5 * (1 + math.cos(math.pi * step / args.steps)) + 0.01
        optimizer.param_groups[0]["lr"] = args.lr * min(1, step / 100) * decay
        x = pool[torch.randint(len(pool), (args.batch,))]
        posterior = vae.encode(x).latent_dist
        y = vae.decode(posterior.sample()).sample
        kl = posterior.kl().mean() / (16 * 64)
        loss = F.mse_loss(y, x) + 0.3 * F.l1_loss(y, x) + 2e-4 * kl
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 0:
            print(step, "loss", round(loss.item(), 5), "kl", round(kl.item(), 3), round(time.time() - start), "s", flush=True)

    vae.eval()
    with torch.no_grad():
        z = torch.cat([vae.encode(chunk).latent_dist.mean for chunk in pool[:1000].split(100)])
        vae.register_to_config(scaling_factor=round(1 / float(z.std()), 4), shift_factor=round(float(z.mean()), 4))
        vae.save_pretrained(args.out)
        fresh = random.Random(5)
        kept = []
        for _ in range(300):
            scene = random_scene(fresh)
            y = vae.decode(vae.encode(pixels([render(scene, fresh)])).latent_dist.mean).sample[0]
            kept.append(check(image(y), scene)["all"])
    print("scenes whose facts all hold after encode and decode", float(np.mean(kept)))


if __name__ == "__main__":
    main()
