"""Trains the small model that answers questions about one picture by yes or no, from the weights of the small judge of pairs.

What is saved is an average of the weights over the last steps, in half precision.
"""

import argparse
import copy
import math
import time
from pathlib import Path

import numpy as np
import torch
from judge.answer_examples import AnswerExamples, read
from judge.answer_prompt import WORDS, Answerer
from judge.train_edits import grown
from judge.train_judge import save
from judge.train_rubrics import Batches, batch_of, loss_of
from scenes.questions import KINDS, questions
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def agreement(answerer: Answerer, pictures) -> str:
    """Of the questions that the prompts bring: share of the answers that are the exact rules', and of the commoner answer, by kind."""
    asked = [(p.image, q, q.holds(p.map.check(p.scene))) for p in pictures for q in questions(p.scene)]
    says = answerer.prob_yes([q.text for _, q, _ in asked], [image for image, _, _ in asked]) > 0.5
    told = []
    for kind in KINDS:
        rows = [(say, holds) for say, (_, q, holds) in zip(says, asked) if q.kind == kind]
        yes = np.mean([holds for _, holds in rows])
        told.append(f"{kind} {np.mean([say == holds for say, holds in rows]):.3f} ({max(yes, 1 - yes):.3f})")
    return ", ".join(told)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--start", type=Path, default=Path("models/tiny-judge"), help="judge of pictures to start from")
    parser.add_argument("--resume", type=Path, help="model that answers, to go on from instead")
    parser.add_argument("--out", type=Path, default=Path("out/tiny-answerer"))
    parser.add_argument("--painted", type=Path, nargs="*", default=[], help="files of paint_pairs.py to train on")
    parser.add_argument("--held", type=Path, nargs="*", default=[], help="files of paint_pairs.py to measure on")
    parser.add_argument("--vae", type=Path, default=Path("models/tiny-flux/vae"), help="VAE for generated-looking pictures")
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--minutes", type=float, default=math.inf, help="ends earlier, with the learning rate decayed in time")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=1.2e-3)
    parser.add_argument("--seed", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(args.vae).eval()
    if args.resume:
        resumed = Answerer(args.resume)
        model, tok = resumed.model.train(), resumed.tokenizer
    else:
        model, tok = grown(args.start, WORDS, range(4))
    examples, held = AnswerExamples(tok, args.seed, args.painted), read(args.held)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=1e-2, betas=(0.9, 0.98))
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.995))
    batches, start, losses = Batches(examples, args.batch, {"asked": 1}), time.time(), []

    def write() -> None:
        half = copy.deepcopy(average.module).half()
        half.config.text_config.dtype = half.config.vision_config.dtype = torch.float16
        save(half, tok, args.out)
        if held:
            print(f"  as the rules: {agreement(Answerer(args.out), held)}", flush=True)

    for step in range(args.steps):
        done = max(step / args.steps, (time.time() - start) / 60 / args.minutes)
        if done >= 1:
            break
        optimizer.param_groups[0]["lr"] = args.lr * min(1, (step + 1) / 100) * (0.5 * (1 + math.cos(math.pi * done)) + 0.01)
        loss = loss_of(model, *batch_of(model, examples, batches.draw("asked"), vae))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average.update_parameters(model)
        losses.append(loss.item())
        if step % 50 == 49:
            print(f"{step + 1} {time.time() - start:.0f} s, loss {np.mean(losses[-50:]):.3f}", flush=True)
        if step % 250 == 249:
            write()
    write()


if __name__ == "__main__":
    main()
