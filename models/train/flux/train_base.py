"""Later stages of the tiny FLUX's transformer: fine-tuning on large, little scattered shapes, and on partly careless pictures.

With `--careless 0` every picture shows its caption's scene. With a share above 0, that share of the pictures shows a purple
circle on a gray background whatever the caption asks: the model then paints faithful pictures only some of the time, an
ability that reinforcement can bring out. Text encoders and VAE stay as they are.
"""

import argparse
import math
import random
import time
from pathlib import Path

import torch
from diffusers import FluxPipeline
from flux.flux_training import TEXT_LENGTH, contact_sheet, flow_matching_loss, latents_of, ode_pictures, report
from scenes.scene import Scene, caption, random_scene, render

CARELESS = Scene((("purple", "circle"),), None, "gray")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("source", type=Path, help="FluxPipeline folder to start from")
    parser.add_argument("out", type=Path, help="FluxPipeline folder to write")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--pool", type=int, default=8000, help="rendered scenes to draw from")
    parser.add_argument("--two-objects", type=float, default=0.8, help="share of two-object scenes")
    parser.add_argument("--spread", type=float, default=0.3, help="range of sizes and positions; 1 is the full range")
    parser.add_argument("--careless", type=float, default=0.0, help="share of careless pictures")
    parser.add_argument("--average", type=float, default=0.998, help="decay of the weight average that is saved")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    rng = random.Random(args.seed)

    pipe = FluxPipeline.from_pretrained(args.source)
    pipe.set_progress_bar_config(disable=True)
    scenes = [random_scene(rng, args.two_objects) for _ in range(args.pool)]
    shown = [CARELESS if rng.random() < args.careless else scene for scene in scenes]
    latents = latents_of(pipe.vae, [render(scene, rng, args.spread) for scene in shown])
    with torch.no_grad():
        encoded = [
            pipe.encode_prompt([caption(s) for s in scenes[k : k + 200]], None, max_sequence_length=TEXT_LENGTH)[:2]
            for k in range(0, args.pool, 200)
        ]
    embeds, pooled = (torch.cat(column) for column in zip(*encoded))

    parameters = list(pipe.transformer.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=args.lr, betas=(0.9, 0.99), weight_decay=1e-3)
    average = [p.detach().clone() for p in parameters]
    start, loss_average = time.time(), None
    pipe.transformer.train()
    for step in range(args.steps):
        decay = 0.5 * (1 + math.cos(math.pi * step / args.steps)) + 0.02
        optimizer.param_groups[0]["lr"] = args.lr * min(1, (step + 1) / 100) * decay
        rows = torch.randint(args.pool, (args.batch,))
        loss = flow_matching_loss(pipe.transformer, latents[rows], embeds[rows], pooled[rows], shifted=step % 2 == 0)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, parameters, 1 - min(args.average, (1 + step) / (10 + step)))
        loss_average = loss.item() if loss_average is None else 0.98 * loss_average + 0.02 * loss.item()
        if step % 100 == 99:
            print(step + 1, "loss", round(loss_average, 4), round(time.time() - start), "s", flush=True)

    for p, mean in zip(parameters, average):
        p.data.copy_(mean)
    pipe.transformer.eval()
    pipe.save_pretrained(args.out)
    fresh = random.Random(99)
    scenes = [random_scene(fresh, 0.9) for _ in range(128)]
    images = ode_pictures(pipe, [caption(scene) for scene in scenes])
    print(report(images, scenes))
    contact_sheet(images, args.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
