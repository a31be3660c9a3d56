"""Measures parts of FLUX.1-dev at their real sizes, with few layers and random weights, on both sides; see compare.py.

    python benchmarks/real_sizes.py [--threads 2] [--parts transformer training t5 vae] [--dtypes f32 bf16]

The transformer has one block of each kind, 512 text and 1024 image tokens; T5-XXL has two layers and 512 tokens; the autoencoder
decodes one image of 512 x 512. Each measurement is a process of its own that loads the part and repeats the work; the two sides
take turns. Peak memory includes loading. About 750 MiB of PyTorch's are its libraries.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("transformer", "training", "t5", "vae")
FOLDERS = {"transformer": "transformer", "training": "transformer", "t5": "text_encoder_2", "vae": "vae"}
BENCH = ["cargo", "bench", "--quiet", "-p", "gavel-models", "--profile", "dev", "--bench", "real_sizes", "--"]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--dtypes", nargs="+", choices=("f32", "bf16"), default=("f32", "bf16"))
    parser.add_argument("--measure", nargs=4, metavar=("FOLDER", "PART", "DTYPE", "REPEATS"), help="PyTorch's side of one measurement")
    return parser.parse_args()


def write_models(folder: Path, dtype_name: str, parts: list[str]) -> None:
    """Writes the parts with random weights in diffusers' layout."""
    import torch
    from diffusers import AutoencoderKL, FluxTransformer2DModel
    from transformers import T5Config, T5EncoderModel

    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16 if dtype_name == "bf16" else torch.float32)
    if {"transformer", "training"} & set(parts):
        FluxTransformer2DModel(num_layers=1, num_single_layers=1, guidance_embeds=True).save_pretrained(folder / "transformer")
    if "t5" in parts:
        sizes = {"d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_heads": 64, "vocab_size": 32128}
        config = T5Config(**sizes, num_layers=2, feed_forward_proj="gated-gelu", dropout_rate=0.0)
        T5EncoderModel(config).save_pretrained(folder / "text_encoder_2")
    if "vae" in parts:
        blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
        channels = {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 16}
        scaling = {"scaling_factor": 0.3611, "shift_factor": 0.1159}
        bare = {"use_quant_conv": False, "use_post_quant_conv": False}
        AutoencoderKL(**blocks, **channels, **scaling, **bare).save_pretrained(folder / "vae")


def measure_pytorch(folder: Path, part: str, dtype_name: str, repeats: int) -> dict:
    import torch
    from diffusers import AutoencoderKL, FluxTransformer2DModel
    from transformers import T5EncoderModel

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    dtype = torch.bfloat16 if dtype_name == "bf16" else torch.float32
    kind = {"vae": AutoencoderKL, "t5": T5EncoderModel}.get(part, FluxTransformer2DModel)
    model = kind.from_pretrained(folder / FOLDERS[part], torch_dtype=dtype)
    if part == "vae":
        latents = torch.randn(1, 16, 64, 64, dtype=dtype)
        work = lambda: model.decode(latents)
    elif part == "t5":
        ids = torch.arange(512)[None] * 7919 % 32000
        work = lambda: model(ids)
    else:
        ids = torch.zeros(32, 32, 3)
        ids[..., 1] += torch.arange(32)[:, None]
        ids[..., 2] += torch.arange(32)[None, :]
        inputs = {
            "hidden_states": torch.randn(1, 1024, 64, dtype=dtype),
            "encoder_hidden_states": torch.randn(1, 512, 4096, dtype=dtype),
            "pooled_projections": torch.randn(1, 768, dtype=dtype),
            "timestep": torch.tensor([0.7]).to(dtype),
            "guidance": torch.tensor([3.5]),
            "img_ids": ids.reshape(-1, 3),
            "txt_ids": torch.zeros(512, 3),
            "return_dict": False,
        }
        if part == "training":
            from peft import LoraConfig, get_peft_model

            attention = ["to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"]
            targets = [f"attn.{name}" for name in attention]
            targets += ["ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2"]
            model.requires_grad_(False)
            model = get_peft_model(model, LoraConfig(r=16, lora_alpha=16, target_modules=targets))

            def work() -> None:
                model.zero_grad()
                velocity = model(**inputs)[0]
                velocity.backward(velocity.detach())
        else:
            work = lambda: model(**inputs)
    seconds = []
    with torch.set_grad_enabled(part == "training"):
        work()
        processor = time.process_time()
        for _ in range(repeats):
            start = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - start)
    used = (time.process_time() - processor) / repeats
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": seconds, "processor_seconds": used, "peak_memory_kib": peak}


def run(command: list[str], threads: int) -> dict:
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "RAYON_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    output = subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE).stdout
    return json.loads(output.splitlines()[-1])


def compare(threads: int, parts: list[str], dtypes: list[str], repeats: int = 2, rounds: int = 2) -> None:
    """Prints seconds, processor seconds and peak memory of both sides."""
    print(f"FLUX.1-dev's sizes, {threads} threads, {rounds} rounds of {repeats}; gavel, pytorch, ratio")
    print(f"{'':<18}{'seconds':^26}{'processor seconds':^26}{'peak MiB':^24}")
    for dtype in dtypes:
        with tempfile.TemporaryDirectory() as folder:
            write_models(Path(folder), dtype, parts)
            for part in parts:
                call = [folder, part, dtype, str(repeats)]
                ours, theirs = [], []
                for _ in range(rounds):
                    theirs.append(run([sys.executable, __file__, "--measure", *call], threads))
                    ours.append(run([*BENCH, *call], threads))
                row = f"{part:<12}{dtype:<6}"
                figures = (
                    lambda side: statistics.median(second for r in side for second in r["seconds"]),
                    lambda side: min(r["processor_seconds"] for r in side),
                    lambda side: max(r["peak_memory_kib"] for r in side) / 1024,
                )
                for figure, digits in zip(figures, (2, 2, 0)):
                    us, them = figure(ours), figure(theirs)
                    row += f"{us:>9.{digits}f}{them:>9.{digits}f}{us / them:>7.2f} "
                print(row, flush=True)


def main() -> None:
    a = arguments()
    if a.measure:
        folder, part, dtype, repeats = a.measure
        print(json.dumps(measure_pytorch(Path(folder), part, dtype, int(repeats))))
    else:
        compare(a.threads, list(a.parts), list(a.dtypes), a.repeats, a.rounds)


if __name__ == "__main__":
    main()
