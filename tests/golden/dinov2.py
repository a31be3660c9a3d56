"""Golden values for DINOv2's embeddings: `python tests/golden/dinov2.py` from the repository root.

Writes `tests/golden/dinov2/<case>/`: a model folder of random weights, and in `expected.safetensors` the pictures and transformers' embeddings of
them (pooled, of length 1), in float32. Deterministic; the libraries' versions stand in the file's metadata.
"""
import pathlib
import shutil

import torch
import transformers
from clip import SIZES, VERSIONS, picture, randomize
from PIL import Image
from safetensors.torch import save_file

OUT = pathlib.Path(__file__).resolve().parent / "dinov2"


@torch.no_grad()
def case(name, seed, image_size, patch_size, shortest, cut, **more):
    folder = OUT / name
    config = transformers.Dinov2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, mlp_ratio=2, image_size=image_size, patch_size=patch_size, **more)
    model = randomize(transformers.Dinov2Model(config), seed)
    for parameter_name, parameter in model.named_parameters():
        if "lambda" in parameter_name:
            parameter.data += 1.0
    model.save_pretrained(folder)
    processor = transformers.BitImageProcessorPil(
        size={"shortest_edge": shortest}, crop_size={"height": cut, "width": cut}, image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225]
    )
    processor.save_pretrained(folder)
    pictures = [picture(seed + i, *dims) for i, dims in enumerate(SIZES)]
    pixels = torch.cat([processor(Image.fromarray(one), return_tensors="pt")["pixel_values"] for one in pictures])
    pooled = model(pixel_values=pixels).pooler_output
    tensors = {f"picture.{i}": torch.from_numpy(one) for i, one in enumerate(pictures)}
    tensors |= {"embeddings": torch.nn.functional.normalize(pooled, dim=-1)}
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, folder / "expected.safetensors", metadata=VERSIONS)
    print(name, tensors["embeddings"][:, :3])


if __name__ == "__main__":
    torch.set_num_threads(1)
    shutil.rmtree(OUT, ignore_errors=True)
    case("own-size", 1, 28, 7, 32, 28)
    # Fewer patches than in training, as the released models have it (37 x 37 and 16 x 16), with a rest beyond the last whole patch; then more.
    case("smaller", 2, 70, 7, 32, 30)
    case("larger", 3, 21, 7, 28, 28, layer_norm_eps=1e-5, hidden_act="gelu_new")
