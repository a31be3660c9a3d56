"""What the training stages of the tiny Qwen-Image-Edit share: latents, text rows, the network's velocity and the flow-matching loss."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLQwenImage, QwenImageTransformer2DModel
from qwen.text_folder import PREFIX_TOKENS, prompt_template
from qwen.train_vae import pictures_of, pixels
from qwen.vae_plane import decode, encode, planes
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2VLImageProcessor
from transformers import Qwen2TokenizerFast as Tokenizer

SIDE, CHANNELS, PICTURE_TOKENS = 4, 64, 4
TOKENS = SIDE * SIDE
SHIFT = 3.0  # of the reinforcement's sampler
PIPELINE_SHIFT = math.exp(0.5 + (TOKENS - 256) * (0.9 - 0.5) / (8192 - 256))  # of the scheduler's file, at 16 target tokens


@dataclass
class Parts:
    """The loaded parts of a folder."""

    folder: Path
    vae_planes: dict[str, torch.Tensor]
    vae_config: dict
    transformer: QwenImageTransformer2DModel
    text_encoder: Qwen2_5_VLForConditionalGeneration
    tokenizer: Tokenizer
    image_processor: Qwen2VLImageProcessor

    @classmethod
    def load(cls, folder: Path) -> "Parts":
        """Loads a folder of f32 or f16 weights for computation in f32."""
        vae = AutoencoderKLQwenImage.from_pretrained(folder / "vae").float()
        layouts = {True: torch.channels_last, False: torch.contiguous_format}
        weights = {
            name: value.contiguous(memory_format=layouts[value.ndim == 4 and "gamma" not in name])
            for name, value in planes(vae.state_dict()).items()
        }
        return cls(
            folder, weights, dict(vae.config), QwenImageTransformer2DModel.from_pretrained(folder / "transformer").float(),
            Qwen2_5_VLForConditionalGeneration.from_pretrained(folder / "text_encoder", dtype=torch.float32),
            Tokenizer.from_pretrained(folder / "processor"), Qwen2VLImageProcessor.from_pretrained(folder / "processor"),
        )

    def save_weights(self) -> None:
        """Writes the transformer's and the text encoder's weights into the folder; the config files stay as they are."""
        for name, part in (("transformer", self.transformer), ("text_encoder", self.text_encoder)):
            config = self.folder / name / "config.json"
            released = config.read_text()
            part.save_pretrained(self.folder / name)
            config.write_text(released)


@torch.no_grad()
def latents_of(parts: Parts, pictures) -> torch.Tensor:
    """Packed, standardised latent modes of 64x64 RGB pictures: (n, 16 tokens, 64)."""
    mean, deviation = (torch.tensor(parts.vae_config[f"latents_{name}"]).view(1, -1, 1, 1) for name in ("mean", "std"))
    z = torch.cat([encode(parts.vae_planes, parts.vae_config, chunk) for chunk in pixels(pictures).split(100)])
    z = (z - mean) / deviation
    return z.reshape(-1, 16, SIDE, 2, SIDE, 2).permute(0, 2, 4, 1, 3, 5).reshape(-1, TOKENS, CHANNELS)


@torch.no_grad()
def decoded(parts: Parts, latents: torch.Tensor) -> list:
    """Pictures of packed latents."""
    mean, deviation = (torch.tensor(parts.vae_config[f"latents_{name}"]).view(1, -1, 1, 1) for name in ("mean", "std"))
    z = latents.reshape(-1, SIDE, SIDE, 16, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(-1, 16, 2 * SIDE, 2 * SIDE)
    return pictures_of(torch.cat([decode(parts.vae_planes, parts.vae_config, c) for c in (z * deviation + mean).split(100)]))


@dataclass
class Prompts:
    """Tokenised instructions with their source pictures; all of one length, shorter ones padded at the right."""

    ids: torch.Tensor  # (n, length)
    mask: torch.Tensor  # (n, length), 1 where a token is
    patches: torch.Tensor  # (n, 16, 1176), the vision tower's input

    @classmethod
    def of(cls, parts: Parts, instructions, pictures) -> "Prompts":
        """Through the released chain: a 64x64 picture is at the size that its area asks for, the processor makes 56x56 of it."""
        template = prompt_template().replace("<|image_pad|>", "<|image_pad|>" * PICTURE_TOKENS)
        batch = parts.tokenizer([template.format(text) for text in instructions], padding=True, padding_side="right", return_tensors="pt")
        patches = parts.image_processor(images=list(pictures), return_tensors="pt").pixel_values
        return cls(batch.input_ids, batch.attention_mask, patches.view(len(batch.input_ids), -1, patches.shape[1]))

    def __getitem__(self, rows) -> "Prompts":
        mask = self.mask[rows]
        length = int(mask.sum(1).max())
        return Prompts(self.ids[rows][:, :length], mask[:, :length], self.patches[rows])


def text_rows(parts: Parts, prompts: Prompts) -> torch.Tensor:
    """The encoder's last hidden states without the system turn, with true three-axis positions: (n, length - 64, 64)."""
    config = parts.text_encoder.config
    n = len(prompts.ids)
    hidden = parts.text_encoder.model(
        input_ids=prompts.ids, attention_mask=prompts.mask, pixel_values=prompts.patches.flatten(0, 1),
        image_grid_thw=torch.tensor([[1, 4, 4]] * n), mm_token_type_ids=(prompts.ids == config.image_token_id).int(), use_cache=False,
    ).last_hidden_state
    return hidden[:, PREFIX_TOKENS:]


def velocity(transformer, x, source, text, mask, sigma) -> torch.Tensor:
    """Velocity (n, 16, 64) at noise levels `sigma` (n,)."""
    out = transformer(
        hidden_states=torch.cat([x, source], 1), encoder_hidden_states=text, encoder_hidden_states_mask=mask, timestep=sigma,
        img_shapes=[[(1, SIDE, SIDE)] * 2] * len(x), return_dict=False,
    )[0]
    return out[:, :TOKENS]


def noise_levels(n: int) -> torch.Tensor:
    """Uniform levels, half of them under the reinforcement's shift and half under the pipeline's."""
    u = torch.rand(n).clamp(min=1e-3)
    shift = torch.where(torch.arange(n) % 2 == 0, SHIFT, PIPELINE_SHIFT)
    return shift * u / (1 + (shift - 1) * u)


def flow_matching_loss(transformer, x0, source, text, mask, changed_weight: float) -> torch.Tensor:
    """Mean squared error of the velocity; tokens that the edit changes weigh `changed_weight`."""
    sigma = noise_levels(len(x0))
    noise, s = torch.randn_like(x0), sigma[:, None, None]
    error = velocity(transformer, (1 - s) * x0 + s * noise, source, text, mask, sigma) - (noise - x0)
    changed = (x0 - source).abs().mean(-1) > 0.2
    weight = 1 + (changed_weight - 1) * changed.float()
    return (error.square().mean(-1) * weight).sum() / weight.sum()


def mean_of(rows: list[dict[str, float]]) -> str:
    """Mean of each figure, as one line of JSON."""
    return json.dumps({name: round(sum(row[name] for row in rows) / len(rows), 3) for name in rows[0]})
