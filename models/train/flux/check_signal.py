"""How much of the policy gradient is common to different prompts, if the pixel rules themselves chose between two pictures.

Two pictures of each caption are painted from the same initial noise by the stochastic sampler that the reinforcement uses. The gradient of
log p(better) - log p(worse) with respect to the layers that LoRA adapts is summed over each quarter of the captions. The cosine between two
quarters' gradients is what they share: near 0, a step helps its own pairs and no other prompt. Captions whose pictures the rules do not tell
apart give no gradient.
"""

import argparse
import itertools
import math
from pathlib import Path

import numpy as np
import torch
from diffusers import FluxPipeline
from flux.flux_training import CHANNELS, SIDE, TEXT_LENGTH, images_of, velocity
from scenes.scene import check, parse

LAYERS = (
    "attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0", "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj",
    "attn.to_add_out", "ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2",
)
T = torch.linspace(1, 0, 9)
SIGMAS = 3 * T / (1 + 2 * T)


def transition(v, x, i: int, eta: float):
    """Mean and standard deviation of step `i` of DanceGRPO's sampler."""
    s, d = float(SIGMAS[i]), float(SIGMAS[i + 1] - SIGMAS[i])
    score = -(x - (1 - s) * (x - s * v)) / s**2
    return x + d * v - 0.5 * eta**2 * score * d, eta * math.sqrt(-d)


@torch.no_grad()
def sampled(transformer, x, embeds, pooled, noise_steps: int, eta: float):
    """Final latents, and the latents before and after each noisy step."""
    states = [x]
    for i in range(len(SIGMAS) - 1):
        v = velocity(transformer, x, SIGMAS[i].expand(len(x)), embeds, pooled)
        if i < noise_steps:
            mean, deviation = transition(v, x, i, eta)
            x = mean + deviation * torch.randn_like(mean)
            states.append(x)
        else:
            x = x + float(SIGMAS[i + 1] - SIGMAS[i]) * v
    return x, states


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("folder", type=Path, help="FluxPipeline folder")
    parser.add_argument("--prompts", type=Path, default=Path("configs/quickstart-graded/prompts.txt"))
    parser.add_argument("--captions", type=int, default=240)
    parser.add_argument("--eta", type=float, default=2.0)
    parser.add_argument("--noise-steps", type=int, default=3)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)

    pipe = FluxPipeline.from_pretrained(args.folder, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    transformer = pipe.transformer.requires_grad_(False)
    weights = [p for name, p in transformer.named_parameters() if name.removesuffix(".weight").endswith(LAYERS)]
    captions = args.prompts.read_text().splitlines()[: args.captions]
    with torch.no_grad():
        embeds, pooled, _ = pipe.encode_prompt(captions, None, max_sequence_length=TEXT_LENGTH)

    noise = torch.randn(len(captions), SIDE * SIDE, CHANNELS)
    pairs = [sampled(transformer, noise, embeds, pooled, args.noise_steps, args.eta) for _ in range(2)]
    facts = [[check(i, parse(c))["mean"] for i, c in zip(images_of(pipe.vae, x), captions)] for x, _ in pairs]
    better = np.sign(np.subtract(*facts))

    gradients = []
    for quarter in range(4):
        rows = [k for k in range(quarter, len(captions), 4) if better[k]]
        for p in weights:
            p.requires_grad_(True).grad = None
        for start in range(0, len(rows), 32):
            some = rows[start : start + 32]
            for side, (_, states) in zip((1, -1), pairs):
                signs = side * torch.tensor(better[some], dtype=torch.float32)
                for i in range(min(args.noise_steps, len(SIGMAS) - 2)):
                    x, then = states[i][some], states[i + 1][some]
                    v = velocity(transformer, x, SIGMAS[i].expand(len(some)), embeds[some], pooled[some])
                    mean, deviation = transition(v, x, i, args.eta)
                    (signs * ((then - mean) ** 2).mean(dim=(1, 2)) / (2 * deviation**2)).sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in weights]))
    cosines = [float(torch.cosine_similarity(a, b, dim=0)) for a, b in itertools.combinations(gradients, 2)]
    print(f"{args.folder}: facts {np.mean(facts):.3f}, pairs told apart {np.mean(better != 0):.3f}")
    print(f"cosine between quarters {np.mean(cosines):.3f}, the six of them {' '.join(f'{c:.3f}' for c in cosines)}")


if __name__ == "__main__":
    main()
