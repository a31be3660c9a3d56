"""Sampling of the tiny Qwen-Image-Edit as the trainer samples, and the scores of what it paints."""

import json

import numpy as np
import torch
from qwen.edit_training import CHANNELS, PREFIX_TOKENS, SHIFT, TOKENS, Parts, Prompts, decoded, latents_of, text_rows, velocity
from scenes.edit import KINDS
from scenes.edit_check import fulfilment, preservation


@torch.no_grad()
def edited(
    parts: Parts, instructions, sources, start: torch.Tensor, steps: int = 8, shift: float = SHIFT, eta: float = 0.0,
    noisy_steps: int = 0, generator: torch.Generator | None = None,
) -> list:
    """Edited pictures from initial noise `start` (n, 16, 64), without classifier-free guidance.

    The first `noisy_steps` steps add noise: with d the step in sigma (negative), v the velocity and x0 the predicted clean latents, the
    score is -(x - (1 - sigma) x0) / sigma^2, the mean x + d v - eta^2 score d / 2 and the deviation eta sqrt(-d).
    """
    prompts = Prompts.of(parts, instructions, sources)
    source, text, mask = latents_of(parts, sources), text_rows(parts, prompts), prompts.mask[:, PREFIX_TOKENS:]
    t = torch.linspace(1, 0, steps + 1)
    sigmas = (shift * t / (1 + (shift - 1) * t)).tolist()
    x = start
    for step, (sigma, then) in enumerate(zip(sigmas[:-1], sigmas[1:])):
        d = then - sigma
        v = velocity(parts.transformer, x, source, text, mask, torch.full((len(x),), sigma))
        if step < noisy_steps:
            score = -(x - (1 - sigma) * (x - sigma * v)) / sigma**2
            noise = torch.randn(x.shape, generator=generator)
            x = x + d * v - 0.5 * eta**2 * score * d + eta * (-d) ** 0.5 * noise
        else:
            x = x + d * v
    return decoded(parts, x)


def initial_noise(n: int, seed: int) -> torch.Tensor:
    """Noise (n, 16, 64) of a seed."""
    return torch.randn(n, TOKENS, CHANNELS, generator=torch.Generator().manual_seed(seed))


def scores(instructions, sources, outputs) -> np.ndarray:
    """Fulfilment and preservation of each picture, (n, 2)."""
    cases = list(zip(sources, instructions, outputs))
    return np.array([[fulfilment(*case), preservation(*case)] for case in cases])


def table(kinds, found: np.ndarray) -> str:
    """Mean fulfilment and preservation of each kind of edit and of all, as lines of a Markdown table."""
    lines = ["| edit | pictures | fulfilment | preservation | both above 0.9 |", "|---|---|---|---|---|"]
    for name in (*KINDS, "all"):
        rows = found[[name in (kind, "all") for kind in kinds]]
        whole = (rows > 0.9).all(1).mean()
        lines.append(f"| {name} | {len(rows)} | {rows[:, 0].mean():.3f} | {rows[:, 1].mean():.3f} | {whole:.3f} |")
    return "\n".join(lines)


def read_edits(path) -> list[dict[str, str]]:
    """The lines of a file of edits: `instruction` and `source_image`."""
    return [json.loads(line) for line in path.read_text().splitlines()]
