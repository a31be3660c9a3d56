"""Checks that diffusers and peft load an adapter of Qwen-Image-Edit that Gavel wrote, and make the same edit as `gavel sample`.

In float32:
1. the adapter binds to as many modules in diffusers and in peft as Gavel's files name: diffusers only warns when no key fits;
2. `pipe.load_lora_weights(DIR)` and `gavel sample --adapter DIR` from the same latents and source, with and without a negative
   prompt: the pictures differ by at most `--pixels` levels in any channel of any pixel;
3. adapter and negative prompt change the picture at all;
4. `PeftModel.from_pretrained(transformer, DIR)` and diffusers with the adapter predict the same velocity.

Two things are set so that both sides compute the same: sources are resized to `SIZE` squared instead of 1024 squared, and the text
encoder is told which tokens are pictures, which this release of diffusers leaves out and without which positions are wrong.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from diffusers import QwenImageEditPipeline, QwenImageTransformer2DModel
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit as module
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

NEGATIVE, TRUE_CFG = " ", 2.0
SIZE, STEPS = 64, 8


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gavel", required=True, help="the gavel binary")
    parser.add_argument("--model", required=True, help="a diffusers Qwen-Image-Edit folder")
    parser.add_argument("--adapter", required=True, help="an adapter folder written by gavel")
    parser.add_argument("--tasks", required=True, help="a JSONL file of edits; the first two are made")
    # One level comes from the stock processor, which resizes with torchvision; its rounding is not Pillow's.
    parser.add_argument("--pixels", type=int, default=2, help="largest difference allowed in an 8-bit channel")
    return parser.parse_args()


def pipeline(model: str) -> QwenImageEditPipeline:
    """The pipeline with small sources, and picture tokens named to the text encoder."""
    dimensions = module.calculate_dimensions
    module.calculate_dimensions = lambda area, ratio: dimensions(SIZE * SIZE, ratio)
    pipe = QwenImageEditPipeline.from_pretrained(model, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    image_token = pipe.text_encoder.config.image_token_id
    forward = pipe.text_encoder.forward

    def with_token_types(*args, **kwargs):
        kwargs["mm_token_type_ids"] = (kwargs["input_ids"] == image_token).int()
        return forward(*args, **kwargs)

    pipe.text_encoder.forward = with_token_types
    return pipe


def gavel_sample(args, instruction: str, source: Path, latents: Path, out: Path, negative: str | None = None) -> np.ndarray:
    """Edits with `gavel sample` and the adapter."""
    command = [args.gavel, "sample", "--model", args.model, "--adapter", args.adapter, "--prompt", instruction]
    command += ["--source", str(source), "--source-areas", f"{SIZE * SIZE},{SIZE * SIZE}", "--shift", "pipeline"]
    command += ["--steps", str(STEPS), "--size", f"{SIZE}x{SIZE}", "--latents", str(latents), "--sampler", "ode"]
    command += ["--out", str(out)]
    if negative is not None:
        command += ["--negative", negative, "--true-cfg-scale", str(TRUE_CFG)]
    subprocess.run(command, check=True)
    return np.asarray(Image.open(out).convert("RGB"), dtype=np.int16)


def diffusers_sample(pipe, instruction: str, source: Path, latents: torch.Tensor, negative: str | None = None) -> np.ndarray:
    """Edits with diffusers' own pipeline."""
    edited = pipe(
        Image.open(source).convert("RGB"),
        instruction,
        height=SIZE,
        width=SIZE,
        num_inference_steps=STEPS,
        latents=latents.clone(),
        negative_prompt=negative,
        true_cfg_scale=1.0 if negative is None else TRUE_CFG,
    )
    return np.asarray(edited.images[0].convert("RGB"), dtype=np.int16)


def velocity(transformer, latents: torch.Tensor) -> torch.Tensor:
    """One forward of a transformer at sigma 0.7, with a source of noise and words of noise."""
    generator = torch.Generator().manual_seed(1)
    side = SIZE // 16
    words = torch.randn(1, 9, transformer.config.joint_attention_dim, generator=generator)
    return transformer(
        hidden_states=torch.cat([latents, torch.randn(latents.shape, generator=generator)], 1),
        encoder_hidden_states=words,
        timestep=torch.tensor([0.7]),
        img_shapes=[[(1, side, side)] * 2],
        return_dict=False,
    )[0]


