"""Checks that diffusers and peft load an adapter that Gavel wrote, and paint the same picture as `gavel sample`.

Three comparisons, in float32:
1. `pipe.load_lora_weights(DIR)` and `gavel sample --adapter DIR` from the same latents, with and without a negative prompt: the
   pictures differ by at most `--pixels` levels in any channel of any pixel;
2. adapter and negative prompt change the picture at all (a comparison that would also pass without them proves nothing);
3. `PeftModel.from_pretrained(transformer, DIR)` and diffusers with the adapter predict the same velocity.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from peft import PeftModel
from PIL import Image
from safetensors.torch import save_file

PROMPTS = ("a red circle left of a blue square on a white background", "a green triangle on a black background")
NEGATIVE, TRUE_CFG = "a purple circle on a gray background", 2.0
SIZE, STEPS, GUIDANCE, TEXT_LENGTH = 64, 8, 3.5, 24


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gavel", required=True, help="the gavel binary")
    parser.add_argument("--model", required=True, help="a diffusers FLUX folder")
    parser.add_argument("--adapter", required=True, help="a PEFT folder written by gavel")
    parser.add_argument("--pixels", type=int, default=1, help="largest difference allowed in an 8-bit channel")
    return parser.parse_args()


def gavel_sample(args, prompt: str, latents: Path, out: Path, negative: str | None = None) -> np.ndarray:
    """Paints with `gavel sample` and the adapter."""
    command = [args.gavel, "sample", "--model", args.model, "--adapter", args.adapter, "--prompt", prompt]
    command += ["--steps", str(STEPS), "--size", f"{SIZE}x{SIZE}", "--latents", str(latents), "--sampler", "ode"]
    command += ["--max-sequence-length", str(TEXT_LENGTH), "--out", str(out)]
    if negative is not None:
        command += ["--negative", negative, "--true-cfg-scale", str(TRUE_CFG)]
    subprocess.run(command, check=True)
    return np.asarray(Image.open(out).convert("RGB"), dtype=np.int16)


def diffusers_sample(pipe: FluxPipeline, prompt: str, latents: torch.Tensor, negative: str | None = None) -> np.ndarray:
    """Paints with diffusers' own pipeline."""
    image = pipe(
        prompt,
        height=SIZE,
        width=SIZE,
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        max_sequence_length=TEXT_LENGTH,
        latents=latents.clone(),
        negative_prompt=negative,
        true_cfg_scale=1.0 if negative is None else TRUE_CFG,
    ).images[0]
    return np.asarray(image.convert("RGB"), dtype=np.int16)


def velocity(transformer, pipe: FluxPipeline, latents: torch.Tensor) -> torch.Tensor:
    """One forward of a transformer at sigma 0.7."""
    embeds, pooled, text_ids = pipe.encode_prompt(PROMPTS[0], None, max_sequence_length=TEXT_LENGTH)
    side = SIZE // 16
    image_ids = torch.zeros(side, side, 3)
    image_ids[..., 1] = torch.arange(side)[:, None]
    image_ids[..., 2] = torch.arange(side)[None]
    return transformer(
        hidden_states=latents,
        timestep=torch.tensor([0.7]),
        guidance=torch.tensor([GUIDANCE]),
        pooled_projections=pooled,
        encoder_hidden_states=embeds,
        txt_ids=text_ids,
        img_ids=image_ids.reshape(-1, 3),
        return_dict=False,
    )[0]


@torch.no_grad()
def main() -> int:
    args = arguments()
    torch.manual_seed(0)
    pipe = FluxPipeline.from_pretrained(args.model)
    pipe.set_progress_bar_config(disable=True)
    tokens = (SIZE // 16) ** 2
    latents = [torch.randn(1, tokens, 64) for _ in PROMPTS]
    plain = [diffusers_sample(pipe, prompt, x) for prompt, x in zip(PROMPTS, latents)]

    pipe.load_lora_weights(args.adapter)
    problems = []
    with tempfile.TemporaryDirectory() as folder:
        for i, (prompt, x) in enumerate(zip(PROMPTS, latents)):
            file = Path(folder) / f"latents-{i}.safetensors"
            save_file({"latents": x}, file)
            theirs = diffusers_sample(pipe, prompt, x)
            ours = gavel_sample(args, prompt, file, Path(folder) / f"{i}.png")
            difference = int(np.abs(theirs - ours).max())
            effect = int(np.abs(theirs - plain[i]).max())
            print(f"`{prompt}`: gavel against diffusers {difference} levels, adapter against base {effect} levels")
            if difference > args.pixels:
                problems.append(f"pictures differ by {difference} levels, {args.pixels} allowed")
            if effect <= 4 * args.pixels:
                problems.append(f"the adapter changes the picture by {effect} levels only: this proves nothing")
            away = diffusers_sample(pipe, prompt, x, NEGATIVE)
            difference = int(np.abs(away - gavel_sample(args, prompt, file, Path(folder) / f"{i}-cfg.png", NEGATIVE)).max())
            effect = int(np.abs(away - theirs).max())
            print(f"  with a negative prompt: gavel against diffusers {difference} levels, with against without {effect} levels")
            if difference > args.pixels:
                problems.append(f"pictures with a negative prompt differ by {difference} levels, {args.pixels} allowed")
            if effect <= 4 * args.pixels:
                problems.append(f"the negative prompt changes the picture by {effect} levels only: this proves nothing")

    with_lora = velocity(pipe.transformer, pipe, latents[0])
    fresh = FluxTransformer2DModel.from_pretrained(args.model, subfolder="transformer")
    peft_model = PeftModel.from_pretrained(fresh, args.adapter)
    with_peft = velocity(peft_model, pipe, latents[0])
    error = float((with_lora - with_peft).abs().max() / with_lora.abs().max())
    print(f"peft against diffusers: relative error {error:.1e}")
    if error > 1e-5:
        problems.append(f"peft and diffusers disagree by {error:.1e}")

    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
