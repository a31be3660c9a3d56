"""Measures parts of FLUX.1-dev and a judge of 7 billion parameters at their real sizes, with random weights, on both sides; see compare.py.

    python benchmarks/real_sizes.py [--threads 2] [--parts transformer training t5 vae] [--dtypes f32 bf16]
    python benchmarks/real_sizes.py --device cuda --whole --dtypes bf16 nf4    # all layers, on a GPU

The transformer has one block of each kind, 512 text and 1024 image tokens; T5-XXL has two layers and 512 tokens; the autoencoder
decodes one image of 512 x 512; the judge has Qwen2.5-VL-7B's sizes with eight layers of vision and two of text, and is asked about a pair of 512 x 512 in
both orders. With --whole each has all its layers (24, 10 and 17 GB in bf16). The quantizations fp8 and nf4, all else being bf16, are Gavel's side alone, whose time to load is in --json. Parts of the transformer: a pass of the
base ("transformer"), one with an adapter of rank 16 ("adapted"), forwards and backwards with all activations kept ("training") or
computed again block by block ("checkpointed"). Each measurement is a process of its own that loads the part and repeats the work; the two
sides take turns. Peak memory includes loading: of the process, or of the whole GPU, CUDA's own included. About 750 MiB of PyTorch's
process are its libraries.
"""

import argparse
import itertools
import json
import os
import resource
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PASSES = ("transformer", "adapted", "training", "checkpointed")
PARTS = (*PASSES, "t5", "vae", "judge")
FOLDERS = {**dict.fromkeys(PASSES, "transformer"), "t5": "text_encoder_2", "vae": "vae", "judge": "judge"}
# Kept as their quantization says in memory, and as bf16 in files.
QUANTIZATIONS = ("fp8", "nf4")
# What the judge is asked, between and around the two pictures.
QUESTION = (
    "Image 1: ",
    " Caption: a green square left of a yellow triangle on a white background Image 2: ",
    " Caption: a green square left of a yellow triangle on a white background Rubric: The background has the stated colour. Each object has its stated colour "
    "and shape. The objects are placed as stated. The shapes are clean, with nothing extra. Which image is better, 1 or 2?",
)
BENCH = "cargo bench --quiet -p gavel-models --profile dev --bench real_sizes --"


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=("transformer", "training", "t5", "vae"))
    parser.add_argument("--dtypes", nargs="+", choices=("f32", "bf16", *QUANTIZATIONS), default=("f32", "bf16"))
    parser.add_argument("--device", default="cpu", help="cpu, or cuda for the first GPU")
    parser.add_argument("--whole", action="store_true", help="all layers")
    parser.add_argument("--bench", default=BENCH, help="how gavel's side is called")
    parser.add_argument("--gavel-only", action="store_true", help="leave PyTorch's side out; it still writes the weights")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    parser.add_argument("--write", nargs="+", help="only writes the weights: FOLDER DTYPE DEVICE slice|whole PART...")
    measure = ("FOLDER", "PART", "DTYPE", "REPEATS", "DEVICE")
    parser.add_argument("--measure", nargs=len(measure), metavar=measure, help="PyTorch's side of one measurement")
    return parser.parse_args(given)


def write_models(folder: Path, dtype_name: str, parts: list[str], device: str, whole: bool) -> None:
    """Writes the parts with random weights in diffusers' layout; they are drawn on the device."""
    import torch

    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16 if dtype_name == "bf16" else torch.float32)
    with torch.device(device):
        write_parts(folder, parts, whole)


def write_parts(folder: Path, parts: list[str], whole: bool) -> None:
    from diffusers import AutoencoderKL, FluxTransformer2DModel
    from transformers import T5Config, T5EncoderModel

    if set(PASSES) & set(parts):
        double, single = (19, 38) if whole else (1, 1)
        FluxTransformer2DModel(num_layers=double, num_single_layers=single, guidance_embeds=True).save_pretrained(
            folder / "transformer"
        )
    if "t5" in parts:
        sizes = {"d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_heads": 64, "vocab_size": 32128}
        config = T5Config(**sizes, num_layers=24 if whole else 2, feed_forward_proj="gated-gelu", dropout_rate=0.0)
        T5EncoderModel(config).save_pretrained(folder / "text_encoder_2")
    if "clip" in parts:
        from transformers import CLIPTextConfig, CLIPTextModel

        # The special tokens are those of models/tiny-flux/tokenizer.
        sizes = {"hidden_size": 768, "intermediate_size": 3072, "projection_dim": 768, "vocab_size": 49408}
        tokens = {"bos_token_id": 589, "eos_token_id": 590, "pad_token_id": 590}
        config = CLIPTextConfig(**sizes, **tokens, num_hidden_layers=12, num_attention_heads=12)
        CLIPTextModel(config).save_pretrained(folder / "text_encoder")
    if "vae" in parts:
        blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
        channels = {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 16}
        scaling = {"scaling_factor": 0.3611, "shift_factor": 0.1159}
        bare = {"use_quant_conv": False, "use_post_quant_conv": False}
        AutoencoderKL(**blocks, **channels, **scaling, **bare).save_pretrained(folder / "vae")
    if "judge" in parts:
        write_judge(folder, whole)


