"""Times PyTorch on the inputs of `benches/encoders.rs`: `OMP_NUM_THREADS=1 python tests/golden/bench_encoders.py`."""
import os
import sys
import time

import diffusers
import numpy as np
import torch
from PIL import Image

from encoders import ROOT

sys.path.insert(0, str(ROOT / "models" / "train" / "judge"))
import judge_prompt  # noqa: E402

CAPTION = "a green square left of a yellow triangle on a white background"


def report(name, function, repeats=5):
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    print(f"{name}: best {min(times) * 1e3:.0f} ms, median {sorted(times)[repeats // 2] * 1e3:.0f} ms")


if __name__ == "__main__":
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    vae = diffusers.AutoencoderKL.from_pretrained(ROOT / "models" / "tiny-flux" / "vae").eval()
    latents = torch.randn((64, 16, 8, 8), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        report("vae decode, 64 images of 64x64", lambda: vae.decode(latents).sample)
    judge = judge_prompt.Judge(ROOT / "models" / "tiny-judge")
    rng = np.random.default_rng(0)
    first, second = ([Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)) for _ in range(64)] for _ in range(2))

    def both_orders():
        judge.prob_first([CAPTION] * 64, first, second)
        judge.prob_first([CAPTION] * 64, second, first)

    report("judge, 64 pairs in both orders", both_orders)
