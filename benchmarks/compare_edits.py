"""Times a step of the edit quickstart beside the same work in plain PyTorch (diffusers, transformers, peft): sampling and training.

Both sides run in turn, each in a process of its own. A judge's verdict has the same cost as in `compare.py` and is left out: the PyTorch side
trains on as many pairs as Gavel's judge decided in the same step.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "configs/quickstart-edit.toml"
SIZE = 64


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gavel", default=str(ROOT / "target/debug/gavel"), help="the gavel binary")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=3, help="timed steps, after a warm-up step")
    parser.add_argument("--decided", help=argparse.SUPPRESS)  # this process is the PyTorch side
    return parser.parse_args()


def pytorch(threads: int, decided: list[int]) -> dict:
    """Seconds of sampling and training of each step, after one that is not counted, and the peak memory."""
    import torch
    from diffusers import QwenImageEditPipeline
    from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit as module
    from peft import LoraConfig, get_peft_model
    from PIL import Image

    torch.set_num_threads(threads)
    spec = tomllib.loads(CONFIG.read_text())
    lora, optimizer, sampling = spec["lora"], spec["optimizer"], spec["sampling"]
    module.calculate_dimensions = lambda area, ratio: (SIZE, SIZE, None)
    pipe = QwenImageEditPipeline.from_pretrained(ROOT / "models/tiny-qwen-edit", torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    pipe.vae.requires_grad_(False)
    pipe.text_encoder.requires_grad_(False)
    settings = LoraConfig(r=lora["rank"], lora_alpha=lora["alpha"], target_modules=lora["target_modules"])
    policy = get_peft_model(pipe.transformer, settings)
    parameters = [p for p in policy.parameters() if p.requires_grad]
    adamw = torch.optim.AdamW(parameters, lr=optimizer["learning_rate"], weight_decay=optimizer["weight_decay"])
    file = CONFIG.parent / spec["prompts"]["train"]
    tasks = [json.loads(line) for line in file.read_text().splitlines()]
    steps, noisy, eta, count = sampling["steps"], sampling["noise_steps"], sampling["eta"], spec["prompts"]["per_step"]
    t = torch.linspace(1, 0, steps + 1)
    sigmas = sampling["shift"] * t / (1 + (sampling["shift"] - 1) * t)
    shapes = [(1, SIZE // 16, SIZE // 16)] * 2
    tokens, image_token = (SIZE // 16) ** 2, pipe.text_encoder.config.image_token_id
    mean = torch.tensor(pipe.vae.config.latents_mean).view(1, -1, 1, 1, 1)
    std = torch.tensor(pipe.vae.config.latents_std).view(1, -1, 1, 1, 1)
    prefix = pipe.prompt_template_encode_start_idx

    def encode(edits):
        """Text states with their mask, and packed source latents."""
        pictures = [Image.open(file.parent / edit["source_image"]).convert("RGB") for edit in edits]
        texts = [pipe.prompt_template_encode.format(edit["instruction"]) for edit in edits]
        inputs = pipe.processor(text=texts, images=pictures, padding=True, padding_side="right", return_tensors="pt")
        states = pipe.text_encoder.model(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], pixel_values=inputs["pixel_values"],
            image_grid_thw=inputs["image_grid_thw"], mm_token_type_ids=(inputs["input_ids"] == image_token).int(),
        ).last_hidden_state  # fmt: skip
        pixels = pipe.image_processor.preprocess(pictures, SIZE, SIZE)[:, :, None]
        latents = (pipe.vae.encode(pixels).latent_dist.mode() - mean) / std
        packed = pipe._pack_latents(latents, len(edits), latents.shape[1], SIZE // 8, SIZE // 8)
        return states[:, prefix:], inputs["attention_mask"][:, prefix:], packed

    def velocity(x, i, states, mask, sources):
        return policy(
            hidden_states=torch.cat([x, sources], 1), encoder_hidden_states=states, encoder_hidden_states_mask=mask,
            timestep=sigmas[i].expand(len(x)), img_shapes=[shapes] * len(x), return_dict=False,
        )[0][:, :tokens]  # fmt: skip

    def transition(v, x, i):
        """Mean and deviation of the state after step i."""
        s, d = sigmas[i], sigmas[i + 1] - sigmas[i]
        score = -(x - (1 - s) * (x - s * v)) / s**2
        return x + d * v - 0.5 * eta**2 * score * d, eta * (-d) ** 0.5

    def log_prob(x, mean, std):
        return (-((x - mean) ** 2) / (2 * std**2) - std.log()).mean((1, 2))

    laps = []
    for number, pairs in enumerate(decided):
        edits = [tasks[(number * count + i) % len(tasks)] for i in range(count)]
        started = time.perf_counter()
        with torch.no_grad():
            states, mask, sources = (x.repeat_interleave(2, 0) for x in encode(edits))
            ways = [torch.randn(count, tokens, 64).repeat_interleave(2, 0)]
            for i in range(steps):
                x, v = ways[-1], velocity(ways[-1], i, states, mask, sources)
                if i < noisy:
                    centre, width = transition(v, x, i)
                    ways.append(centre + width * torch.randn_like(x))
                else:
                    ways.append(x + (sigmas[i + 1] - sigmas[i]) * v)
            latents = pipe._unpack_latents(ways[-1], SIZE, SIZE, 8)
            pipe.image_processor.postprocess(pipe.vae.decode(latents * std + mean).sample[:, :, 0], output_type="pil")
            kept = slice(0, 2 * pairs)
            old = []
            for i in range(noisy):
                centre, width = transition(velocity(ways[i][kept], i, states[kept], mask[kept], sources[kept]), ways[i][kept], i)
                old.append(log_prob(ways[i + 1][kept], centre, width))
        sampled = time.perf_counter()
        advantages = torch.tensor([1.0, -1.0]).repeat(pairs)
        adamw.zero_grad()
        for i in range(noisy):
            centre, width = transition(velocity(ways[i][kept], i, states[kept], mask[kept], sources[kept]), ways[i][kept], i)
            ratio = torch.exp(log_prob(ways[i + 1][kept], centre, width) - old[i])
            terms = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(0.8, 1.2))
            (terms.sum() / (2 * pairs * noisy)).backward()
        torch.nn.utils.clip_grad_norm_(parameters, optimizer["gradient_clip"])
        adamw.step()
        laps.append({"sample": sampled - started, "train": time.perf_counter() - sampled})
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"steps": laps[1:], "peak_memory_bytes": peak}


def main() -> None:
    a = arguments()
    if a.decided:
        print(json.dumps(pytorch(a.threads, [int(pairs) for pairs in a.decided.split(",")])))
        return
    environment = os.environ | {"RAYON_NUM_THREADS": str(a.threads), "OMP_NUM_THREADS": str(a.threads)}

    def run(command):
        return json.loads(subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE).stdout.splitlines()[-1])

    ours = run([a.gavel, "bench", str(CONFIG), "--steps", str(a.steps), "--json"])
    decided = [step["decided"] for step in ours["steps"]]
    listed = ",".join(str(pairs) for pairs in [decided[0], *decided])
    theirs = run([sys.executable, __file__, "--threads", str(a.threads), "--decided", listed])
    print(f"{CONFIG.name}, {a.threads} threads, {a.steps} steps, decided pairs {decided}")
    print(f"{'':<12}{'gavel':>10}{'pytorch':>10}{'ratio':>8}")
    for stage in ("sample", "train"):
        us, them = (statistics.median(step[stage] for step in side["steps"]) for side in (ours, theirs))
        print(f"{stage:<12}{us:>9.2f}s{them:>9.2f}s{us / them:>8.2f}")
    us, them = (side["peak_memory_bytes"] / 2**20 for side in (ours, theirs))
    print(f"{'peak memory':<12}{us:>7.0f}MiB{them:>7.0f}MiB{us / them:>8.2f}")


if __name__ == "__main__":
    main()
