"""Stage 1: trains the tiny FLUX pipeline's transformer and both text encoders from nothing, by flow matching on scene latents."""

import argparse
import math
import random
import time
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from flux.flux_tokenizers import clip_tokenizer, t5_tokenizer
from flux.flux_training import CHANNELS, TEXT_LENGTH, contact_sheet, flow_matching_loss, latents_of, ode_pictures, report
from scenes.scene import caption, random_scene, render
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

WIDTH = 64


def pipeline(vae, clip, t5) -> FluxPipeline:
    """An untrained pipeline around a trained VAE and both tokenizers."""
    end = clip.convert_tokens_to_ids("<|endoftext|>")
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(clip), hidden_size=WIDTH, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
            max_position_embeddings=77, bos_token_id=clip.convert_tokens_to_ids("<|startoftext|>"), eos_token_id=end,
            pad_token_id=end, hidden_act="quick_gelu",
        )
    )
    text_encoder_2 = T5EncoderModel(
        T5Config(
            vocab_size=len(t5), d_model=WIDTH, d_kv=16, d_ff=128, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu",
            is_encoder_decoder=False, pad_token_id=0, eos_token_id=1, use_cache=False,
        )
    )
    transformer = FluxTransformer2DModel(
        patch_size=1, in_channels=CHANNELS, num_layers=2, num_single_layers=2, attention_head_dim=32, num_attention_heads=3,
        joint_attention_dim=WIDTH, pooled_projection_dim=WIDTH, guidance_embeds=True, axes_dims_rope=(4, 14, 14),
    )
    pipe = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=False), vae=vae, text_encoder=text_encoder,
        tokenizer=clip, text_encoder_2=text_encoder_2, tokenizer_2=t5, transformer=transformer,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--vae", type=Path, default=Path("out/vae"))
    parser.add_argument("--out", type=Path, default=Path("out/stage-1"))
    parser.add_argument("--steps", type=int, default=9000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--pool", type=int, default=12000, help="rendered scenes to draw from")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    rng = random.Random(0)

    corpus = [caption(random_scene(rng)) for _ in range(4000)] + ["a left of above small large and the two"] * 50
    clip, t5 = clip_tokenizer(corpus, args.out / "tokenizer"), t5_tokenizer(corpus)
    pipe = pipeline(AutoencoderKL.from_pretrained(args.vae).eval(), clip, t5)
    scenes = [random_scene(rng) for _ in range(args.pool)]
    latents = latents_of(pipe.vae, [render(scene, rng) for scene in scenes])
    captions = [caption(scene) for scene in scenes]
    clip_ids = pipe.tokenizer(captions, padding="max_length", max_length=77, return_tensors="pt").input_ids
    t5_ids = pipe.tokenizer_2(captions, padding="max_length", max_length=TEXT_LENGTH, return_tensors="pt").input_ids

    parts = (pipe.transformer, pipe.text_encoder, pipe.text_encoder_2)
    parameters = [p for part in parts for p in part.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=args.lr, weight_decay=1e-3, betas=(0.9, 0.99))
    average = [p.detach().clone() for p in parameters]
    start = time.time()
    for part in parts:
        part.train()
    for step in range(args.steps):
        decay = 0.5 * (1 + math.cos(math.pi * step / args.steps)) + 0.02
        optimizer.param_groups[0]["lr"] = args.lr * min(1, (step + 1) / 200) * decay
        rows = torch.randint(args.pool, (args.batch,))
        pooled, embeds = pipe.text_encoder(clip_ids[rows]).pooler_output, pipe.text_encoder_2(t5_ids[rows])[0]
        loss = flow_matching_loss(pipe.transformer, latents[rows], embeds, pooled, shifted=step % 2 == 0)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, parameters, 1 - min(0.999, (1 + step) / (10 + step)))
        if step % 200 == 0:
            print(step, "loss", round(loss.item(), 4), round(time.time() - start), "s", flush=True)

    for p, mean in zip(parameters, average):
        p.data.copy_(mean)
    for part in parts:
        part.eval()
    pipe.save_pretrained(args.out)
    fresh = random.Random(77)
    scenes = [random_scene(fresh) for _ in range(128)]
    images = ode_pictures(pipe, [caption(scene) for scene in scenes])
    print(report(images, scenes))
    contact_sheet(images, args.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
