"""Makes scenes.png and scenes.json: pictures with the facts that models/train/scenes/scene.py finds in them.

Run from the repository root: python tests/golden/scenes.py
Made with numpy 2.4, Pillow 13, torch 2, diffusers: rendered scenes under their own and under foreign captions, and pictures
that models/tiny-flux painted, which are blurred, stray and wrong as rendered ones are not.
"""

import json
import random
import sys
from pathlib import Path

import torch
from diffusers import FluxPipeline
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "models" / "train"))
from scenes import scene as world  # noqa: E402

COLUMNS, RENDERED, PAINTED = 20, 160, 40


def painted(captions):
    """Pictures that the small FLUX paints, with few steps for some so that they are unfinished."""
    pipe = FluxPipeline.from_pretrained(ROOT / "models" / "tiny-flux")
    pipe.set_progress_bar_config(disable=True)
    half = len(captions) // 2
    images = []
    for part, steps in ((captions[:half], 8), (captions[half:], 3)):
        generator = torch.Generator().manual_seed(steps)
        images += pipe(
            part, height=64, width=64, num_inference_steps=steps, guidance_scale=3.5, max_sequence_length=24, generator=generator
        ).images
    return images


def main():
    rng = random.Random(3)
    true = [world.random_scene(rng) for _ in range(RENDERED)]
    wanted = [world.random_scene(rng) for _ in range(PAINTED)]
    images = [world.render(scene, rng) for scene in true] + painted([world.caption(scene) for scene in wanted])
    sheet = Image.new("RGB", (COLUMNS * 64, -(-len(images) // COLUMNS) * 64))
    cases = []
    for tile, (scene, image) in enumerate(zip(true + wanted, images, strict=True)):
        sheet.paste(image, (tile % COLUMNS * 64, tile // COLUMNS * 64))
        for asked in (scene, world.random_scene(rng)):
            facts = world.check(image, asked)
            share = facts.pop("mean")
            facts.pop("all")
            cases.append({"tile": tile, "prompt": world.caption(asked), "facts": facts, "share": share})
    here = Path(__file__).parent
    sheet.save(here / "scenes.png", optimize=True)
    lines = ",\n".join(json.dumps(case) for case in cases)
    (here / "scenes.json").write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
