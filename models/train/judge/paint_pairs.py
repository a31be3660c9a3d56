"""Paints pairs of pictures as a run samples them: two candidates of a caption from the same noise, with noise in the first steps.

Writes a NumPy archive: `captions`, `pictures` (pairs, 2, 64, 64, 3) and `policy`, what painted them.
"""

import argparse
import json
import random
from pathlib import Path

import numpy as np
import torch
from diffusers import FluxPipeline
from flux.check_signal import sampled
from flux.flux_training import CHANNELS, SIDE, TEXT_LENGTH, images_of
from scenes.scene import check, parse


def captions_of(file: Path) -> list[str]:
    """A caption a line, or the `prompt` of a record a line."""
    lines = file.read_text().splitlines()
    return [json.loads(line)["prompt"] for line in lines] if file.suffix == ".jsonl" else lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("out", type=Path, help="file to write, .npz")
    parser.add_argument("--model", type=Path, default=Path("models/tiny-flux"), help="FluxPipeline folder")
    parser.add_argument("--adapter", type=Path, help="folder of an adapter, as `gavel export` writes it; without it the base paints")
    parser.add_argument("--captions", type=Path, default=Path("configs/quickstart/prompts.txt"), help="prompts, .txt or .jsonl")
    parser.add_argument("--without", type=Path, nargs="*", default=[], help="files of captions that are left out")
    parser.add_argument("--count", type=int, default=1000, help="pairs")
    parser.add_argument("--eta", type=float, default=2.0)
    parser.add_argument("--noise-steps", type=int, default=3)
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)

    pipe = FluxPipeline.from_pretrained(args.model, dtype=torch.float32)
    if args.adapter:
        pipe.load_lora_weights(args.adapter)
    rng = random.Random(args.seed)
    left_out = {text for file in args.without for text in captions_of(file)}
    known, captions = [text for text in captions_of(args.captions) if text not in left_out], []
    while len(captions) < args.count:
        captions += rng.sample(known, min(len(known), args.count - len(captions)))
    pictures = []
    for start in range(0, len(captions), 50):
        part = captions[start : start + 50]
        with torch.no_grad():
            embeds, pooled, _ = pipe.encode_prompt(part, None, max_sequence_length=TEXT_LENGTH)
        noise = torch.randn(len(part), SIDE * SIDE, CHANNELS)
        both = [images_of(pipe.vae, sampled(pipe.transformer, noise, embeds, pooled, args.noise_steps, args.eta)[0]) for _ in range(2)]
        pictures += zip(*both)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.array([[np.asarray(image) for image in pair] for pair in pictures])
    np.savez_compressed(args.out, captions=np.array(captions), pictures=pixels, policy=np.array(str(args.adapter or args.model)))
    facts = [[check(image, parse(text))["mean"] for image in pair] for text, pair in zip(captions, pictures)]
    print(f"{args.out}: facts {np.mean(facts):.3f}, pairs told apart {np.mean([a != b for a, b in facts]):.3f}")


if __name__ == "__main__":
    main()
