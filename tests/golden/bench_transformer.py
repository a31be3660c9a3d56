"""Times diffusers + peft where `cargo bench -p gavel-models --bench transformer` times Gavel.

    OMP_NUM_THREADS=1 python tests/golden/bench_transformer.py
"""

import os
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from diffusers import FluxTransformer2DModel
from peft import LoraConfig, get_peft_model

ROOT = Path(__file__).resolve().parent.parent.parent
TARGETS = [
    "attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0", "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj",
    "attn.to_add_out", "ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2",
]  # fmt: skip


def cpu_ms(work, seconds=3.0):
    """Mean processor time of all threads, which other programs on the machine disturb less than they do the clock."""
    for _ in range(3):
        work()
    count, start, end = 0, time.process_time(), time.perf_counter() + seconds
    while time.perf_counter() < end:
        work()
        count += 1
    return 1000 * (time.process_time() - start) / count


def main():
    base = FluxTransformer2DModel.from_pretrained(ROOT / "models/tiny-flux/transformer")
    model = get_peft_model(base, LoraConfig(r=16, lora_alpha=32, target_modules=TARGETS, init_lora_weights=False))
    ids = torch.zeros(4, 4, 3)
    ids[..., 1] += torch.arange(4)[:, None]
    ids[..., 2] += torch.arange(4)[None, :]
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    for batch in (4, 6, 64, 128):
        config = base.config
        inputs = dict(
            hidden_states=torch.randn(batch, 16, config.in_channels),
            encoder_hidden_states=torch.randn(batch, 24, config.joint_attention_dim),
            pooled_projections=torch.randn(batch, config.pooled_projection_dim),
            timestep=torch.full((batch,), 0.7), guidance=torch.full((batch,), 3.5),
            img_ids=ids.reshape(-1, 3), txt_ids=torch.zeros(24, 3), return_dict=False,
        )  # fmt: skip

        def forward():
            with torch.inference_mode():
                model(**inputs)

        def forward_and_backward():
            model.zero_grad()
            velocity = model(**inputs)[0]
            velocity.backward(velocity.detach())

        print(f"batch {batch}: forward {cpu_ms(forward):.2f} ms, forward and backward {cpu_ms(forward_and_backward):.2f} ms")


if __name__ == "__main__":
    main()
