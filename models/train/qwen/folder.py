"""An untrained `QwenImageEditPipeline` folder of tiny parts, with the released model's layout and features.

Kept from the real one: the 3-axis positions in their ratio 1 : 3.5 : 3.5, q/k norms in both streams, the VAE's stages with the time
kernels that pictures never reach, windowed and full attention in the vision tower, sectioned positions, grouped queries and the untied
head of the language model, and a tokenizer for which the system turn has exactly 64 tokens, the number that the pipeline drops.
"""

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKLQwenImage, FlowMatchEulerDiscreteScheduler, QwenImageTransformer2DModel
from qwen.text_folder import text_encoder, write_text_config, write_tokenizers
from safetensors.torch import load_file, save_file

JOINT_WIDTH = 64
CLIP_MEAN = [0.48145466, 0.4578275, 0.40821073]
CLIP_DEVIATION = [0.26862954, 0.26130258, 0.27577711]


def transformer() -> QwenImageTransformer2DModel:
    """Four blocks of width 96; modulations and output start at zero, so that each block starts as the identity."""
    model = QwenImageTransformer2DModel(
        patch_size=2, in_channels=64, out_channels=16, num_layers=4, attention_head_dim=32, num_attention_heads=3,
        joint_attention_dim=JOINT_WIDTH, guidance_embeds=False, axes_dims_rope=(4, 14, 14),
    )
    zeroed = [layer for block in model.transformer_blocks for layer in (block.img_mod[1], block.txt_mod[1])]
    for layer in (*zeroed, model.norm_out.linear):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    torch.nn.init.zeros_(model.proj_out.weight)
    return model


def write_folder(out: Path, vae: AutoencoderKLQwenImage, words) -> None:
    """Writes a folder with a trained VAE and everything else untrained; every word of the texts `words` becomes one token."""
    out.mkdir(parents=True, exist_ok=True)
    ids, vocabulary = write_tokenizers(out, words)
    _write_preprocessors(out / "processor")
    FlowMatchEulerDiscreteScheduler(
        num_train_timesteps=1000, shift=1.0, use_dynamic_shifting=True, base_shift=0.5, max_shift=0.9, base_image_seq_len=256,
        max_image_seq_len=8192, shift_terminal=0.02, time_shift_type="exponential",
    ).save_pretrained(out / "scheduler")
    vae.save_pretrained(out / "vae")
    transformer().save_pretrained(out / "transformer")
    encoder = text_encoder(vocabulary, ids, JOINT_WIDTH)
    encoder.save_pretrained(out / "text_encoder")
    write_text_config(out / "text_encoder" / "config.json", encoder.config, ids)
    index = {
        "_class_name": "QwenImageEditPipeline", "_diffusers_version": "0.35.0.dev0",
        "processor": ["transformers", "Qwen2VLProcessor"], "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "Qwen2_5_VLForConditionalGeneration"], "tokenizer": ["transformers", "Qwen2Tokenizer"],
        "transformer": ["diffusers", "QwenImageTransformer2DModel"], "vae": ["diffusers", "AutoencoderKLQwenImage"],
    }
    (out / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def _write_preprocessors(folder: Path) -> None:
    picture = {
        "do_convert_rgb": True, "do_normalize": True, "do_rescale": True, "do_resize": True, "image_mean": CLIP_MEAN,
        "image_std": CLIP_DEVIATION, "image_processor_type": "Qwen2VLImageProcessor", "max_pixels": 12845056, "merge_size": 2,
        "min_pixels": 3136, "patch_size": 14, "processor_class": "Qwen2VLProcessor", "resample": 3, "rescale_factor": 1 / 255,
        "size": {"longest_edge": 12845056, "shortest_edge": 3136}, "temporal_patch_size": 2,
    }
    video = {name: value for name, value in picture.items() if name != "image_processor_type"}
    video |= {"video_processor_type": "Qwen2VLVideoProcessor", "do_sample_frames": False}
    (folder / "preprocessor_config.json").write_text(json.dumps(picture, indent=2) + "\n")
    (folder / "video_preprocessor_config.json").write_text(json.dumps(video, indent=2) + "\n")


def halve(folder: Path) -> None:
    """Rewrites a folder's weights in half precision, in place."""
    for file in sorted(folder.glob("*/*.safetensors")):
        tensors = {name: value.half().contiguous() for name, value in load_file(file).items()}
        save_file(tensors, file, metadata={"format": "pt"})
    config = folder / "text_encoder" / "config.json"
    config.write_text(config.read_text().replace('"float32"', '"float16"'))

