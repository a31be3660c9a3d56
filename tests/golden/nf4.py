"""Writes the golden values of weights in 4 bits: NF4 numbers, how float32 is rounded to them, and a quantized matrix.

    python tests/golden/nf4.py

needs torch, transformers, safetensors and bitsandbytes (0.50 computes on the CPU too); everything is seeded, so that a second run writes the same values.
`quantized` is what flux_transformer.py does with the weights of a model. encoders.py comes first.
"""

import json
import platform
from pathlib import Path

import bitsandbytes
import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from safetensors.torch import load_file, save_file
from transformers import T5EncoderModel

OUT = Path(__file__).resolve().parent / "nf4"
BLOCK = 64


def bytes_and_state(matrix):
    """A float32 matrix as NF4 numbers, two in a byte, and their scales. Blocks end with the rows: the columns are a multiple of 64."""
    assert matrix.shape[1] % BLOCK == 0
    return quantize_4bit(matrix.contiguous(), blocksize=BLOCK, quant_type="nf4", compress_statistics=False)


def rounded(matrix):
    """Rounds a float32 matrix to 4 bits and back. The last block of a row may be shorter: zeros behind it change no scale."""
    columns = matrix.shape[1]
    padded = torch.nn.functional.pad(matrix, (0, -columns % BLOCK))
    numbers, state = bytes_and_state(padded)
    return dequantize_4bit(numbers, state)[:, :columns]


def quantized(model):
    """Rounds the weights of all linear layers of a transformer's blocks to 4 bits and back."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "transformer_blocks." in name and name.endswith(".weight") and parameter.ndim == 2:
                parameter.copy_(rounded(parameter.float()))
    return model


def t5_states(case):
    """The states of a T5 of encoders.py whose linear layers are rounded to 4 bits."""
    folder = OUT.parent / "encoders" / case
    ids = load_file(folder / "expected.safetensors")["ids.83"].long()
    model = T5EncoderModel.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "encoder.block" in name and parameter.ndim == 2 and "relative_attention_bias" not in name:
                parameter.copy_(rounded(parameter))
        return model(input_ids=ids).last_hidden_state


def halves(numbers):
    """The numbers of bytes, the first of each in the upper half."""
    return torch.stack([numbers.flatten() >> 4, numbers.flatten() & 15], dim=1).flatten()


def main():
    torch.manual_seed(4)
    code = bytes_and_state(torch.ones(1, BLOCK))[1].code
    middles = (code[1:] + code[:-1]) / 2
    infinity = torch.tensor(float("inf"))
    given = torch.cat([code, middles, torch.nextafter(middles, infinity), torch.nextafter(middles, -infinity), torch.rand(200) * 2 - 1])
    # One block each, so that the scale is 1 and the value is rounded as it is.
    blocks = torch.zeros(len(given), BLOCK)
    blocks[:, 0], blocks[:, 1] = 1.0, given
    found = halves(bytes_and_state(blocks)[0]).reshape(len(given), BLOCK)[:, 1]
    matrix = torch.randn(7, 3 * BLOCK) * torch.exp2(torch.randint(-20, 20, (7, 1)).float())
    matrix[3] = 0.0
    matrix[4, 5] = 300.0 * matrix[4].abs().max()
    numbers, state = bytes_and_state(matrix)
    tensors = dict(
        code=code, given=given, rounded=found, matrix=matrix, matrix_bytes=numbers.flatten(), matrix_scales=state.absmax,
        matrix_values=dequantize_4bit(numbers, state),
    )  # fmt: skip
    tensors |= {f"states.{case}": t5_states(case) for case in ("t5-relu-sharded", "t5-gated")}
    OUT.mkdir(exist_ok=True)
    versions = dict(torch=torch.__version__, bitsandbytes=bitsandbytes.__version__, python=platform.python_version())
    metadata = {"golden": json.dumps(dict(versions=versions), sort_keys=True)}
    save_file({name: value.contiguous() for name, value in tensors.items()}, OUT / "golden.safetensors", metadata=metadata)
    print(f"{len(given)} numbers rounded")


if __name__ == "__main__":
    main()