def write_judge(folder: Path, whole: bool) -> None:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    shipped = ROOT / "models/tiny-judge"
    tokens = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    base = json.loads((shipped / "config.json").read_text())
    vision = {"depth": 32 if whole else 8, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 3584}
    vision |= {"patch_size": 14, "window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31][: 4 if whole else 1]}
    text = {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28 if whole else 2, "vocab_size": 152064}
    text |= {"num_attention_heads": 28, "num_key_value_heads": 4, "rms_norm_eps": 1e-6, "max_position_embeddings": 32768}
    text |= {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}}
    config = Qwen2_5_VLConfig(vision_config=vision, text_config=text, tie_word_embeddings=False, **{key: base[key] for key in tokens})
    Qwen2_5_VLForConditionalGeneration(config).save_pretrained(folder / "judge")
    # The small judge's words: which token stands for what makes no difference to the time.
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(shipped / name, folder / "judge" / name)
    settings = json.loads((shipped / "preprocessor_config.json").read_text())
    del settings["size"]
    settings |= {"patch_size": 14, "min_pixels": 3136, "max_pixels": 1003520}
    (folder / "judge/preprocessor_config.json").write_text(json.dumps(settings))
    (folder / "question.json").write_text(json.dumps(QUESTION))


def judged(folder: Path, device: str, dtype: "torch.dtype") -> "tuple[torch.nn.Module, dict]":
    """The judge, and the inputs of a pair in both orders, as tests/golden has them."""
    import torch
    from transformers import Qwen2_5_VLForConditionalGeneration

    sys.path.insert(0, str(ROOT / "tests/golden"))
    from judge import model_inputs, picture

    settings = json.loads((folder / "judge/preprocessor_config.json").read_text())
    content = [{"type": "text", "text": QUESTION[0]}]
    for text in QUESTION[1:]:
        content += [{"type": "image"}, {"type": "text", "text": text}]
    pictures = [picture(seed, 512, 512) for seed in (1, 2)]
    asked = [model_inputs([{"role": "user", "content": content}], order, pictures, settings) for order in ([0, 1], [1, 0])]
    inputs = {name: torch.cat([one[name] for one in asked]).to(device) for name in asked[0]}
    inputs["pixel_values"] = inputs["pixel_values"].to(dtype)
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder / "judge", dtype=dtype).to(device).eval()
    return model, inputs | {"logits_to_keep": 1, "use_cache": False}


def work_of(folder: Path, part: str, dtype: "torch.dtype", device: str) -> Callable[[], object]:
    """What PyTorch does once."""
    import torch
    from diffusers import AutoencoderKL, FluxTransformer2DModel
    from transformers import T5EncoderModel

    if part == "judge":
        judge, inputs = judged(folder, device, dtype)
        return lambda: judge(**inputs)
    kind = {"vae": AutoencoderKL, "t5": T5EncoderModel}.get(part, FluxTransformer2DModel)
    model = kind.from_pretrained(folder / FOLDERS[part], torch_dtype=dtype).to(device)
    if part == "vae":
        latents = torch.randn(1, 16, 64, 64, dtype=dtype).to(device)
        return lambda: model.decode(latents)
    if part == "t5":
        ids = (torch.arange(512)[None] * 7919 % 32000).to(device)
        return lambda: model(ids)
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
    }
    inputs = {name: tensor.to(device) for name, tensor in inputs.items()} | {"return_dict": False}
    if part == "transformer":
        return lambda: model(**inputs)

    from peft import LoraConfig, get_peft_model

    attention = ["to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"]
    targets = [f"attn.{name}" for name in attention]
    targets += ["ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2"]
    model.requires_grad_(False)
    if part == "checkpointed":
        model.train()
        model.enable_gradient_checkpointing()
    model = get_peft_model(model, LoraConfig(r=16, lora_alpha=16, target_modules=targets))

    def work() -> None:
        model.zero_grad()
        velocity = model(**inputs)[0]
        if part != "adapted":
            velocity.backward(velocity.detach())

    return work


