"""Trains the small judge further: verdicts under any rubric of its world, criteria, themes and reasons.

Starts from a judge that `train_judge.py` made. An average of the weights over the last steps is what is saved, so every
checkpoint can be used.
"""

import argparse
import copy
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from judge.judge_examples import IGNORE, Examples
from judge.judge_prompt import patches
from judge.painted import PaintedExamples
from judge.rubric_examples import RubricExamples
from scenes.scene import random_scene
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from judge.train_judge import save
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb

# Share of the steps, batch factor.
KINDS = {"pair_tree": (4, 1), "painted_tree": (1.5, 1), "structure": (4.5, 1.5), "questions": (0.1, 2), "description": (0.05, 2)}
WEIGHT_COPY = 0.1


def length(example) -> int:
    prefix, branches, _ = example
    return len(prefix.ids) + sum(len(branch.ids) for branch in branches)


class Batches:
    """Batches of examples of like lengths, so that little is padding."""

    def __init__(self, examples: Examples, size: int, factors: dict[str, float]):
        self.examples, self.size, self.factors = examples, size, factors
        self.waiting = {kind: [] for kind in factors}

    def draw(self, kind: str):
        size = round(self.size * self.factors[kind])
        if not self.waiting[kind]:
            pool = sorted((getattr(self.examples, kind)() for _ in range(8 * size)), key=length)
            self.waiting[kind] = [pool[at : at + size] for at in range(0, len(pool), size)]
            self.examples.rng.shuffle(self.waiting[kind])
        return self.waiting[kind].pop()


def learn_clean(model, examples: RubricExamples, steps: int, batch: int = 32) -> None:
    """Teaches the vision tower alone to tell clean pictures from spoiled ones, through the embeddings of "yes" and "no".

    Its features are held near what they were, because the language model reads them.
    """
    before = copy.deepcopy(model.model.visual)
    towards = (model.lm_head.weight[examples.yes] - model.lm_head.weight[examples.no]).detach()
    optimizer = torch.optim.AdamW(model.model.visual.parameters(), lr=1e-3, weight_decay=0, betas=(0.9, 0.98))
    grid = torch.tensor([[1, 8, 8]] * batch)
    rights = []
    for step in range(steps):
        drawn = [examples.picture(random_scene(examples.rng), 0.5) for _ in range(batch)]
        x = torch.from_numpy(np.concatenate([patches(image) for image, _ in drawn]))
        clean = torch.tensor([not spoiled for _, spoiled in drawn]).float()
        with torch.no_grad():
            old = before(x, grid_thw=grid).pooler_output
        new = model.model.visual(x, grid_thw=grid).pooler_output
        old, new = (torch.cat(list(f)) if isinstance(f, (tuple, list)) else f for f in (old, new))
        logits = (new.view(batch, 16, -1).mean(1) @ towards) * 4
        loss = F.binary_cross_entropy_with_logits(logits, clean) + F.mse_loss(new, old) / old.var()
        optimizer.param_groups[0]["lr"] = 1e-3 * min(1, (step + 1) / 30, 2 - 2 * step / steps)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rights.append(((logits > 0) == (clean > 0.5)).float().mean().item())
        if step % 50 == 49:
            print(f"clean {step + 1}: right {np.mean(rights[-50:]):.3f}, loss {loss.item():.3f}", flush=True)


class Further:
    """Labels beside the targets of a batch: by layer (row, position, token, weight), and (row, position, position that it copies)."""

    def __init__(self):
        self.labels, self.copies = {}, []

    def add(self, row: int, parts) -> None:
        """Takes over what the parts of an example, one after another, hold."""
        start = 0
        for part in parts:
            for at, token, weight, layer in part.more:
                self.labels.setdefault(layer, []).append((row, start + at, token, weight))
            self.copies += [(row, start + at, start + source) for at, source in part.copies]
            start += len(part.ids)


def batch_of(model, examples: Examples, drawn, vae):
    """Model inputs, targets, weights and earlier layers of the targets, and the `Further` labels.

    With a VAE, one batch in five looks generated (through the VAE with latent noise).
    """
    longest = max(map(length, drawn))
    ids = torch.full((len(drawn), longest), examples.tokenizer.pad_token_id)
    targets, weights, positions = torch.full_like(ids, IGNORE), torch.zeros(ids.shape), torch.zeros(3, *ids.shape, dtype=torch.long)
    early, further = torch.zeros_like(ids), Further()
    sees = torch.eye(longest, dtype=torch.bool).repeat(len(drawn), 1, 1)
    for row, (prefix, branches, images) in enumerate(drawn):
        end = len(prefix.ids)
        own = torch.tensor(prefix.ids)[None]
        grid = torch.tensor([[1, 8, 8]] * len(images)) if images else None
        kinds = (own == examples.image_ids[1]).long()
        positions[:, row, :end] = model.model.get_rope_index(own, kinds, image_grid_thw=grid)[0][:, 0]
        sees[row, :end, :end] = torch.ones(end, end, dtype=torch.bool).tril()
        after, at = int(positions[:, row, :end].max()) + 1, end
        for branch in branches:
            to = at + len(branch.ids)
            positions[:, row, at:to] = after + torch.arange(to - at)
            sees[row, at:to, :end] = True
            sees[row, at:to, at:to] = torch.ones(to - at, to - at, dtype=torch.bool).tril()
            at = to
        parts = [prefix, *branches]
        ids[row, :at] = torch.tensor([i for part in parts for i in part.ids])
        targets[row, :at] = torch.tensor([i for part in parts for i in part.targets])
        weights[row, :at] = torch.tensor([w for part in parts for w in part.weights])
        early[row, :at] = torch.tensor([e for part in parts for e in part.early])
        further.add(row, parts)
    inputs = dict(input_ids=ids, attention_mask=sees[:, None], position_ids=positions)
    images = [image for e in drawn for image in e[2]]
    if images:
        if vae is not None and examples.rng.random() < 0.2:
            from flux.flux_training import images_of, latents_of

            z = latents_of(vae, images)
            images = images_of(vae, z + examples.rng.uniform(0, 0.25) * torch.randn_like(z))
        inputs |= dict(
            pixel_values=torch.from_numpy(np.concatenate([patches(image) for image in images])),
            image_grid_thw=torch.tensor([[1, 8, 8]] * len(images)),
        )
    return inputs, targets, weights, early, further


