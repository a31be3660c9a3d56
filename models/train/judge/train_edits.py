"""Trains the small judge of edits, from the weights of the small judge of pictures.

First the image tokens alone: which cells of the source are to change, and which cells of a candidate are as they should be. Then
pairs with verdicts. What is saved is an average of the weights over the last steps, in half precision.
"""

import argparse
import copy
import math
import shutil
import time
from pathlib import Path

import numpy as np
import torch
from judge.edit_examples import WEIGHT_VERDICT, EditExamples
from judge.edit_prompt import WORDS, EditJudge, extended
from judge.train_judge import SPECIAL, save
from judge.train_rubrics import Batches, batch_of, loss_of
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLForConditionalGeneration

KINDS = {"look": 1, "pair_tree": 1}  # batch factor
# Layers of the first judge in the order of this one; None adds nothing to its input at first.
LAYERS = (0, None, 1, 2, 3, None)


def grown(start: Path, words=WORDS, layers=LAYERS) -> tuple[Qwen2_5_VLForConditionalGeneration, PreTrainedTokenizerFast]:
    """The first judge with more words and layers; it answers as before, but for the new words."""
    tok, made_of = extended(PreTrainedTokenizerFast.from_pretrained(start), words)
    old = Qwen2_5_VLForConditionalGeneration.from_pretrained(start, dtype=torch.float32)
    config = copy.deepcopy(old.config)
    special = {name: tok.convert_tokens_to_ids(name) for name in SPECIAL}
    text = config.text_config
    text.vocab_size, text.num_hidden_layers, text.layer_types = (len(tok) + 15) // 16 * 16, len(layers), ["full_attention"] * len(layers)
    text.eos_token_id, text.pad_token_id = special["<|im_end|>"], special["<|endoftext|>"]
    config.image_token_id, config.video_token_id = special["<|image_pad|>"], special["<|video_pad|>"]
    config.vision_start_token_id, config.vision_end_token_id = special["<|vision_start|>"], special["<|vision_end|>"]
    model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = text.eos_token_id, text.pad_token_id

    model.model.visual.load_state_dict(old.model.visual.state_dict())
    before, after = old.model.language_model, model.model.language_model
    after.norm.load_state_dict(before.norm.state_dict())
    for layer, source in zip(after.layers, layers):
        if source is None:
            torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
            torch.nn.init.zeros_(layer.mlp.down_proj.weight)
        else:
            layer.load_state_dict(before.layers[source].state_dict())
    with torch.no_grad():
        for index, pieces in enumerate(made_of):
            after.embed_tokens.weight[index] = before.embed_tokens.weight[pieces].mean(0)
    return model.train(), tok


@torch.no_grad()
def right_verdicts(model, examples: EditExamples, count: int = 200) -> float:
    """Share of right verdicts in one order, under all rubrics."""
    found = []
    for _ in range(count // 25):
        inputs, targets, weights, *_ = batch_of(model, examples, [examples.pair_tree() for _ in range(25)], None)
        logits = model.lm_head(model.model(**inputs, use_cache=False).last_hidden_state)
        one, two = examples.digits[1], examples.digits[2]
        at = (weights == WEIGHT_VERDICT) & ((targets == one) | (targets == two))
        found += ((logits[..., one] > logits[..., two]) == (targets == one))[at].tolist()
    return float(np.mean(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--start", type=Path, default=Path("models/tiny-judge"), help="judge of pictures to start from")
    parser.add_argument("--resume", type=Path, help="judge of edits to go on from instead")
    parser.add_argument("--out", type=Path, default=Path("out/tiny-edit-judge"))
    parser.add_argument("--template", type=Path, default=Path("configs/judge/small-edit.toml"), help="goes into the folder")
    parser.add_argument("--vae", type=Path, default=Path("models/tiny-flux/vae"), help="VAE for generated-looking pictures; may be missing")
    parser.add_argument("--looks", type=int, default=350, help="first steps, on the pictures alone")
    parser.add_argument("--steps", type=int, default=1500, help="steps of both phases together")
    parser.add_argument("--minutes", type=float, default=math.inf, help="ends earlier, with the learning rate decayed in time")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=1.2e-3)
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)

    vae = None
    if args.vae.is_dir():
        from diffusers import AutoencoderKL

        vae = AutoencoderKL.from_pretrained(args.vae).eval()
    if args.resume:
        judge = EditJudge(args.resume)
        model, tok = judge.model.train(), judge.tokenizer
    else:
        model, tok = grown(args.start)
    examples, fresh = EditExamples(tok, seed=args.seed), EditExamples(tok, seed=args.seed + 1000)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=1e-2, betas=(0.9, 0.98))
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.995))
    batches, start, seen = Batches(examples, args.batch, KINDS), time.time(), {}

    def write() -> None:
        half = copy.deepcopy(average.module).half()
        half.config.text_config.dtype = half.config.vision_config.dtype = torch.float16
        save(half, tok, args.out)
        shutil.copyfile(args.template, args.out / "judge_template.toml")

    for step in range(args.steps):
        done = max(step / args.steps, (time.time() - start) / 60 / args.minutes)
        if done >= 1:
            break
        kind = "look" if step < args.looks else "pair_tree"
        optimizer.param_groups[0]["lr"] = args.lr * min(1, (step + 1) / 100) * (0.5 * (1 + math.cos(math.pi * done)) + 0.01)
        loss = loss_of(model, *batch_of(model, examples, batches.draw(kind), vae))
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
        if step % 250 == 249:
            print(f"  right verdicts in one order: {right_verdicts(average.module, fresh):.3f}", flush=True)
            write()
    write()


if __name__ == "__main__":
    main()
