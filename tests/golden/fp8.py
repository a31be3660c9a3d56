"""Writes the golden values of weights in 8 bits: E4M3 numbers, how float32 is rounded to them, and a quantized matrix.

    python tests/golden/fp8.py

needs torch and safetensors; everything is seeded, so that a second run writes the same values. `quantized` is what
flux_transformer.py and qwen_transformer.py do with the weights of a model.
"""

import json
import platform
from pathlib import Path

import torch
from safetensors.torch import save_file

OUT = Path(__file__).resolve().parent / "fp8"
LARGEST = 448.0


def bytes_and_scales(matrix):
    """A float32 matrix as E4M3 numbers and one scale for each row: the row's largest magnitude becomes the largest number."""
    scales = (matrix.abs().amax(dim=1, keepdim=True) / LARGEST).clamp(min=torch.finfo(torch.float32).tiny)
    return (matrix / scales).to(torch.float8_e4m3fn), scales


def quantized(model):
    """Rounds the weights of all linear layers of a transformer's blocks to 8 bits and back."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "transformer_blocks." in name and name.endswith(".weight") and parameter.ndim == 2:
                numbers, scales = bytes_and_scales(parameter.float())
                parameter.copy_(numbers.float() * scales)
    return model


def neighbours(values):
    """The values, and those next to them in float32."""
    infinity = torch.tensor(float("inf"))
    return torch.cat([values, torch.nextafter(values, infinity), torch.nextafter(values, -infinity)])


def main():
    torch.manual_seed(8)
    every_byte = torch.arange(256, dtype=torch.uint8)
    values = every_byte.view(torch.float8_e4m3fn).float()
    numbers = values[torch.isfinite(values)].sort().values
    middles = (numbers[1:] + numbers[:-1]) / 2
    edges = torch.tensor([448.0, 456.0, 464.0, 472.0, 480.0, 1e4, 3e38, float("inf"), 2.0**-9, 2.0**-10, 2.0**-11, 1e-20, 1e-45, 0.0])
    random = torch.randn(500) * torch.exp2(torch.randint(-12, 9, (500,)).float())
    given = torch.cat([neighbours(numbers), neighbours(middles), neighbours(edges), neighbours(-edges), random])
    matrix = torch.randn(7, 37) * torch.exp2(torch.randint(-20, 20, (7, 1)).float())
    matrix[3] = 0.0
    matrix[4, 5] = 300.0 * matrix[4].abs().max()
    matrix_bytes, matrix_scales = bytes_and_scales(matrix)
    tensors = dict(
        value_of_byte=values, given=given, rounded=given.to(torch.float8_e4m3fn).view(torch.uint8), matrix=matrix,
        matrix_bytes=matrix_bytes.view(torch.uint8), matrix_scales=matrix_scales.flatten(),
    )  # fmt: skip
    OUT.mkdir(exist_ok=True)
    versions = dict(torch=torch.__version__, python=platform.python_version())
    metadata = {"golden": json.dumps(dict(versions=versions), sort_keys=True)}
    save_file({name: value.contiguous() for name, value in tensors.items()}, OUT / "golden.safetensors", metadata=metadata)
    print(f"{len(given)} numbers rounded, {int((given.abs() > LARGEST).sum())} of them larger than the largest")


if __name__ == "__main__":
    main()
