"""Writes the tiny Qwen-Image-Edit folder around a trained VAE, and trains its text encoder to understand instructions and pictures.

The rows after the instruction, which have seen everything, must tell through linear heads what the instruction says, and of the picture
its background and where the named object stands. The later stages keep the text encoder as it is, which halves their cost: training it
through the flow-matching loss alone is slow, because that loss says little about words. The head of the language model stays untrained.
"""

import argparse
import math
import random
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLQwenImage
from qwen.edit_training import Parts, Prompts, text_rows
from qwen.folder import JOINT_WIDTH, write_folder
from scenes.edit import KINDS, PLACES, Edit, random_edit, render
from scenes.scene import BACKGROUNDS, COLOURS, SHAPES

NEW_COLOURS = (*COLOURS, *BACKGROUNDS)
FACTS = {
    "kind": KINDS, "colour": tuple(COLOURS), "shape": SHAPES, "new_colour": NEW_COLOURS, "new_shape": SHAPES, "place": tuple(PLACES),
    "background": tuple(BACKGROUNDS), "standing": tuple(PLACES),
}
CLOSING_TOKENS = 5
NOT_ASKED = -100  # the index that cross entropy leaves out


def labels(edit: Edit) -> list[int]:
    """The index of each fact of `FACTS`; `NOT_ASKED` where the edit has none."""
    named = next((o for o in edit.source.objects if o.colour == edit.asked.colour), None)
    values = {name: getattr(edit.asked, name, None) for name in FACTS}
    values |= {"background": edit.source.background, "standing": named and named.place}
    return [NOT_ASKED if values[name] is None else names.index(values[name]) for name, names in FACTS.items()]


def closing_rows(rows: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The rows of the tokens after the instruction, (n, 5, 64)."""
    last = mask.sum(1) - (mask.shape[1] - rows.shape[1]) - 1
    index = last[:, None] - torch.arange(CLOSING_TOKENS)
    return rows.gather(1, index[:, :, None].expand(-1, -1, rows.shape[2]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--vae", type=Path, default=Path("out/edit-vae"))
    parser.add_argument("--out", type=Path, default=Path("out/edit-text"))
    parser.add_argument("--steps", type=int, default=450)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--pool", type=int, default=4000, help="rendered edits to draw from")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    rng = random.Random(0)

    edits = [random_edit(rng) for _ in range(args.pool)]
    write_folder(args.out, AutoencoderKLQwenImage.from_pretrained(args.vae), [edit.instruction for edit in edits])
    parts = Parts.load(args.out)
    prompts = Prompts.of(parts, [edit.instruction for edit in edits], [render(edit.source) for edit in edits])
    wanted = torch.tensor([labels(edit) for edit in edits])
    heads = torch.nn.ModuleList([torch.nn.Linear(JOINT_WIDTH, len(names)) for names in FACTS.values()])
    parameters = [p for name, p in parts.text_encoder.named_parameters() if "lm_head" not in name] + list(heads.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=args.lr, betas=(0.9, 0.99), weight_decay=1e-3)
    start, held_out = time.time(), args.pool // 20

    def answers(rows) -> list[torch.Tensor]:
        batch = prompts[rows]
        seen = closing_rows(text_rows(parts, batch), batch.mask)
        return [head(seen).mean(1) for head in heads]

    for step in range(args.steps):
        optimizer.param_groups[0]["lr"] = args.lr * min(1, (step + 1) / 50) * max(0.02, 0.5 * (1 + math.cos(math.pi * step / args.steps)))
        rows = torch.randint(held_out, args.pool, (args.batch,))
        losses = [F.cross_entropy(answer, wanted[rows, k], ignore_index=NOT_ASKED) for k, answer in enumerate(answers(rows))]
        loss = torch.stack(losses).nansum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if step % 50 == 49:
            print(step + 1, "losses", [round(value.item(), 3) for value in losses], round(time.time() - start), "s", flush=True)

    with torch.no_grad():
        told = [answer.argmax(1) for answer in answers(torch.arange(held_out))]
    for k, name in enumerate(FACTS):
        asked = wanted[:held_out, k] != NOT_ASKED
        print(name, "right", round((told[k] == wanted[:held_out, k])[asked].float().mean().item(), 3))
    parts.save_weights()


if __name__ == "__main__":
    main()
