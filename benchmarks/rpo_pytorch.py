"""A plain PyTorch RPO loop (diffusers, peft, transformers; one process): the baseline that Gavel is compared with.

One step: two candidates per prompt from the SDE sampler, a pairwise verdict of the VLM judge in both image orders (a
disagreement abstains), rewards as advantages, one AdamW step on the LoRA weights. Before and after training the adapter is
evaluated on held-out prompts with deterministic ODE sampling and fixed initial noise: mean share of the caption's facts that
hold by the pixel rules, and the judge's win rate of the tuned pictures over the base's.
"""

import argparse
import json
import math
import random
import resource
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from diffusers import FluxPipeline
from peft import LoraConfig, get_peft_model
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "models/train"))
from judge.judge_prompt import Judge  # noqa: E402
from scenes.scene import check, parse  # noqa: E402

TEXT_LENGTH, GUIDANCE, SIDE, CHANNELS = 24, 3.5, 4, 64
TARGETS = [
    "attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0", "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj",
    "attn.to_add_out", "ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2",
]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "models/tiny-flux", help="FluxPipeline folder")
    parser.add_argument("--judge", type=Path, default=ROOT / "models/tiny-judge", help="Qwen2.5-VL folder")
    parser.add_argument("--prompts", type=Path, default=ROOT / "configs/quickstart/prompts.txt", help="training captions")
    parser.add_argument("--held-out", type=Path, default=ROOT / "configs/quickstart/held-out.txt", help="evaluation captions")
    parser.add_argument("--eval-prompts", type=int, default=200, help="held-out captions that are used")
    parser.add_argument("--eval-seed", type=int, default=1, help="seed of the evaluation's initial noise")
    parser.add_argument("--eval-every", type=int, default=0, help="also evaluate after every N steps; 0: only at the end")
    parser.add_argument("--out", type=Path, help="folder for the adapter, figures and pictures")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--prompts-per-step", type=int, default=64)
    parser.add_argument("--sampling-steps", type=int, default=8)
    parser.add_argument("--shift", type=float, default=3.0)
    parser.add_argument("--eta", type=float, default=2.0, help="noise level of the SDE")
    parser.add_argument("--noise-steps", type=int, default=2, help="the first steps that inject noise and are trained")
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--alpha", type=float, default=8.0)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--schedule", choices=["constant", "linear", "cosine"], default="constant", help="decay to 0 over the run")
    parser.add_argument("--warmup", type=int, default=0, help="steps of linear warm-up")
    parser.add_argument("--weight-decay", type=float, default=1e-4)
    parser.add_argument("--beta2", type=float, default=0.999)
    parser.add_argument("--preferred", type=float, default=1.0)
    parser.add_argument("--dispreferred", type=float, default=-1.0)
    parser.add_argument("--clip", type=float, default=0.2)
    parser.add_argument("--beta", type=float, default=0.0, help="weight of the KL term")
    parser.add_argument("--kl", choices=["gaussian", "k1", "k3"], default="gaussian")
    parser.add_argument("--grad-clip", type=float, default=1.0)
    parser.add_argument("--ema", type=float, default=0.9, help="decay of the averaged adapter that is evaluated and saved; 0: none")
    parser.add_argument("--bench-steps", type=int, default=0, help="time N steps after a warm-up step instead of training")
    parser.add_argument("--own-noise", action="store_true", help="each candidate has its own initial noise")
    return parser.parse_args()