def measure_pytorch(folder: Path, part: str, dtype_name: str, repeats: int, device: str) -> dict:
    import torch

    # Backwards, PyTorch 2.11 with cuDNN's attention ended in an illegal memory access on an H200.
    torch.backends.cuda.enable_cudnn_sdp(False)
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    work = work_of(folder, part, torch.bfloat16 if dtype_name == "bf16" else torch.float32, device)

    def whole() -> None:
        work()
        if device != "cpu":
            torch.cuda.synchronize()

    seconds = []
    with torch.set_grad_enabled(part in ("training", "checkpointed")):
        whole()
        processor = time.process_time()
        for _ in range(repeats):
            start = time.perf_counter()
            whole()
            seconds.append(time.perf_counter() - start)
    used = (time.process_time() - processor) / repeats
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Taken at the end: what PyTorch has once had of a GPU it keeps.
    gpu = 0
    if device != "cpu":
        free, total = torch.cuda.mem_get_info()
        gpu = (total - free) // 1024
    return {"seconds": seconds, "processor_seconds": used, "peak_memory_kib": peak, "peak_gpu_memory_kib": gpu}


def run(command: list[str], threads: int) -> dict:
    """What a measurement prints. One that fails says why and counts for nothing."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "RAYON_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE)
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {}


def compare(threads: int, parts: list[str], dtypes: list[str], repeats: int = 2, rounds: int = 2) -> None:
    """Prints seconds, processor seconds and peak memory of both sides, with few layers on the CPU."""
    counts = ["--threads", str(threads), "--repeats", str(repeats), "--rounds", str(rounds)]
    measure(arguments([*counts, "--parts", *parts, "--dtypes", *dtypes]))


def measure(a: argparse.Namespace) -> None:
    gpu = a.device != "cpu"
    sides = "gavel" if a.gavel_only else "gavel, pytorch, ratio"
    print(f"FLUX.1-dev's sizes on {a.device}, {a.threads} threads, {a.rounds} rounds of {a.repeats}; {sides}")
    print(f"{'':<18}{'seconds':^28}{'processor seconds':^28}{'peak MiB':^28}")
    results = []
    for stored, model in itertools.product(("f32", "bf16"), dict.fromkeys(FOLDERS[part] for part in a.parts)):
        parts = [part for part in a.parts if FOLDERS[part] == model]
        dtypes = [dtype for dtype in a.dtypes if stored == ("f32" if dtype == "f32" else "bf16")]
        if not dtypes:
            continue
        with tempfile.TemporaryDirectory() as folder:
            # By a process of its own, which leaves no memory taken.
            run([sys.executable, __file__, "--write", folder, stored, a.device, "whole" if a.whole else "slice", parts[0]], a.threads)
            for part, dtype in itertools.product(parts, dtypes):
                call = [folder, part, dtype, str(a.repeats), a.device]
                ours, theirs = [], []
                for _ in range(a.rounds):
                    if not a.gavel_only and dtype not in QUANTIZATIONS:
                        theirs.append(run([sys.executable, __file__, "--measure", *call], a.threads))
                    ours.append(run([*shlex.split(a.bench), *call], a.threads))
                ours, theirs = ([result for result in side if result] for side in (ours, theirs))
                results.append({"part": part, "dtype": dtype, "gavel": ours, "pytorch": theirs})
                print(row(part, dtype, ours, theirs, gpu), flush=True)
                if a.json:
                    a.json.write_text(json.dumps(results, indent=1) + "\n")


def row(part: str, dtype: str, ours: list[dict], theirs: list[dict], gpu: bool) -> str:
    memory = "peak_gpu_memory_kib" if gpu else "peak_memory_kib"
    figures = (
        (3 if gpu else 2, lambda side: statistics.median(second for r in side for second in r["seconds"])),
        (2, lambda side: min(r["processor_seconds"] for r in side)),
        (0, lambda side: max(r[memory] for r in side) / 1024),
    )
    text = f"{part:<13}{dtype:<5}"
    for digits, figure in figures:
        us, them = (figure(side) if side else None for side in (ours, theirs))
        text += "".join("        -" if value is None else f"{value:>9.{digits}f}" for value in (us, them))
        text += f"{us / them:>9.2f} " if us and them else "        - "
    return text


def main() -> None:
    a = arguments()
    if a.write:
        folder, dtype, device, layers, *parts = a.write
        write_models(Path(folder), dtype, parts, device, layers == "whole")
        print("{}")
    elif a.measure:
        folder, part, dtype, repeats, device = a.measure
        print(json.dumps(measure_pytorch(Path(folder), part, dtype, int(repeats), device)))
    else:
        measure(a)


if __name__ == "__main__":
    main()