def bound_modules(model) -> int:
    """How many layers carry an adapter."""
    return sum(isinstance(layer, LoraLayer) for layer in model.modules())


def named_modules(adapter: str) -> int:
    """How many layers the adapter's files name."""
    with safe_open(Path(adapter) / "adapter_model.safetensors", "pt") as file:
        return sum(key.endswith("lora_A.weight") for key in file.keys())


@torch.no_grad()
def main() -> int:
    args = arguments()
    torch.manual_seed(0)
    tasks = [json.loads(line) for line in Path(args.tasks).read_text().splitlines()[:2]]
    edits = [(task["instruction"], Path(args.tasks).parent / task["source_image"]) for task in tasks]
    pipe = pipeline(args.model)
    latents = [torch.randn(1, (SIZE // 16) ** 2, 64) for _ in edits]
    plain = [diffusers_sample(pipe, *edit, x) for edit, x in zip(edits, latents)]

    pipe.load_lora_weights(args.adapter)
    problems = []
    named, bound = named_modules(args.adapter), bound_modules(pipe.transformer)
    print(f"diffusers: the adapter is bound to {bound} of {named} layers")
    if named == 0 or bound != named:
        problems.append(f"diffusers bound {bound} of {named} layers")
    with tempfile.TemporaryDirectory() as folder:
        for i, ((instruction, source), x) in enumerate(zip(edits, latents)):
            file = Path(folder) / f"latents-{i}.safetensors"
            save_file({"latents": x}, file)
            theirs = diffusers_sample(pipe, instruction, source, x)
            ours = gavel_sample(args, instruction, source, file, Path(folder) / f"{i}.png")
            difference = int(np.abs(theirs - ours).max())
            effect = int(np.abs(theirs - plain[i]).max())
            print(f"`{instruction}`: gavel against diffusers {difference} levels, adapter against base {effect} levels")
            if difference > args.pixels:
                problems.append(f"pictures differ by {difference} levels, {args.pixels} allowed")
            if effect <= 4 * args.pixels:
                problems.append(f"the adapter changes the picture by {effect} levels only: this proves nothing")
            away = diffusers_sample(pipe, instruction, source, x, NEGATIVE)
            ours = gavel_sample(args, instruction, source, file, Path(folder) / f"{i}-cfg.png", NEGATIVE)
            difference, effect = int(np.abs(away - ours).max()), int(np.abs(away - theirs).max())
            print(f"  with a negative prompt: gavel against diffusers {difference} levels, with against without {effect} levels")
            if difference > args.pixels:
                problems.append(f"pictures with a negative prompt differ by {difference} levels, {args.pixels} allowed")
            if effect <= 4 * args.pixels:
                problems.append(f"the negative prompt changes the picture by {effect} levels only: this proves nothing")

    with_lora = velocity(pipe.transformer, latents[0])
    fresh = QwenImageTransformer2DModel.from_pretrained(args.model, subfolder="transformer", torch_dtype=torch.float32)
    without = velocity(fresh, latents[0])
    peft_model = PeftModel.from_pretrained(fresh, args.adapter)
    bound = bound_modules(peft_model)
    print(f"peft: the adapter is bound to {bound} of {named} layers")
    if bound != named:
        problems.append(f"peft bound {bound} of {named} layers")
    with_peft = velocity(peft_model, latents[0])
    error = float((with_lora - with_peft).abs().max() / with_lora.abs().max())
    effect = float((with_lora - without).abs().max() / with_lora.abs().max())
    print(f"peft against diffusers: relative error {error:.1e}; adapter against base {effect:.1e}")
    if error > 1e-5:
        problems.append(f"peft and diffusers disagree by {error:.1e}")
    if effect < 1e-3:
        problems.append(f"the adapter changes the velocity by {effect:.1e} only: this proves nothing")

    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
