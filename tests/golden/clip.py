"""Golden values for CLIP as a judge: `python tests/golden/clip.py` from the repository root.

Writes `tests/golden/clip/<case>/`: a model folder of random weights, and in `expected.safetensors` the pictures, what transformers' image
processor makes of them, the embeddings and the logits, in float32. Deterministic; the libraries' versions stand in the file's metadata.
"""
import json
import pathlib
import shutil

import numpy as np
import PIL
import torch
import transformers
from PIL import Image
from safetensors.torch import save_file

ROOT = pathlib.Path(__file__).resolve().parents[2]
OUT = pathlib.Path(__file__).resolve().parent / "clip"
VERSIONS = {"torch": torch.__version__, "transformers": transformers.__version__, "pillow": PIL.__version__}
PROMPTS = ["a red circle on a blue background", "", "two blue squares and a yellow triangle, " * 9]
# Larger, smaller, wide, high, of odd differences, and of the model's own size.
SIZES = [(64, 64), (20, 16), (90, 47), (33, 101), (24, 24)]


def randomize(model, seed):
    """Random weights with norms and biases away from their neutral values, so that a forgotten one shows."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim == 0:
            continue
        if parameter.ndim == 1:
            parameter.data = 0.1 * noise + (1.0 if "norm" in name and name.endswith("weight") else 0.0)
        else:
            fan_in = parameter[0].numel()
            parameter.data = noise * (0.5 if "embedding" in name and "patch" not in name else fan_in**-0.5)
    return model.eval()


def picture(seed, height, width):
    """Blocks, a gradient and noise: edges and plains, so that a filter of another kind shows."""
    generator = np.random.default_rng(seed)
    blocks = np.kron(generator.integers(0, 256, (height // 6 + 1, width // 6 + 1, 3)), np.ones((6, 6, 1)))[:height, :width]
    ramp = np.linspace(0, 255, width)[None, :, None] * np.ones((height, 1, 3))
    noise = generator.integers(0, 256, (height, width, 3))
    return np.clip(0.5 * blocks + 0.3 * ramp + 0.2 * noise, 0, 255).astype(np.uint8)


def head(folder, seed, sizes):
    """A head as LAION's aesthetic predictors: linear layers and dropout, which does nothing here. Returns the module."""
    torch.manual_seed(seed)
    if len(sizes) == 2:
        model = torch.nn.Linear(*sizes)
        state = model.state_dict()
    else:
        layers = []
        for index, (inputs, outputs) in enumerate(zip(sizes, sizes[1:])):
            layers.append(torch.nn.Linear(inputs, outputs))
            if index < 3:
                layers.append(torch.nn.Dropout(0.2 if index < 2 else 0.1))
        model = torch.nn.Sequential(*layers).eval()
        state = {f"layers.{name}": tensor for name, tensor in model.state_dict().items()}
    for tensor in state.values():
        # Rounded where they are, so that the file may be small.
        tensor.copy_(tensor.half().float())
    folder.mkdir()
    save_file({name: tensor.half().contiguous() for name, tensor in state.items()}, folder / "model.safetensors", metadata=VERSIONS)
    return model


@torch.no_grad()
def case(name, seed, text, vision, scale, size):
    folder = OUT / name
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=20)
    model = randomize(transformers.CLIPModel(config), seed)
    model.logit_scale.data = torch.tensor(scale)
    model.save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(ROOT / "models" / "tiny-flux" / "tokenizer" / file, folder / file)
    processor = transformers.CLIPImageProcessorPil(size=size, crop_size={"height": 24, "width": 24})
    processor.save_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tensors = {}
    pictures = [picture(seed + i, *dims) for i, dims in enumerate(SIZES)]
    pixels = torch.cat([processor(Image.fromarray(one), return_tensors="pt")["pixel_values"] for one in pictures])
    tensors |= {f"picture.{i}": torch.from_numpy(one) for i, one in enumerate(pictures)} | {"pixels": pixels}
    ids = tokenizer(PROMPTS, padding=True, truncation=True, max_length=text["max_position_embeddings"], return_tensors="pt")
    answer = model(**ids, pixel_values=pixels)
    tensors |= {"image_embeds": answer.image_embeds, "text_embeds": answer.text_embeds, "logits": answer.logits_per_text}
    # As PickScore's authors compute it, with embeddings divided by their length.
    shares = torch.softmax(answer.logits_per_text[:, :2], dim=-1)
    tensors |= {"probability_first": shares[:, 0].contiguous()}
    if name == "quick-gelu":
        for kind, sizes in (("aesthetic", (20, 1024, 128, 64, 16, 1)), ("aesthetic-linear", (20, 1))):
            tensors[kind] = head(folder / kind, seed, sizes)(answer.image_embeds).flatten()
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, folder / "expected.safetensors", metadata=VERSIONS)
    print(name, answer.logits_per_text)


if __name__ == "__main__":
    torch.set_num_threads(1)
    shutil.rmtree(OUT, ignore_errors=True)
    vocabulary = len(json.loads((ROOT / "models/tiny-flux/tokenizer/tokenizer.json").read_text())["model"]["vocab"])
    end = json.loads((ROOT / "models/tiny-flux/tokenizer/tokenizer.json").read_text())["model"]["vocab"]["<|endoftext|>"]
    common = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "projection_dim": 20}
    case("quick-gelu", 1, common | {"vocab_size": vocabulary, "num_hidden_layers": 2, "max_position_embeddings": 40, "eos_token_id": end},
         common | {"num_hidden_layers": 2, "image_size": 24, "patch_size": 8}, 4.6052, {"shortest_edge": 24})
    case("gelu-legacy-eos", 2,
         common | {"vocab_size": vocabulary, "num_hidden_layers": 1, "max_position_embeddings": 32, "eos_token_id": 2, "hidden_act": "gelu"},
         {**common, "hidden_size": 40, "num_hidden_layers": 3, "image_size": 24, "patch_size": 6, "hidden_act": "gelu",
          "layer_norm_eps": 1e-4}, 3.1, {"shortest_edge": 28})
