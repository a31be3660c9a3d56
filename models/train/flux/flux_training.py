"""What the training stages of the tiny FLUX share: latents, the flow-matching loss, ODE sampling and its report."""

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from scenes.scene import check

TEXT_LENGTH, GUIDANCE, SIDE, CHANNELS = 24, 3.5, 4, 64
IMAGE_IDS = torch.zeros(SIDE, SIDE, 3)
IMAGE_IDS[..., 1] = torch.arange(SIDE)[:, None]
IMAGE_IDS[..., 2] = torch.arange(SIDE)[None]
IMAGE_IDS = IMAGE_IDS.reshape(-1, 3)
TEXT_IDS = torch.zeros(TEXT_LENGTH, 3)


@torch.no_grad()
def latents_of(vae, images) -> torch.Tensor:
    """Packed, scaled latent means of 64x64 RGB images: (n, 16 tokens, 64)."""
    x = torch.from_numpy(np.stack([np.asarray(i) for i in images])).float().permute(0, 3, 1, 2) / 127.5 - 1
    z = torch.cat([vae.encode(chunk).latent_dist.mean for chunk in x.split(100)])
    z = (z - vae.config.shift_factor) * vae.config.scaling_factor
    return z.view(-1, 16, SIDE, 2, SIDE, 2).permute(0, 2, 4, 1, 3, 5).reshape(-1, SIDE * SIDE, CHANNELS)


@torch.no_grad()
def images_of(vae, latents) -> list[Image.Image]:
    """Decodes packed latents."""
    z = latents.view(-1, SIDE, SIDE, 16, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(-1, 16, 2 * SIDE, 2 * SIDE)
    y = vae.decode(z / vae.config.scaling_factor + vae.config.shift_factor).sample
    return [Image.fromarray(((q.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()) for q in y]


def velocity(transformer, x, sigma, embeds, pooled):
    """Velocity (n, 16, 64) at noise levels `sigma` (n,)."""
    return transformer(
        hidden_states=x, timestep=sigma, guidance=torch.full((len(x),), GUIDANCE), pooled_projections=pooled,
        encoder_hidden_states=embeds, txt_ids=TEXT_IDS, img_ids=IMAGE_IDS, return_dict=False,
    )[0]


def flow_matching_loss(transformer, x0, embeds, pooled, shifted: bool):
    """Mean squared error of the velocity; noise levels are uniform with shift 3, or logit-normal."""
    n = len(x0)
    u = torch.rand(n)
    sigma = 3 * u / (1 + 2 * u) if shifted else torch.sigmoid(torch.randn(n))
    noise, s = torch.randn_like(x0), sigma[:, None, None]
    return F.mse_loss(velocity(transformer, (1 - s) * x0 + s * noise, sigma, embeds, pooled), noise - x0)


@torch.no_grad()
def ode_pictures(pipe, captions, steps=8, shift=3.0, seed=1) -> list[Image.Image]:
    """Deterministic pictures of captions from fixed initial noise."""
    embeds, pooled, _ = pipe.encode_prompt(captions, None, max_sequence_length=TEXT_LENGTH)
    x = torch.randn(len(captions), SIDE * SIDE, CHANNELS, generator=torch.Generator().manual_seed(seed))
    t = torch.linspace(1, 0, steps + 1)
    sigmas = shift * t / (1 + (shift - 1) * t)
    for now, then in zip(sigmas[:-1], sigmas[1:]):
        x = x + float(then - now) * velocity(pipe.transformer, x, now.expand(len(x)), embeds, pooled)
    return images_of(pipe.vae, x)


def report(images, scenes) -> str:
    """Share of pictures for which each fact holds, and how pictures spread between careless and faithful."""
    results = [check(image, scene) for image, scene in zip(images, scenes)]
    names = sorted({name for r in results for name in r})
    text = " ".join(f"{name} {np.mean([r[name] for r in results if name in r]):.3f}" for name in names)
    mean = np.array([r["mean"] for r in results])
    return f"{text} | mean below 0.5: {np.mean(mean < 0.5):.2f}, above 0.8: {np.mean(mean > 0.8):.2f}"


def contact_sheet(images, path, columns=16, rows=8) -> None:
    """Saves the first pictures as one PNG."""
    sheet = Image.new("RGB", (columns * 66, rows * 66))
    for k, image in enumerate(images[: columns * rows]):
        sheet.paste(image, ((k % columns) * 66, (k // columns) * 66))
    sheet.save(path)