class Policy:
    """The frozen pipeline with a LoRA adapter on its transformer."""

    def __init__(self, a: argparse.Namespace):
        self.a = a
        self.pipe = FluxPipeline.from_pretrained(a.model)
        self.pipe.set_progress_bar_config(disable=True)
        for part in (self.pipe.transformer, self.pipe.vae, self.pipe.text_encoder, self.pipe.text_encoder_2):
            part.requires_grad_(False)
        config = LoraConfig(r=a.rank, lora_alpha=a.alpha, target_modules=TARGETS)
        self.transformer = get_peft_model(self.pipe.transformer, config)
        self.parameters = [p for p in self.transformer.parameters() if p.requires_grad]
        t = torch.linspace(1, 0, a.sampling_steps + 1)
        self.sigmas = a.shift * t / (1 + (a.shift - 1) * t)
        ids = torch.zeros(SIDE, SIDE, 3)
        ids[..., 1] = torch.arange(SIDE)[:, None]
        ids[..., 2] = torch.arange(SIDE)[None]
        self.image_ids, self.text_ids = ids.reshape(-1, 3), torch.zeros(TEXT_LENGTH, 3)

    @torch.no_grad()
    def encode(self, captions):
        embeds, pooled, _ = self.pipe.encode_prompt(captions, None, max_sequence_length=TEXT_LENGTH)
        return embeds, pooled

    def velocity(self, x, i, embeds, pooled):
        """Velocity (batch, tokens, channels) of latents `x` at step `i`."""
        return self.transformer(
            hidden_states=x, timestep=self.sigmas[i].expand(len(x)), guidance=torch.full((len(x),), GUIDANCE),
            pooled_projections=pooled, encoder_hidden_states=embeds, txt_ids=self.text_ids, img_ids=self.image_ids,
            return_dict=False,
        )[0]

    def sde_mean(self, v, x, i):
        """Mean and standard deviation of the SDE transition from step `i`."""
        s, d = float(self.sigmas[i]), float(self.sigmas[i + 1] - self.sigmas[i])
        score = -(x - (1 - s) * (x - s * v)) / s**2
        return x + d * v - 0.5 * self.a.eta**2 * score * d, self.a.eta * math.sqrt(-d)

    @torch.no_grad()
    def sample(self, x, embeds, pooled, noise_steps):
        """Integrates from initial noise `x`: SDE for `noise_steps` steps, then ODE. Returns latents, SDE states, log-probs."""
        states, log_probs = [x], []
        for i in range(self.a.sampling_steps):
            v = self.velocity(x, i, embeds, pooled)
            if i < noise_steps:
                mean, std = self.sde_mean(v, x, i)
                x = mean + std * torch.randn_like(mean)
                states.append(x)
                log_probs.append(log_prob(x, mean, std))
            else:
                x = x + float(self.sigmas[i + 1] - self.sigmas[i]) * v
        return x, states, log_probs

    @torch.no_grad()
    def decode(self, latents):
        """Packed latents to RGB images."""
        z = latents.view(-1, SIDE, SIDE, 16, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(-1, 16, 2 * SIDE, 2 * SIDE)
        vae = self.pipe.vae
        y = vae.decode(z / vae.config.scaling_factor + vae.config.shift_factor).sample
        y = ((y.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
        return [Image.fromarray(image) for image in y]

    def pictures(self, captions, seed):
        """Deterministic pictures of captions from fixed initial noise."""
        x = torch.randn(len(captions), SIDE * SIDE, CHANNELS, generator=torch.Generator().manual_seed(seed))
        return self.decode(self.sample(x, *self.encode(captions), noise_steps=0)[0])


def log_prob(x, mean, std):
    """Log-density of a transition, averaged over the latent dimensions: (batch,)."""
    return (-((x - mean) ** 2) / (2 * std * std) - math.log(std) - 0.5 * math.log(2 * math.pi)).mean((1, 2))


def verdicts(judge, captions, first, second):
    """Per pair 1: first preferred, -1: second preferred, 0: the two image orders disagree."""
    p, q = judge.prob_first(captions, first, second), 1 - judge.prob_first(captions, second, first)
    return [0 if (x > 0.5) != (y > 0.5) else 1 if x > 0.5 else -1 for x, y in zip(p, q)]


def adherence(images, captions):
    """Mean share of facts that hold, and the mean of each fact over the pictures whose caption states it."""
    results = [check(image, parse(text)) for image, text in zip(images, captions)]
    names = sorted({name for r in results for name in r})
    return {name: round(float(np.mean([r[name] for r in results if name in r])), 4) for name in names}


def win_rate(judge, captions, tuned, base):
    """The judge's verdicts of tuned over base pictures; abstentions are left out of the rate."""
    v = verdicts(judge, captions, tuned, base)
    won, lost = v.count(1), v.count(-1)
    return dict(won=won, lost=lost, abstained=v.count(0), rate=round(won / max(1, won + lost), 4))


def learning_rate(a, step):
    decay = {"constant": 1.0, "linear": 1 - step / a.steps, "cosine": 0.5 * (1 + math.cos(math.pi * step / a.steps))}
    return a.lr * decay[a.schedule] * min(1.0, (step + 1) / max(1, a.warmup))


def update(policy, optimizer, states, old, embeds, pooled, advantages):
    """One optimizer step over every decided pair and trained timestep. Returns KL, max |ratio - 1| and gradient norm."""
    a, keep = policy.a, advantages.nonzero().flatten()
    adv, e, p = advantages[keep], embeds[keep], pooled[keep]
    kl_sum = deviation = 0.0
    optimizer.zero_grad()
    for i in range(a.noise_steps):
        x, x_next = states[i][keep], states[i + 1][keep]
        mean, std = policy.sde_mean(policy.velocity(x, i, e, p), x, i)
        lp = log_prob(x_next, mean, std)
        ratio = torch.exp(lp - old[i][keep])
        terms = torch.maximum(-adv * ratio, -adv * ratio.clamp(1 - a.clip, 1 + a.clip))
        if a.beta:
            with torch.no_grad(), policy.transformer.disable_adapter():
                ref, _ = policy.sde_mean(policy.velocity(x, i, e, p), x, i)
            r = log_prob(x_next, ref, std) - lp
            gaussian = ((mean - ref) ** 2 / (2 * std * std)).mean((1, 2))
            kl = {"gaussian": gaussian, "k1": -r, "k3": torch.exp(r) - r - 1}[a.kl]
            terms = terms + a.beta * kl
            kl_sum += float(kl.detach().mean()) / a.noise_steps
        (terms.sum() / (len(keep) * a.noise_steps)).backward()
        deviation = max(deviation, float((ratio.detach() - 1).abs().max()))
    norm = float(torch.nn.utils.clip_grad_norm_(policy.parameters, a.grad_clip))
    optimizer.step()
    return kl_sum, deviation, norm


class Run:
    """Everything that a step changes."""

    def __init__(self, a: argparse.Namespace):
        self.a = a
        self.train = a.prompts.read_text().splitlines()
        self.policy, self.judge = Policy(a), Judge(a.judge)
        self.optimizer = torch.optim.AdamW(
            self.policy.parameters, lr=a.lr, betas=(0.9, a.beta2), weight_decay=a.weight_decay
        )
        self.average, self.updates = [p.detach().clone() for p in self.policy.parameters], 0
        self.rng, self.order = random.Random(a.seed), []

    def draw(self):
        """The next step's captions: each pass over the training captions has its own order."""
        n = self.a.prompts_per_step
        if len(self.order) < n:
            self.order = self.rng.sample(self.train, len(self.train))
        captions, self.order = self.order[:n], self.order[n:]
        return captions

    def step(self, number):
        """One optimizer step. Returns its figures and the wall-clock and CPU seconds of each stage."""
        a, policy, captions = self.a, self.policy, self.draw()
        wall, cpu = Counter(), Counter()
        clock = time.perf_counter(), time.process_time()

        def lap(stage):
            nonlocal clock
            now = time.perf_counter(), time.process_time()
            wall[stage] += now[0] - clock[0]
            cpu[stage] += now[1] - clock[1]
            clock = now

        embeds, pooled = (t.repeat_interleave(2, 0) for t in policy.encode(captions))
        if a.own_noise:
            x = torch.randn(2 * len(captions), SIDE * SIDE, CHANNELS)
        else:
            x = torch.randn(len(captions), SIDE * SIDE, CHANNELS).repeat_interleave(2, 0)
        latents, states, old = policy.sample(x, embeds, pooled, a.noise_steps)
        lap("sample")
        images = policy.decode(latents)
        lap("decode")
        won = verdicts(self.judge, captions, images[0::2], images[1::2])
        lap("judge")
        rewards = {1: (a.preferred, a.dispreferred), -1: (a.dispreferred, a.preferred), 0: (0.0, 0.0)}
        advantages = torch.tensor([r for v in won for r in rewards[v]])
        kl = deviation = norm = 0.0
        if any(won):
            self.optimizer.param_groups[0]["lr"] = learning_rate(a, number)
            kl, deviation, norm = update(policy, self.optimizer, states, old, embeds, pooled, advantages)
            self.updates += 1
            weight = 1 - min(a.ema, self.updates / (self.updates + 9))
            torch._foreach_lerp_(self.average, [p.data for p in policy.parameters], weight)
        lap("train")

        facts = [check(image, parse(captions[k // 2]))["mean"] for k, image in enumerate(images)]
        told_apart = [v * (x - y) > 0 for v, x, y in zip(won, facts[0::2], facts[1::2]) if v and x != y]
        row = dict(
            step=number + 1, decided=len(won) - won.count(0), adherence=round(float(np.mean(facts)), 4),
            judge_agrees_with_rules=round(float(np.mean(told_apart)), 3) if told_apart else None, kl=round(kl, 5),
            ratio_deviation=round(deviation, 7), grad_norm=round(norm, 5),
        )
        return row, wall, cpu


def bench(a: argparse.Namespace) -> None:
    """Times steps after a warm-up step, and prints seconds of each and the peak memory as one line of JSON."""
    run, steps = Run(a), []
    for number in range(a.bench_steps + 1):
        row, wall, _ = run.step(number)
        steps.append(dict(sample=wall["sample"] + wall["decode"], judge=wall["judge"], train=wall["train"], decided=row["decided"]))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps(dict(steps=steps[1:], peak_memory_bytes=peak, threads=a.threads)))


def train(a: argparse.Namespace) -> None:
    """A whole run with its evaluation."""
    run = Run(a)
    policy, judge = run.policy, run.judge
    held_out = a.held_out.read_text().splitlines()[: a.eval_prompts]
    base_images = policy.pictures(held_out, a.eval_seed)
    base = adherence(base_images, held_out)
    print("base", base, flush=True)

    def evaluate(step):
        own = [p.detach().clone() for p in policy.parameters]
        if a.ema:
            for p, mean in zip(policy.parameters, run.average):
                p.data.copy_(mean)
        images = policy.pictures(held_out, a.eval_seed)
        result = dict(step=step, **adherence(images, held_out))
        if step == a.steps:
            result["win_rate"] = win_rate(judge, held_out, images, base_images)
            if a.out:
                policy.transformer.save_pretrained(a.out)
        for p, value in zip(policy.parameters, own):
            p.data.copy_(value)
        print("held-out", result, flush=True)
        return result, images

    spent, cpu_spent, log = Counter(), Counter(), []
    for step in range(a.steps):
        row, wall, cpu = run.step(step)
        spent.update(wall)
        cpu_spent.update(cpu)
        row["seconds"] = {k: round(v, 1) for k, v in spent.items()}
        row["cpu_seconds"] = {k: round(v, 1) for k, v in cpu_spent.items()}
        log.append(row)
        if step % 10 == 9:
            print(row, flush=True)
        if a.eval_every and (step + 1) % a.eval_every == 0 and step + 1 < a.steps:
            log.append(evaluate(step + 1)[0])

    final, images = evaluate(a.steps)
    if a.out:
        settings = {k: str(v) for k, v in vars(a).items()}
        figures = dict(settings=settings, base=base, final=final, seconds=dict(spent), cpu_seconds=dict(cpu_spent), log=log)
        (a.out / "figures.json").write_text(json.dumps(figures, indent=1))
        grid = Image.new("RGB", (16 * 66, 8 * 66))
        for k, pair in enumerate(zip(base_images[:64], images)):
            for j, image in enumerate(pair):
                grid.paste(image, ((k % 16) * 66, (2 * (k // 16) + j) * 66))
        grid.save(a.out / "before-after.png")


def main() -> None:
    a = arguments()
    torch.set_num_threads(a.threads)
    torch.manual_seed(a.seed)
    bench(a) if a.bench_steps else train(a)


if __name__ == "__main__":
    main()
