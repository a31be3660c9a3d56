"""Checks every layout of `gavel export` with the programs that it is for: each computes the velocities that Gavel recorded.

`gavel sample --trajectory` records what Gavel's denoiser predicts with the run's adapter, and what it was conditioned on. In float32, for each layout:
1. `peft`, `diffusers`, `kohya`: `pipe.load_lora_weights` binds every layer that the adapter names, and diffusers' transformer predicts the recorded
   velocities;
2. `peft`: so does `PeftModel.from_pretrained`;
3. `kohya`: the change that ComfyUI and kohya's scripts add to a layer, alpha / rank times up times down, is the one that was merged;
4. `merged`: the transformer of that folder predicts the recorded velocities without an adapter;
5. the adapter changes the velocities at all.
Then the same with the files in bfloat16, with a tolerance for the rounding of the weights.

diffusers' reader of kohya's names has the widths of FLUX.1 written into it; they are replaced by those of the small model.
"""

import argparse
import inspect
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from diffusers import FluxPipeline, FluxTransformer2DModel, QwenImageEditPipeline, QwenImageTransformer2DModel
from diffusers.loaders import lora_conversion_utils, lora_pipeline
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from safetensors import safe_open
from safetensors.torch import load_file

SIZE, STEPS = 64, 4
# float32: sums in another order; float16 and bfloat16: 11 and 8 bits of mantissa.
TOLERANCE = {"f32": 2e-5, "f16": 1e-3, "bf16": 1e-2}
ROUNDING = {"f32": 1e-6, "f16": 2**-11, "bf16": 2**-8}

# FLUX's original layers and the diffusers' layers that their rows are, as `comfy.utils.flux_to_diffusers` has them.
DOUBLE = {
    "img_attn_qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "img_attn_proj": ("attn.to_out.0",),
    "img_mlp_0": ("ff.net.0.proj",),
    "img_mlp_2": ("ff.net.2",),
    "txt_attn_qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "txt_attn_proj": ("attn.to_add_out",),
    "txt_mlp_0": ("ff_context.net.0.proj",),
    "txt_mlp_2": ("ff_context.net.2",),
}
SINGLE = {"linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"), "linear2": ("proj_out",)}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gavel", required=True, help="the gavel binary")
    parser.add_argument("--model", required=True, help="a diffusers folder, FLUX or Qwen-Image-Edit")
    parser.add_argument("--run", required=True, help="the folder of a run on this model")
    parser.add_argument("--source", help="the picture to edit, for a model that edits")
    return parser.parse_args()


