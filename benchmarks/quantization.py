"""By how much a velocity changes when weights are kept in 8 or 4 bits: the rules of `model.quantization`, in PyTorch.

    python benchmarks/quantization.py

needs torch, diffusers, safetensors and bitsandbytes. Measured are models/tiny-flux, and one block of each kind at FLUX.1-dev's sizes with random weights: 512 text
and 1024 image tokens. The figures are in docs/gpu.md.
"""

import copy
import sys
from pathlib import Path

import torch
from diffusers import FluxTransformer2DModel

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "golden"))

import fp8  # noqa: E402
import nf4  # noqa: E402


def velocity(model, side, text):
    """Of one picture of side x side tokens, for inputs that are the same in each call."""
    torch.manual_seed(1)
    config = model.config
    ids = torch.zeros(side, side, 3)
    ids[..., 1] += torch.arange(side)[:, None]
    ids[..., 2] += torch.arange(side)[None, :]
    with torch.no_grad():
        return model(
            hidden_states=torch.randn(1, side * side, config.in_channels),
            encoder_hidden_states=torch.randn(1, text, config.joint_attention_dim),
            pooled_projections=torch.randn(1, config.pooled_projection_dim), timestep=torch.tensor([0.7]),
            img_ids=ids.reshape(-1, 3), txt_ids=torch.zeros(text, 3), guidance=torch.tensor([3.5]), return_dict=False,
        )[0]  # fmt: skip


def report(name, model, side, text):
    whole = velocity(model, side, text)
    in_bfloat16 = velocity_in_bfloat16(model, side, text)
    in_4_bits = velocity(nf4.quantized(copy.deepcopy(model)), side, text)
    in_8_bits = velocity(fp8.quantized(model), side, text)
    for what, found in (("bfloat16 weights", in_bfloat16), ("fp8 weights", in_8_bits), ("nf4 weights", in_4_bits)):
        error = found - whole
        of_root_mean_square = (error.square().mean() / whole.square().mean()).sqrt()
        print(f"{name}, {what}: {of_root_mean_square:.2e} of the root mean square, {error.abs().max() / whole.abs().max():.2e} of the largest value")


def velocity_in_bfloat16(model, side, text):
    """Of the same weights rounded to bfloat16, and of nothing else: what a bfloat16 file has lost already."""
    matrices = (of for of in model.named_parameters() if "transformer_blocks." in of[0] and of[1].ndim == 2)
    kept = {name: parameter.detach().clone() for name, parameter in matrices}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in kept:
                parameter.copy_(parameter.bfloat16().float())
        found = velocity(model, side, text)
        for name, parameter in model.named_parameters():
            if name in kept:
                parameter.copy_(kept[name])
    return found


def main():
    torch.manual_seed(0)
    tiny = FluxTransformer2DModel.from_pretrained(ROOT / "models" / "tiny-flux" / "transformer", torch_dtype=torch.float32).eval()
    report("models/tiny-flux", tiny, 4, 24)
    report("one block of each kind of FLUX.1-dev's size", one_block_of_each_kind(), 32, 512)


def one_block_of_each_kind():
    """Random weights that keep the size of what they are multiplied by, so that a block counts as much as what it is added to."""
    model = FluxTransformer2DModel(num_layers=1, num_single_layers=1, guidance_embeds=True).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0.0, parameter.shape[1] ** -0.5)
    return model


if __name__ == "__main__":
    main()
