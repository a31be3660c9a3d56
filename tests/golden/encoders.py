"""Golden tensors for the text encoders and the autoencoder: `python tests/golden/encoders.py` from the repository root.

Writes `tests/golden/encoders/<case>/`: the expected tensors of transformers and diffusers in float32, and for the random
cases the model folder too. Deterministic; the versions of the libraries stand in each file's metadata.
"""
import json
import pathlib
import shutil

import diffusers
import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file

ROOT = pathlib.Path(__file__).resolve().parents[2]
OUT = pathlib.Path(__file__).resolve().parent / "encoders"
VERSIONS = {"torch": torch.__version__, "transformers": transformers.__version__, "diffusers": diffusers.__version__}
PROMPTS = [
    "a red circle on a blue background",
    "",
    "A green square left of a yellow triangle, on a white background; it's drawn TWICE 1984! " * 4,
]


def save(tensors, file):
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file, metadata=VERSIONS)


def randomize(model, seed):
    """Random weights with norms and biases away from their neutral values, so that a forgotten one shows."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim == 1:
            parameter.data = 0.1 * noise + (1.0 if "norm" in name and name.endswith("weight") else 0.0)
        else:
            fan_in = parameter[0].numel()
            parameter.data = noise * (1.0 if "embed" in name or "shared" in name else fan_in**-0.5)
    return model.eval()


def rename(folder, change):
    """Rewrites the weight file under other key names."""
    file = folder / "model.safetensors"
    save_file({change(name): tensor for name, tensor in load_file(file).items()}, file, metadata={"format": "pt"})


def shard(folder, stem, count):
    """Replaces a weight file by shards with an index."""
    tensors = load_file(folder / f"{stem}.safetensors")
    (folder / f"{stem}.safetensors").unlink()
    names, weight_map = sorted(tensors), {}
    for i in range(count):
        file = f"{stem}-{i + 1:05}-of-{count:05}.safetensors"
        part = {name: tensors[name] for name in names[i::count]}
        save_file(part, folder / file, metadata={"format": "pt"})
        weight_map |= {name: file for name in part}
    index = {"metadata": {}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index, indent=1))


def image(seed, height, width, channels=3):
    return torch.rand((1, channels, height, width), generator=torch.Generator().manual_seed(seed)) * 2 - 1


@torch.no_grad()
def shipped():
    """The pipeline folder that the project ships."""
    folder = ROOT / "models" / "tiny-flux"
    pipe = diffusers.FluxPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    tensors = {}
    for length in (24, 77):
        embeds, pooled, _ = pipe.encode_prompt(PROMPTS, PROMPTS, max_sequence_length=length)
        tensors |= {f"prompt_embeds.{length}": embeds, f"pooled.{length}": pooled}
    pixels = np.random.default_rng(5).integers(0, 256, (2, 48, 80, 3), dtype=np.uint8)
    pixels = np.kron(pixels[:, ::8, ::8], np.ones((1, 8, 8, 1), np.uint8))
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
    mean = (pipe.vae.encode(x).latent_dist.mean - pipe.vae.config.shift_factor) * pipe.vae.config.scaling_factor
    packed = pipe._pack_latents(mean, 2, 16, 6, 10)
    latents = torch.randn((3, 15, 64), generator=torch.Generator().manual_seed(7))
    unpacked = pipe._unpack_latents(latents, 48, 80, pipe.vae_scale_factor)
    decoded = pipe.vae.decode(unpacked / pipe.vae.config.scaling_factor + pipe.vae.config.shift_factor).sample
    bytes_ = np.stack([np.asarray(i) for i in pipe.image_processor.postprocess(decoded, output_type="pil")])
    tensors |= {"pixels": torch.from_numpy(pixels), "packed": packed, "latents": latents, "decoded": decoded,
                "bytes": torch.from_numpy(bytes_)}
    save(tensors, OUT / "tiny-flux" / "expected.safetensors")


@torch.no_grad()
def clip(case, seed, prefix, **config):
    folder = OUT / case
    model = randomize(transformers.CLIPTextModel(transformers.CLIPTextConfig(vocab_size=99, **config)), seed)
    model.save_pretrained(folder)
    rename(folder, lambda name: prefix + name.removeprefix("text_model."))
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for length in (7, 31):
        ids = torch.randint(3, 98, (2, length), generator=generator)
        ids[0, length // 2:] = ids[1, -1] = 98
        tensors |= {f"ids.{length}": ids, f"pooled.{length}": model(ids).pooler_output}
    save(tensors, folder / "expected.safetensors")


@torch.no_grad()
def t5(case, seed, shards, **config):
    folder = OUT / case
    model = randomize(transformers.T5EncoderModel(transformers.T5Config(vocab_size=61, num_decoder_layers=1, **config)), seed)
    model.save_pretrained(folder)
    if shards:
        shard(folder, "model", shards)
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for length in (5, 83):
        ids = torch.randint(0, 61, (2, length), generator=generator)
        tensors |= {f"ids.{length}": ids, f"states.{length}": model(ids).last_hidden_state}
    save(tensors, folder / "expected.safetensors")


@torch.no_grad()
def vae(case, seed, shards, sizes, **config):
    folder = OUT / case
    levels = len(config["block_out_channels"])
    model = diffusers.AutoencoderKL(down_block_types=["DownEncoderBlock2D"] * levels,
                                    up_block_types=["UpDecoderBlock2D"] * levels, **config)
    randomize(model, seed).save_pretrained(folder)
    if shards:
        shard(folder, "diffusion_pytorch_model", shards)
    tensors = {}
    for i, (height, width) in enumerate(sizes):
        x = image(seed + i, height, width)
        mean = model.encode(x).latent_dist.mean
        latent = torch.randn(mean.shape, generator=torch.Generator().manual_seed(seed + i))
        tensors |= {f"image.{i}": x, f"mean.{i}": mean, f"latent.{i}": latent, f"decoded.{i}": model.decode(latent).sample}
    save(tensors, folder / "expected.safetensors")


if __name__ == "__main__":
    torch.set_num_threads(1)
    shutil.rmtree(OUT, ignore_errors=True)
    shipped()
    clip("clip-legacy-eos", 1, "text_model.", hidden_size=48, intermediate_size=72, num_hidden_layers=2,
         num_attention_heads=3, max_position_embeddings=31, hidden_act="gelu", eos_token_id=2)
    clip("clip-first-eos", 2, "", hidden_size=40, intermediate_size=56, num_hidden_layers=3, num_attention_heads=5,
         max_position_embeddings=40, hidden_act="quick_gelu", eos_token_id=98, layer_norm_eps=1e-4)
    t5("t5-relu-sharded", 3, 3, d_model=36, d_kv=10, d_ff=50, num_layers=2, num_heads=3, feed_forward_proj="relu",
       relative_attention_num_buckets=16, relative_attention_max_distance=40)
    t5("t5-gated", 4, 0, d_model=32, d_kv=8, d_ff=44, num_layers=3, num_heads=4, feed_forward_proj="gated-gelu")
    vae("vae-quant", 5, 2, [(24, 40), (8, 16)], block_out_channels=[4, 12], layers_per_block=2, latent_channels=4,
        norm_num_groups=4, use_quant_conv=True, use_post_quant_conv=True)
    vae("vae-plain", 6, 0, [(20, 28)], block_out_channels=[6, 6, 12], layers_per_block=1, latent_channels=3,
        norm_num_groups=3, use_quant_conv=False, use_post_quant_conv=False, mid_block_add_attention=False)
    vae("vae-wide", 7, 0, [(16, 104)], block_out_channels=[5, 10], layers_per_block=1, latent_channels=5,
        norm_num_groups=5, use_quant_conv=False, use_post_quant_conv=True)