def loss_of(model, inputs, targets, weights, early, further):
    """Weighted mean cross-entropy over the positions that have a target, and again where it must be told from an earlier layer.

    Added to it: where an answer is copied, how little the first attention head of the last layer looks at what is to be copied.
    """
    out = model.model(**inputs, use_cache=False, output_hidden_states=True)
    labelled = targets != IGNORE
    parts = [(labelled, out.last_hidden_state)]
    for layer in set(early.flatten().tolist()) - {0}:
        parts.append((labelled & (early == layer), model.model.language_model.norm(out.hidden_states[layer])))
    losses = [
        (F.cross_entropy(model.lm_head(hidden[at]), targets[at], reduction="none") * weights[at]).sum() for at, hidden in parts
    ]
    total = sum(weights[at].sum() for at, _ in parts)
    for layer, labels in further.labels.items():
        rows, at, token, weight = (torch.tensor(column) for column in zip(*labels))
        hidden = model.model.language_model.norm(out.hidden_states[layer]) if layer else out.last_hidden_state
        losses.append((F.cross_entropy(model.lm_head(hidden[rows, at]), token, reduction="none") * weight).sum())
        total = total + weight.sum()
    loss = sum(losses) / total
    if further.copies:
        rows, at, source = torch.tensor(further.copies).T
        looks = last_looks(model, out.hidden_states[-2], inputs["position_ids"])
        looks = looks.masked_fill(~inputs["attention_mask"][:, 0], -math.inf).log_softmax(2)
        loss = loss - WEIGHT_COPY * looks[rows, at, source].mean()
    return loss


def last_looks(model, hidden, positions):
    """Attention scores (batch, queries, keys) of the last layer's first head, from the layer's input `hidden`."""
    language = model.model.language_model
    layer = language.layers[-1]
    seen = layer.input_layernorm(hidden)
    size = layer.self_attn.head_dim
    query, key = (project(seen)[:, None, :, :size] for project in (layer.self_attn.q_proj, layer.self_attn.k_proj))
    query, key = apply_rotary_pos_emb(query, key, *language.rotary_emb(seen, positions))
    return (query @ key.transpose(2, 3))[:, 0] / math.sqrt(size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--start", type=Path, default=Path("out/tiny-judge"), help="judge to start from")
    parser.add_argument("--out", type=Path, default=Path("out/tiny-judge-rubrics"))
    parser.add_argument("--vae", type=Path, default=Path("models/tiny-flux/vae"), help="VAE for generated-looking pictures; may be missing")
    parser.add_argument("--painted", type=Path, nargs="*", default=[], help="files of painted pairs to learn from (paint_pairs.py)")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--clean", type=int, default=500, help="first steps, on telling clean pictures from spoiled ones")
    parser.add_argument("--minutes", type=float, default=math.inf, help="ends earlier, with the learning rate decayed in time")
    parser.add_argument("--batch", type=int, default=10)
    parser.add_argument("--lr", type=float, default=1.2e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)

    vae = None
    if args.vae.is_dir():
        from diffusers import AutoencoderKL

        vae = AutoencoderKL.from_pretrained(args.vae).eval()
    tok = PreTrainedTokenizerFast.from_pretrained(args.start)
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(args.start, dtype=torch.float32).train()
    examples = PaintedExamples(tok, args.seed, args.painted)
    shares = {kind: share for kind, (share, _) in KINDS.items() if kind != "painted_tree" or examples.painted}
    learn_clean(model, examples, args.clean)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=1e-2, betas=(0.9, 0.98))
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.99))
    factors = {kind: factor for kind, (_, factor) in KINDS.items()}
    batches, start, seen = Batches(examples, args.batch, factors), time.time(), {}
    for step in range(args.steps):
        done = max(step / args.steps, (time.time() - start) / 60 / args.minutes)
        if done >= 1:
            break
        kind = examples.rng.choices(list(shares), list(shares.values()))[0]
        optimizer.param_groups[0]["lr"] = args.lr * min(1, (step + 1) / 50) * (0.5 * (1 + math.cos(math.pi * done)) + 0.01)
        loss = loss_of(model, *batch_of(model, examples, batches.draw(kind), None if kind == "painted_tree" else vae))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average.update_parameters(model)
        seen.setdefault(kind, []).append(loss.item())
        if step % 50 == 49:
            means = ", ".join(f"{name} {np.mean(values):.3f}" for name, values in sorted(seen.items()))
            print(f"{step + 1} {time.time() - start:.0f} s, loss: {means}", flush=True)
            seen = {}
        if step % 100 == 99:
            save(average.module, tok, args.out)
    save(average.module, tok, args.out)


if __name__ == "__main__":
    main()
