"""Trains the tiny Qwen2.5-VL judge on synthetic scenes.

Three phases. Vision warm-up: every merged image token names the colours and shapes of its 16x16 cell through the language
model's own word embeddings. Captions: the model describes pictures. Mixed: captions, per-criterion yes/no, pair questions.
"""

import argparse
import json
import math
import random
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from judge.judge_examples import IGNORE, Examples
from judge.judge_prompt import CRITERIA, MEAN, STD, patches
from scenes.scene import PALETTE, PALETTE_NAMES, SHAPES, caption, random_scene, render
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

SPECIAL = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>",
]  # fmt: skip
WORDS = r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for c in m.content %}{% if c.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif c.type == 'text' %}{{ c.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CELL_NAMES = PALETTE_NAMES + list(SHAPES)


def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE over everything that the judge reads and answers."""
    rng = random.Random(0)
    full = "Rubric:\n" + "".join(f"- {text}\n" for text in CRITERIA.values()) + "Image 1: Image 2: \nWhich image is better, 1 or 2?"
    corpus = [f"Caption: {caption(random_scene(rng))}\n{full}" for _ in range(1500)]
    corpus += ["Describe the image.", "Does the image meet this criterion? Answer yes or no."] * 200
    corpus += ['{"rank": [1, 2], "reason": "', '{"rank": [2, 1], "reason": "', '"}', "yes", "no", "1", "2"] * 200
    corpus += ["Image 1 follows the caption.", "Image 2 follows the caption.", "Theme", "Tips"] * 200
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe.train_from_iterator(
        corpus, trainers.BpeTrainer(vocab_size=640, initial_alphabet=alphabet, special_tokens=[], show_progress=False)
    )
    bpe.add_special_tokens(SPECIAL)
    result = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>", model_max_length=2048,
        extra_special_tokens={"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"},
    )
    result.chat_template = CHAT_TEMPLATE
    return result


def untrained(tok) -> Qwen2_5_VLForConditionalGeneration:
    """A Qwen2.5-VL of 1.26 M parameters: patch 8, 16 image tokens per picture."""
    special = {name: tok.convert_tokens_to_ids(name) for name in SPECIAL}
    text = dict(
        vocab_size=(len(tok) + 15) // 16 * 16, hidden_size=128, intermediate_size=320, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=2048, tie_word_embeddings=True,
        rope_parameters=dict(rope_type="default", rope_theta=10000.0, mrope_section=[4, 6, 6]),
        bos_token_id=None, eos_token_id=special["<|im_end|>"], pad_token_id=special["<|endoftext|>"],
    )
    vision = dict(
        depth=3, hidden_size=96, intermediate_size=192, num_heads=4, patch_size=8, spatial_patch_size=8, spatial_merge_size=2,
        temporal_patch_size=2, window_size=32, fullatt_block_indexes=[1, 2], out_hidden_size=128, in_channels=3,
    )
    config = Qwen2_5_VLConfig(
        text_config=text, vision_config=vision, image_token_id=special["<|image_pad|>"],
        video_token_id=special["<|video_pad|>"], vision_start_token_id=special["<|vision_start|>"],
        vision_end_token_id=special["<|vision_end|>"], tie_word_embeddings=True,
    )
    return Qwen2_5_VLForConditionalGeneration(config)


def cell_labels(scene, image) -> np.ndarray:
    """(16 cells, names) whether a colour covers more than 6 % of a cell, and whether a shape of the scene does."""
    x = np.asarray(image, np.float32).reshape(-1, 1, 3)
    distance = np.linalg.norm(x - PALETTE[None], axis=2)
    colour = np.where(distance.min(1) < 60, distance.argmin(1), -1)
    cells = colour.reshape(4, 16, 4, 16).transpose(0, 2, 1, 3).reshape(16, 256)
    y = np.stack([(cells == k).mean(1) > 0.06 for k in range(len(PALETTE_NAMES))] + [np.zeros(16, bool)] * len(SHAPES), 1)
    for name, shape in scene.objects:
        y[:, len(PALETTE_NAMES) + SHAPES.index(shape)] |= y[:, PALETTE_NAMES.index(name)]
    return y


def warm_up(model, examples: Examples, steps: int, batch: int) -> None:
    """Trains the vision tower and the word embeddings on `cell_labels`; only the bias of the labels is thrown away."""
    words = torch.tensor([examples.ids(" " + name)[0] for name in CELL_NAMES])
    bias = torch.nn.Parameter(torch.full((len(CELL_NAMES),), -2.0))
    embeddings = model.get_input_embeddings().weight
    optimizer = torch.optim.AdamW(
        [*model.model.visual.parameters(), embeddings, bias], lr=2e-3, weight_decay=0, betas=(0.9, 0.98)
    )
    scenes = [random_scene(examples.rng) for _ in range(8000)]
    images = [render(scene, examples.rng) for scene in scenes]
    labels = torch.from_numpy(np.stack([cell_labels(s, i) for s, i in zip(scenes, images)])).float()
    pixels = torch.from_numpy(np.stack([patches(image) for image in images]))
    grid = torch.tensor([[1, 8, 8]] * batch)
    for step in range(steps):
        decay = 0.5 * (1 + math.cos(math.pi * step / steps)) + 0.02
        optimizer.param_groups[0]["lr"] = 2e-3 * min(1, (step + 1) / 100) * decay
        rows = torch.randint(len(scenes), (batch,))
        x = pixels[rows].flatten(0, 1)
        x = x + 0.1 * examples.rng.random() * torch.randn_like(x)
        seen = model.model.visual(x, grid_thw=grid).pooler_output
        seen = torch.cat(list(seen)) if isinstance(seen, (tuple, list)) else seen
        logits = (seen @ embeddings[words].T * 4 + bias).view(batch, 16, -1)
        loss = F.binary_cross_entropy_with_logits(logits, labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 200 == 0:
            print("warm-up", step, round(loss.item(), 4), flush=True)


def collate(examples: Examples, drawn, vae) -> dict:
    """One padded batch; three batches in ten go through the VAE with latent noise, as generated pictures do."""
    longest, pad = max(len(e[0]) for e in drawn), examples.tokenizer.pad_token_id
    ids = torch.full((len(drawn), longest), pad)
    labels, mask = torch.full_like(ids, IGNORE), torch.zeros_like(ids)
    for row, (tokens, answer, _) in enumerate(drawn):
        ids[row, : len(tokens)], labels[row, : len(answer)] = torch.tensor(tokens), torch.tensor(answer)
        mask[row, : len(tokens)] = 1
    images = [image for e in drawn for image in e[2]]
    if vae is not None and examples.rng.random() < 0.3:
        from flux.flux_training import images_of, latents_of

        z = latents_of(vae, images)
        images = images_of(vae, z + examples.rng.uniform(0, 0.25) * torch.randn_like(z))
    return dict(
        input_ids=ids, labels=labels, attention_mask=mask,
        pixel_values=torch.from_numpy(np.concatenate([patches(image) for image in images])),
        image_grid_thw=torch.tensor([[1, 8, 8]] * len(images)),
        mm_token_type_ids=(ids == examples.image_ids[1]).long(),
    )  # fmt: skip


@torch.no_grad()
def pair_accuracy(model, examples: Examples, vae, rounds=10, pairs=20) -> tuple[float, float]:
    """Share of right single verdicts, and share of pairs on which both image orders agree."""
    model.eval()
    one, two = examples.ids("1")[0], examples.ids("2")[0]
    right, agreed = 0, 0
    for _ in range(rounds):
        drawn = [examples.pair() for _ in range(pairs)]
        says_two = []
        for order in (0, 1):
            chats = [examples.chat(examples.pair_parts(p[0], p[1], p[2 + order], p[3 - order]), "1") for p in drawn]
            logits = model(**{k: v for k, v in collate(examples, chats, vae).items() if k != "labels"}).logits
            says_two.append([bool(logits[i, len(c[0]) - 3, two] > logits[i, len(c[0]) - 3, one]) for i, c in enumerate(chats)])
        right += sum((not a) + b for a, b in zip(*says_two))
        agreed += sum(a != b for a, b in zip(*says_two))
    model.train()
    return right / (2 * rounds * pairs), agreed / (rounds * pairs)


def save(model, tok, out: Path) -> None:
    """Writes the transformers folder with the processor's files."""
    model.save_pretrained(out)
    tok.save_pretrained(out)
    processor = dict(
        image_processor_type="Qwen2VLImageProcessor", processor_class="Qwen2_5_VLProcessor", patch_size=8, merge_size=2,
        temporal_patch_size=2, min_pixels=1024, max_pixels=65536, size=dict(shortest_edge=1024, longest_edge=65536),
        image_mean=MEAN.tolist(), image_std=STD.tolist(), do_resize=True, do_rescale=True, do_normalize=True,
        do_convert_rgb=True, rescale_factor=1 / 255, resample=3,
    )
    (out / "preprocessor_config.json").write_text(json.dumps(processor, indent=1))
    (out / "chat_template.json").write_text(json.dumps(dict(chat_template=CHAT_TEMPLATE)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/tiny-judge"))
    parser.add_argument("--vae", type=Path, default=Path("out/vae"), help="VAE for generated-looking pictures; may be missing")
    parser.add_argument("--warm-up", type=int, default=1200, help="steps of the vision warm-up (batch 64)")
    parser.add_argument("--captions", type=int, default=800, help="steps on captions alone (twice the batch)")
    parser.add_argument("--steps", type=int, default=3400, help="steps of the caption and mixed phases together")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)

    vae = None
    if args.vae.is_dir():
        from diffusers import AutoencoderKL

        vae = AutoencoderKL.from_pretrained(args.vae).eval()
    tok = tokenizer()
    model, examples = untrained(tok), Examples(tok, seed=0)
    warm_up(model, examples, args.warm_up, 64)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=1e-2, betas=(0.9, 0.98))
    start = time.time()
    for step in range(args.steps):
        mixed = max(0, step - args.captions) / max(1, args.steps - args.captions)
        shares = (0.08, max(0.25, 0.6 - 0.6 * mixed), min(0.65, 0.3 + 0.6 * mixed))
        kind = "caption" if step < args.captions else examples.rng.choices(("caption", "yesno", "pair"), shares)[0]
        decay = 0.5 * (1 + math.cos(math.pi * mixed)) + 0.02
        optimizer.param_groups[0]["lr"] = args.lr * min(1, (step + 1) / 200) * decay
        count = args.batch * 2 if kind == "caption" else args.batch
        loss = model(**collate(examples, [examples.draw(kind) for _ in range(count)], vae)).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 0:
            print(step, kind, "loss", round(loss.item(), 3), round(time.time() - start), "s", flush=True)
        if step % 500 == 499 or step == args.steps - 1:
            right, agreed = pair_accuracy(model, examples, vae)
            print(f"  pairs: verdicts right {right:.3f}, both orders agree {agreed:.3f}", flush=True)
            save(model, tok, args.out)


if __name__ == "__main__":
    main()
