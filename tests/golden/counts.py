"""Makes counts.png and counts.json: pictures with the facts that models/train/scenes/scene.py finds in them under captions that say a number.

Run from the repository root: python tests/golden/counts.py
Made with numpy 2.4, Pillow 13, torch 2, diffusers: rendered scenes under their own and under foreign captions, clean ones and such as
went through the VAE of models/tiny-flux with noise and mixed with another scene, whose pieces are blurred, merged, small and too many.
"""

import json
import random
import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "models" / "train"))
from flux.flux_training import images_of, latents_of  # noqa: E402
from scenes import scene as world  # noqa: E402

COLUMNS, CLEAN, SPOILED = 20, 60, 80


def spoiled(images, others):
    """Each picture with up to half of another one's latents, and noise."""
    vae = AutoencoderKL.from_pretrained(ROOT / "models" / "tiny-flux" / "vae").eval()
    generator = torch.Generator().manual_seed(8)
    one, other = latents_of(vae, images), latents_of(vae, others)
    share, level = (torch.rand(len(images), 1, 1, generator=generator) for _ in range(2))
    return images_of(vae, torch.lerp(one, other, 0.5 * share) + 0.5 * level * torch.randn(one.shape, generator=generator))


def drawn(rng, counts):
    """A scene, with a number in the share `counts`."""
    return world.random_count_scene(rng) if rng.random() < counts else world.random_scene(rng)


def main():
    rng = random.Random(5)
    scenes = [drawn(rng, 0.8) for _ in range(CLEAN + SPOILED)]
    images = [world.render(scene, rng) for scene in scenes]
    images[CLEAN:] = spoiled(images[CLEAN:], [world.render(drawn(rng, 0.6), rng) for _ in range(SPOILED)])
    sheet = Image.new("RGB", (COLUMNS * 64, -(-len(images) // COLUMNS) * 64))
    cases = []
    for tile, (scene, image) in enumerate(zip(scenes, images, strict=True)):
        sheet.paste(image, (tile % COLUMNS * 64, tile // COLUMNS * 64))
        other = world.Scene(scene.objects[:1], None, scene.background, rng.choice(list(world.NUMBERS)))
        for asked in (scene, other if rng.random() < 0.7 else world.random_count_scene(rng)):
            facts = world.check(image, asked)
            share = facts.pop("mean")
            facts.pop("all")
            cases.append({"tile": tile, "prompt": world.caption(asked), "facts": facts, "share": share})
    here = Path(__file__).parent
    sheet.save(here / "counts.png", optimize=True)
    lines = ",\n".join(json.dumps(case) for case in cases)
    (here / "counts.json").write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
