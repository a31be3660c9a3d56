"""Trains the tiny Qwen-Image-Edit's transformer by flow matching on edits: from nothing, or further on partly careless edits.

With `--careless 0` every target is what the instruction asks for. With a share above 0, that share of the targets goes wrong: half of
them carry out the edit but spoil the rest, a quarter shows another edit, a quarter the source as it is. The model then edits well only
some of the time, by the initial noise: an ability that reinforcement can bring out. Text encoder and VAE stay as they are.
"""

import argparse
import math
import random
import shutil
import time
from pathlib import Path

import torch
from PIL import Image
from qwen.edit_sampling import edited, initial_noise, scores, table
from qwen.edit_training import PREFIX_TOKENS, Parts, Prompts, flow_matching_loss, latents_of, text_rows
from qwen.folder import halve
from scenes.edit import KINDS, Edit, EditScene, random_edit, render
from scenes.edit_faults import spoiled, wrong

CHANGED_WEIGHT = 3.0
NO_INSTRUCTION = " "  # the released pipeline's negative prompt


def shown(edit: Edit, careless: float, rng: random.Random) -> EditScene:
    """What the training picture shows: the target, or a careless edit."""
    if rng.random() >= careless:
        return edit.target
    match rng.choice(("spoiled", "spoiled", "wrong", "ignored")):
        case "spoiled":
            return spoiled(edit, rng)
        case "wrong":
            return wrong(edit, rng)
    return edit.source


@torch.no_grad()
def encoded_text(parts: Parts, instructions, sources, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Text rows (n, length, 64) and their mask (n, length), padded with zeros."""
    rows = torch.zeros(len(instructions), length, parts.text_encoder.config.text_config.hidden_size)
    mask = torch.zeros(len(instructions), length, dtype=torch.long)
    for k in range(0, len(instructions), 200):
        prompts = Prompts.of(parts, instructions[k : k + 200], sources[k : k + 200])
        part = text_rows(parts, prompts)
        rows[k : k + len(part), : part.shape[1]] = part
        mask[k : k + len(part), : part.shape[1]] = prompts.mask[:, PREFIX_TOKENS:]
    return rows, mask


def sheet(sources, targets, outputs, path: Path, columns: int = 12) -> None:
    """Saves triples of source, target and output, one below the other."""
    picture = Image.new("RGB", (columns * 66, -(-len(sources) // columns) * 204))
    for k, triple in enumerate(zip(sources, targets, outputs)):
        for part, image in enumerate(triple):
            picture.paste(image, ((k % columns) * 66, k // columns * 204 + part * 66))
    picture.save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("source", type=Path, help="folder to start from")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--steps", type=int, default=4100)
    parser.add_argument("--minutes", type=float, default=math.inf, help="ends earlier, with the learning rate decayed in time")
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--pool", type=int, default=10000, help="rendered edits to draw from")
    parser.add_argument("--careless", type=float, default=0.0, help="share of careless edits")
    parser.add_argument("--average", type=float, default=0.998, help="decay of the weight average that is saved")
    parser.add_argument("--half", action="store_true", help="store the weights in half precision")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    rng = random.Random(args.seed)

    shutil.copytree(args.source, args.out, dirs_exist_ok=True)
    parts = Parts.load(args.out)
    start = time.time()
    edits = [random_edit(rng) for _ in range(args.pool)]
    sources = [render(edit.source) for edit in edits]
    before = latents_of(parts, sources)
    after = latents_of(parts, [render(shown(edit, args.careless, rng)) for edit in edits])
    instructions = [edit.instruction if rng.random() > 0.05 else NO_INSTRUCTION for edit in edits]
    text, mask = encoded_text(parts, instructions, sources, length=24)
    print("pool", round(time.time() - start), "s", flush=True)

    # A careless target may equal the source: weighing changed tokens would then favour the targets that change more.
    changed_weight = 1.0 if args.careless else CHANGED_WEIGHT
    parameters = list(parts.transformer.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=args.lr, betas=(0.9, 0.99), weight_decay=1e-3)
    average = [p.detach().clone() for p in parameters]
    start, loss_average = time.time(), None
    for step in range(args.steps):
        done = max(step / args.steps, (time.time() - start) / 60 / args.minutes)
        if done >= 1:
            break
        decay = 0.5 * (1 + math.cos(math.pi * done)) + 0.02
        optimizer.param_groups[0]["lr"] = args.lr * min(1, (step + 1) / 100) * decay
        rows = torch.randint(args.pool, (args.batch,))
        length = int(mask[rows].sum(1).max())
        loss = flow_matching_loss(
            parts.transformer, after[rows], before[rows], text[rows, :length], mask[rows, :length], changed_weight
        )
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, parameters, 1 - min(args.average, (1 + step) / (10 + step)))
        loss_average = loss.item() if loss_average is None else 0.98 * loss_average + 0.02 * loss.item()
        if step % 100 == 99:
            print(step + 1, "loss", round(loss_average, 4), round(time.time() - start), "s", flush=True)

    for p, mean in zip(parameters, average):
        p.data.copy_(mean)
    parts.save_weights()
    if args.half:
        halve(args.out)
    fresh = random.Random(99)
    edits = [random_edit(fresh, (kind,)) for kind in KINDS for _ in range(40)]
    sources, instructions = [render(edit.source) for edit in edits], [edit.instruction for edit in edits]
    outputs = edited(parts, instructions, sources, initial_noise(len(edits), 1))
    print(table([edit.kind for edit in edits], scores(instructions, sources, outputs)))
    some = slice(None, None, 3)
    sheet(sources[some], [render(edit.target) for edit in edits[some]], outputs[some], args.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
