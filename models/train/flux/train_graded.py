"""The graded base: transformer and text encoders of the tiny FLUX from nothing, on seen captions alone, with a training that ends early.

Every picture shows its caption's scene. Nothing but the short training makes the base mediocre. Captions of `scenes/unseen.py` are never
drawn; `--unseen-check` of them are painted at each report, beside as many seen ones. The VAE is the shipped one, which knows no captions.
With `--counts` a share of the captions says two, three or four, and these are painted for the report by themselves.
"""

import argparse
import random
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, FluxPipeline
from flux.flux_tokenizers import clip_tokenizer, t5_tokenizer
from flux.flux_training import contact_sheet, flow_matching_loss, latents_of, ode_pictures, report
from flux.train_flux import pipeline
from scenes.scene import caption, check, render
from scenes.unseen import every_count_scene, every_scene, kind_of_unseen
from transformers import CLIPTokenizer, PreTrainedTokenizerFast


def drawn(scenes, rng: random.Random, two_objects: float, counted=(), counts: float = 0.0):
    """A scene: of the share `counts` one of `counted`, of the rest one with two objects in the share `two_objects`."""
    one, two = ([s for s in scenes if bool(s.relation) == wanted] for wanted in (False, True))
    while True:
        if counted and rng.random() < counts:
            yield rng.choice(counted)
        else:
            yield rng.choice(two if rng.random() < two_objects else one)


def parted(scenes) -> tuple[list, list]:
    """Those that may be seen, and those that are not."""
    seen = [s for s in scenes if kind_of_unseen(s) is None]
    return seen, [s for s in scenes if kind_of_unseen(s) is not None]


def graded(images, scenes) -> str:
    """The report, and how many pictures have which tenth of their facts."""
    means = [check(image, scene)["mean"] for image, scene in zip(images, scenes)]
    histogram = np.histogram(means, bins=np.linspace(0, 1.0001, 11))[0]
    return f"{report(images, scenes)} | pictures by tenths of facts {histogram.tolist()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--vae", type=Path, default=Path("models/tiny-flux/vae"))
    parser.add_argument("--tokenizers", type=Path, help="folder whose tokenizers are taken; left out, they are made from the seen captions")
    parser.add_argument("--start", type=Path, help="folder of an earlier report, to go on from its weights with its tokenizers")
    parser.add_argument("--out", type=Path, default=Path("out/tiny-flux-graded"))
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--pool", type=int, default=8000, help="rendered scenes to draw from")
    parser.add_argument("--two-objects", type=float, default=0.8, help="share of two-object scenes")
    parser.add_argument("--counts", type=float, default=0.0, help="share of scenes of two to four of one object")
    parser.add_argument("--spread", type=float, default=0.3, help="range of sizes and positions; 1 is the full range")
    parser.add_argument("--average", type=float, default=0.998, help="decay of the weight average that is saved")
    parser.add_argument("--report-every", type=int, default=500, help="steps between reports, each with a folder of the weights so far")
    parser.add_argument("--unseen-check", type=int, default=128)
    parser.add_argument("--half", action="store_true", help="store transformer and text encoders in f16")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    rng = random.Random(args.seed)

    seen, unseen = parted(every_scene())
    counted, counted_unseen = parted(every_count_scene() if args.counts else [])
    tokenizers = args.start or args.tokenizers
    if tokenizers:
        clip = CLIPTokenizer.from_pretrained(tokenizers / "tokenizer")
        t5 = PreTrainedTokenizerFast.from_pretrained(tokenizers / "tokenizer_2")
    else:
        corpus = [caption(s) for s in seen + counted]
        clip, t5 = clip_tokenizer(corpus, args.out / "tokenizer"), t5_tokenizer(corpus)
    pipe = pipeline(AutoencoderKL.from_pretrained(args.vae).eval(), clip, t5)
    if args.start:
        earlier = FluxPipeline.from_pretrained(args.start, dtype=torch.float32)
        for name in ("transformer", "text_encoder", "text_encoder_2"):
            getattr(pipe, name).load_state_dict(getattr(earlier, name).state_dict())
    draws = drawn(seen, rng, args.two_objects, counted, args.counts)
    scenes = [next(draws) for _ in range(args.pool)]
    latents = latents_of(pipe.vae, [render(scene, rng, args.spread) for scene in scenes])
    captions = [caption(scene) for scene in scenes]
    # Words after the end token cannot be read by what pools at it: CLIP's padding to 77 would only cost time.
    clip_ids = pipe.tokenizer(captions, padding="longest", return_tensors="pt").input_ids
    t5_ids = pipe.tokenizer_2(captions, padding="max_length", max_length=24, return_tensors="pt").input_ids
    fresh = random.Random(99)
    groups = {"unseen": unseen, "seen": seen, "counts-unseen": counted_unseen, "counts-seen": counted}
    checks = {name: fresh.sample(of, min(len(of), args.unseen_check)) for name, of in groups.items() if of}

    parts = (pipe.transformer, pipe.text_encoder, pipe.text_encoder_2)
    parameters = [p for part in parts for p in part.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=args.lr, weight_decay=1e-3, betas=(0.9, 0.99))
    average = [p.detach().clone() for p in parameters]
    start, mean_loss = time.time(), None

    def save(step: int) -> None:
        """Writes the averaged weights, paints with them as they were written, and goes on with the others."""
        current = [p.detach().clone() for p in parameters]
        for p, mean in zip(parameters, average):
            p.data.copy_(mean)
        for part in parts:
            part.eval()
        folder = args.out if step == args.steps else args.out.with_name(f"{args.out.name}-{step}")
        for part in parts:
            part.to(torch.float16 if args.half else torch.float32)
        pipe.save_pretrained(folder)
        for part in parts:
            part.to(torch.float32)
        for name, of in checks.items():
            images = ode_pictures(pipe, [caption(scene) for scene in of])
            print(step, name, graded(images, of), flush=True)
            contact_sheet(images, folder.with_name(f"{folder.name}-{name}.png"))
        for p, kept in zip(parameters, current):
            p.data.copy_(kept)
        for part in parts:
            part.train()

    for part in parts:
        part.train()
    for step in range(args.steps):
        optimizer.param_groups[0]["lr"] = args.lr * min(1, (step + 1) / 200)
        rows = torch.randint(args.pool, (args.batch,))
        pooled, embeds = pipe.text_encoder(clip_ids[rows]).pooler_output, pipe.text_encoder_2(t5_ids[rows])[0]
        loss = flow_matching_loss(pipe.transformer, latents[rows], embeds, pooled, shifted=step % 2 == 0)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, parameters, 1 - min(args.average, (1 + step) / (10 + step)))
        mean_loss = loss.item() if mean_loss is None else 0.98 * mean_loss + 0.02 * loss.item()
        if step % 100 == 99:
            print(step + 1, "loss", round(mean_loss, 4), round(time.time() - start), "s", flush=True)
        if (step + 1) % args.report_every == 0 or step + 1 == args.steps:
            save(step + 1)


if __name__ == "__main__":
    main()
