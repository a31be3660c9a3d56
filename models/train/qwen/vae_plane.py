"""`AutoencoderKLQwenImage` for single pictures, as the two-dimensional network that it then is.

With one frame every causal 3x3x3 convolution sees zeros in its first two time slices, and no `time_conv` is reached: encode and decode
are plain 2D convolutions with the last time slice of each kernel. Training this form is several times faster than the 3D module, and
the tensors keep the names of the module's state dict.

Source: diffusers 0.42.1 `autoencoder_kl_qwenimage.py`. Deviation: the decoder's output is not clamped, which would stop its gradient.
"""

import math

import torch
import torch.nn.functional as F

LATENT_CHANNELS = 16


def planes(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of a module's state dict that single pictures use, 3D kernels reduced to their last time slice."""
    return {
        name: (value[:, :, -1] if value.ndim == 5 else value).clone() for name, value in state.items() if "time_conv" not in name
    }


def with_planes(state: dict[str, torch.Tensor], trained: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The state dict with trained planes put back in their time slice; slices and tensors that no picture reaches stay."""
    out = {name: value.clone() for name, value in state.items()}
    for name, value in trained.items():
        target = out[name][:, :, -1] if out[name].ndim == 5 else out[name]
        target.copy_(value.detach())
    return out


def encode(w: dict[str, torch.Tensor], config, pixels: torch.Tensor) -> torch.Tensor:
    """Latent modes (n, 16, h/8, w/8), not standardised, of pictures (n, 3, h, w) in [-1, 1]."""
    x = _conv(pixels, w, "encoder.conv_in", padding=1)
    index = 0
    for stage in range(len(config["dim_mult"])):
        for _ in range(config["num_res_blocks"]):
            x = _residual(x, w, f"encoder.down_blocks.{index}")
            index += 1
        if stage + 1 < len(config["dim_mult"]):
            x = _conv(F.pad(x, (0, 1, 0, 1)), w, f"encoder.down_blocks.{index}.resample.1", stride=2)
            index += 1
    x = _middle(x, w, "encoder.mid_block")
    x = _conv(F.silu(_norm(x, w["encoder.norm_out.gamma"])), w, "encoder.conv_out", padding=1)
    return _conv(x, w, "quant_conv")[:, :LATENT_CHANNELS]


def decode(w: dict[str, torch.Tensor], config, latents: torch.Tensor) -> torch.Tensor:
    """Pictures (n, 3, 8h, 8w), about [-1, 1] and not clamped, of latents (n, 16, h, w), not standardised."""
    x = _conv(_conv(latents, w, "post_quant_conv"), w, "decoder.conv_in", padding=1)
    x = _middle(x, w, "decoder.mid_block")
    for stage in range(len(config["dim_mult"])):
        for block in range(config["num_res_blocks"] + 1):
            x = _residual(x, w, f"decoder.up_blocks.{stage}.resnets.{block}")
        if stage + 1 < len(config["dim_mult"]):
            x = F.interpolate(x, scale_factor=2, mode="nearest")
            x = _conv(x, w, f"decoder.up_blocks.{stage}.upsamplers.0.resample.1", padding=1)
    return _conv(F.silu(_norm(x, w["decoder.norm_out.gamma"])), w, "decoder.conv_out", padding=1)


def _conv(x, w, name, padding=0, stride=1):
    return F.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], padding=padding, stride=stride)


def _norm(x, gamma):
    # The module's x / max(||x||, 1e-12) * sqrt(C); the mean square needs fewer passes over memory, and 1e-12 never acts.
    return x * (torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-12) * gamma.view(1, -1, 1, 1))


def _residual(x, w, name):
    kept = _conv(x, w, f"{name}.conv_shortcut") if f"{name}.conv_shortcut.weight" in w else x
    y = _conv(F.silu(_norm(x, w[f"{name}.norm1.gamma"])), w, f"{name}.conv1", padding=1)
    return kept + _conv(F.silu(_norm(y, w[f"{name}.norm2.gamma"])), w, f"{name}.conv2", padding=1)


def _attention(x, w, name):
    n, channels, height, width = x.shape
    qkv = _conv(_norm(x, w[f"{name}.norm.gamma"]), w, f"{name}.to_qkv")
    q, k, v = qkv.reshape(n, 3, channels, height * width).transpose(2, 3).unbind(1)
    mixed = torch.softmax(q @ k.transpose(1, 2) / math.sqrt(channels), -1) @ v
    return x + _conv(mixed.transpose(1, 2).reshape(n, channels, height, width), w, f"{name}.proj")


def _middle(x, w, name):
    return _residual(_attention(_residual(x, w, f"{name}.resnets.0"), w, f"{name}.attentions.0"), w, f"{name}.resnets.1")