class Recorded:
    """A trajectory of Gavel's: what its denoiser read and predicted."""

    def __init__(self, args, adapter: Path, folder: Path):
        file = folder / "trajectory.safetensors"
        command = [args.gavel, "sample", "--model", args.model, "--adapter", str(adapter), "--prompt", "a red circle"]
        command += ["--steps", str(STEPS), "--size", f"{SIZE}x{SIZE}", "--trajectory", str(file)]
        command += ["--out", str(folder / "picture.png")]
        if args.source:
            command += ["--source", args.source, "--source-areas", f"{SIZE * SIZE},{SIZE * SIZE}"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        self.tensors = load_file(file)
        with safe_open(file, "pt") as opened:
            self.metadata = opened.metadata()

    def error(self, transformer) -> float:
        """The largest difference of a predicted velocity from the recorded one, in parts of the largest velocity."""
        errors = []
        for step in range(STEPS):
            expected = self.tensors["velocities"][step]
            found = self.velocity(transformer, step)
            errors.append(float((found - expected).abs().max() / expected.abs().max()))
        return max(errors)

    def velocity(self, transformer, step: int) -> torch.Tensor:
        latents = self.tensors["latents"][step][None]
        words = self.tensors["conditioning.prompt_embeds"][None]
        timestep = self.tensors["sigmas"][step][None]
        rows, columns = int(self.metadata["height_tokens"]), int(self.metadata["width_tokens"])
        if self.metadata["family"] == "flux":
            image_ids = torch.zeros(rows, columns, 3)
            image_ids[..., 1] = torch.arange(rows)[:, None]
            image_ids[..., 2] = torch.arange(columns)[None]
            return transformer(
                hidden_states=latents,
                timestep=timestep,
                guidance=torch.tensor([float(self.metadata["guidance_scale"])]),
                pooled_projections=self.tensors["conditioning.pooled_prompt_embeds"][None],
                encoder_hidden_states=words,
                txt_ids=torch.zeros(words.shape[1], 3),
                img_ids=image_ids.reshape(-1, 3),
                return_dict=False,
            )[0][0]
        source = self.tensors["conditioning.source_latents.0"]
        shapes = [(1, rows, columns), (1, *source.shape[:2])]
        tokens = torch.cat([latents, source.reshape(1, -1, source.shape[-1])], 1)
        found = transformer(
            hidden_states=tokens,
            encoder_hidden_states=words,
            timestep=timestep,
            img_shapes=[shapes],
            return_dict=False,
        )[0]
        return found[0, : rows * columns]


def export(args, layout: str, folder: Path, dtype: str | None = None) -> Path:
    out = folder / "-".join(filter(None, (layout, dtype)))
    command = [args.gavel, "export", args.run, "--format", layout, "--model", args.model, "--out", str(out)]
    command += ["--weights", "trained", *(["--dtype", dtype] if dtype else [])]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return out


def bound(model) -> set[str]:
    """The layers that carry an adapter; one of nothing but zeros is a part of a fused layer that has none."""

    def is_adapted(layer) -> bool:
        return isinstance(layer, LoraLayer) and any(a.weight.abs().max() > 0 for a in layer.lora_A.values())

    return {name.removeprefix("base_model.model.") for name, layer in model.named_modules() if is_adapted(layer)}


def with_widths_of(transformer) -> None:
    """Has diffusers take kohya's fused layers apart by this transformer's widths instead of FLUX.1's."""
    width = transformer.config.num_attention_heads * transformer.config.attention_head_dim
    source = inspect.getsource(lora_conversion_utils._convert_kohya_flux_lora_to_diffusers)
    assert "[3072, 3072, 3072, 12288]" in source
    source = source.replace("[3072, 3072, 3072, 12288]", str([width, width, width, 4 * width]))
    exec(source, lora_conversion_utils.__dict__)  # noqa: S102
    lora_pipeline._convert_kohya_flux_lora_to_diffusers = lora_conversion_utils._convert_kohya_flux_lora_to_diffusers


def changes(file: Path, base: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What ComfyUI adds to each layer of diffusers' for a file with kohya's names."""
    tensors = load_file(file)
    layers = {}
    for name in base:
        if not name.endswith(".weight"):
            continue
        path = name.removesuffix(".weight")
        layers[f"lora_unet_{path.replace('.', '_')}"] = (path,)
        blocks, _, rest = path.partition(".")
        index = rest.split(".")[0]
        kinds = {"transformer_blocks": ("double_blocks", DOUBLE), "single_transformer_blocks": ("single_blocks", SINGLE)}
        if blocks in kinds and any("single" in key for key in base):
            original, table = kinds[blocks]
            for kind, parts in table.items():
                layers[f"lora_unet_{original}_{index}_{kind}"] = tuple(f"{blocks}.{index}.{part}" for part in parts)
    found = {}
    for key in tensors:
        if not key.endswith(".lora_down.weight"):
            continue
        name = key.removesuffix(".lora_down.weight")
        down, up, alpha = tensors[key], tensors[f"{name}.lora_up.weight"], tensors[f"{name}.alpha"].item()
        change = (alpha / down.shape[0]) * up.float() @ down.float()
        paths = layers[name]
        rows = [base[f"{path}.weight"].shape[0] for path in paths]
        found |= dict(zip(paths, change.split(rows)))
    return found


@torch.no_grad()
def main() -> int:
    args = arguments()
    problems = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        peft_folder = export(args, "peft", folder)
        recorded = Recorded(args, peft_folder, folder)
        flux = recorded.metadata["family"] == "flux"
        Transformer = FluxTransformer2DModel if flux else QwenImageTransformer2DModel
        Pipeline = FluxPipeline if flux else QwenImageEditPipeline

        def transformer(path=Path(args.model) / "transformer"):
            return Transformer.from_pretrained(path, torch_dtype=torch.float32)

        def check(what: str, found, dtype: str = "f32") -> None:
            error = recorded.error(found)
            print(f"{what}: relative error {error:.1e}")
            if error > TOLERANCE[dtype]:
                problems.append(f"{what}: velocities differ by {error:.1e}, {TOLERANCE[dtype]:.0e} allowed")

        if flux:
            with_widths_of(transformer())
        effect = recorded.error(transformer())
        print(f"base without adapter: relative difference {effect:.1e}")
        if effect < 4 * max(TOLERANCE.values()):
            problems.append(f"the adapter changes velocities by {effect:.1e} only: this proves nothing")

        with safe_open(peft_folder / "adapter_model.safetensors", "pt") as file:
            keys = file.keys()
            prefix, end = "base_model.model.", ".lora_B.weight"
            named = {key.removeprefix(prefix).removesuffix(end) for key in keys if key.endswith(end)}
        for dtype in ("f32", "bf16"):
            for layout in ("peft", "diffusers", "kohya"):
                out = peft_folder if (layout, dtype) == ("peft", "f32") else export(args, layout, folder, dtype)
                pipe = Pipeline.from_pretrained(args.model, torch_dtype=torch.float32)
                pipe.load_lora_weights(out)
                layers = bound(pipe.transformer)
                print(f"{layout}, {dtype}: diffusers bound {len(layers)} of {len(named)} layers")
                if layers != named:
                    problems.append(f"{layout}, {dtype}: diffusers bound {sorted(layers ^ named)[:5]} otherwise")
                check(f"{layout}, {dtype}: diffusers against gavel", pipe.transformer, dtype)
        with_peft = PeftModel.from_pretrained(transformer(), peft_folder)
        if bound(with_peft) != named:
            problems.append("peft bound other layers than the adapter names")
        check("peft, f32: peft against gavel", with_peft)

        merged = export(args, "merged", folder)
        with safe_open(next(merged.glob("*.safetensors")), "pt") as file:
            stored = {"F32": "f32", "F16": "f16", "BF16": "bf16"}[file.get_slice(file.keys()[0]).get_dtype()]
        check(f"merged into {stored}: diffusers without an adapter against gavel", transformer(merged), stored)
        base, sum_ = transformer().state_dict(), transformer(merged).state_dict()
        (kohya,) = (folder / "kohya-f32").glob("*.safetensors")
        added = changes(kohya, base)
        for path in named:
            weight = base[f"{path}.weight"]
            error = float(((added[path] - (sum_[f"{path}.weight"] - weight)).abs() / weight.abs().max()).max())
            # A rounding of the sum.
            if error > ROUNDING[stored]:
                problems.append(f"kohya: the change of {path} differs from the merged one by {error:.1e}")
        others = [name for name in base if not torch.equal(base[name], sum_[name]) and name.removesuffix(".weight") not in named]
        if others:
            problems.append(f"merged: changed without an adapter: {others[:5]}")
        for path in (peft_folder, merged):
            if "library_name:" not in (path / "README.md").read_text():
                problems.append(f"{path.name}: no model card")

    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
