"""The text side of the tiny Qwen-Image-Edit folder: byte-level BPE with the Qwen2 split, and a small Qwen2.5-VL."""

import json
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

# In the order of the released tokenizer, where they follow the vocabulary.
SPECIAL = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>",
    "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
]
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for c in m['content'] %}{% if c['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ c['text'] }}"
    "{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PREFIX_TOKENS = 64
SECTIONS = [2, 3, 3]  # of 8 position pairs, the ratio of 16, 24, 24 in the real one


def prompt_template() -> str:
    """The pipeline's own prompt with `{}` for the instruction, read from the installed diffusers."""
    from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit as module

    source = Path(module.__file__).read_text(encoding="utf-8")
    line = next(text for text in source.splitlines() if "self.prompt_template_encode =" in text)
    return json.loads(line.split("=", 1)[1].strip())


def write_tokenizers(out: Path, words) -> tuple[dict[str, int], int]:
    """Writes `tokenizer/` and `processor/`; returns the special tokens' ids and the padded vocabulary size."""
    tokenizer = _trained(words)
    ids = {token: tokenizer.token_to_id(token) for token in SPECIAL}
    for name in ("tokenizer", "processor"):
        _write_tokenizer(tokenizer, ids, out / name)
    tokenizer.save(str(out / "processor" / "tokenizer.json"))
    prefix = prompt_template().split("<|vision_start|>")[0]
    length = len(tokenizer.encode(prefix, add_special_tokens=False).ids)
    if length != PREFIX_TOKENS:
        raise ValueError(f"the system turn has {length} tokens, but the pipeline drops {PREFIX_TOKENS}: train on more repeats of it")
    return ids, (tokenizer.get_vocab_size() + 63) // 64 * 64


def _trained(words) -> Tokenizer:
    tokenizer = Tokenizer(BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    template = prompt_template().replace("{}", "")
    for token in SPECIAL:
        template = template.replace(token, "\n\n\n")
    # Merges run until every word is one token: the vocabulary's limit is out of reach.
    trainer = BpeTrainer(
        vocab_size=100_000, min_frequency=1, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([piece for piece in template.split("\n\n\n") if piece] * 4 + list(words), trainer)
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer


def _write_tokenizer(tokenizer: Tokenizer, ids: dict[str, int], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    model = json.loads(tokenizer.to_str())["model"]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    special = {"additional_special_tokens": SPECIAL[1:], "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    decoder = {
        str(index): {
            "content": token, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True,
        }
        for token, index in ids.items()
    }
    config = special | {
        "add_bos_token": False, "add_prefix_space": False, "added_tokens_decoder": decoder, "bos_token": None,
        "clean_up_tokenization_spaces": False, "errors": "replace", "model_max_length": 131072, "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer", "unk_token": None,
    }
    (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    (folder / "added_tokens.json").write_text(json.dumps(ids, indent=2) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)


def _token_ids(ids: dict[str, int]) -> dict[str, int]:
    return {
        "image_token_id": ids["<|image_pad|>"], "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"], "vision_end_token_id": ids["<|vision_end|>"],
        "vision_token_id": ids["<|vision_pad|>"],
    }


def text_encoder(vocabulary: int, ids: dict[str, int], width: int) -> Qwen2_5_VLForConditionalGeneration:
    """An untrained two-layer Qwen2.5-VL with a two-layer vision tower."""
    text = {
        "hidden_size": width, "intermediate_size": 3 * width, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": vocabulary, "rms_norm_eps": 1e-6, "rope_theta": 1e6, "hidden_act": "silu",
        "max_position_embeddings": 128000, "use_sliding_window": False, "sliding_window": None, "max_window_layers": 2,
        "tie_word_embeddings": False, "attention_dropout": 0.0, "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "rope_scaling": {"type": "default", "rope_type": "default", "mrope_section": SECTIONS},
    }
    vision = {
        "depth": 2, "hidden_size": 32, "intermediate_size": 96, "num_heads": 2, "out_hidden_size": width, "patch_size": 14,
        "spatial_patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2, "in_channels": 3, "in_chans": 3,
        "window_size": 112, "fullatt_block_indexes": [1], "hidden_act": "silu", "tokens_per_second": 2,
    }
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=False, **_token_ids(ids))
    return Qwen2_5_VLForConditionalGeneration(config).to(torch.float32)


def write_text_config(path: Path, config: Qwen2_5_VLConfig, ids: dict[str, int]) -> None:
    """Writes the config in the released form: `rope_scaling` and the text fields flat as well, which transformers 5 no longer writes."""
    text, vision = config.text_config, config.vision_config
    flat = {
        "attention_dropout": 0.0, "bos_token_id": ids["<|endoftext|>"], "eos_token_id": ids["<|im_end|>"], "hidden_act": "silu",
        "hidden_size": text.hidden_size, "initializer_range": 0.02, "intermediate_size": text.intermediate_size,
        "max_position_embeddings": 128000, "max_window_layers": text.num_hidden_layers,
        "num_attention_heads": text.num_attention_heads, "num_hidden_layers": text.num_hidden_layers,
        "num_key_value_heads": text.num_key_value_heads, "rms_norm_eps": 1e-6,
        "rope_scaling": {"mrope_section": SECTIONS, "rope_type": "default", "type": "default"}, "rope_theta": 1000000.0,
        "use_cache": True, "use_sliding_window": False, "vocab_size": text.vocab_size,
    }
    inner = flat | {
        "model_type": "qwen2_5_vl_text", "sliding_window": None, "torch_dtype": "float32",
        "layer_types": ["full_attention"] * text.num_hidden_layers,
    }
    names = (
        "depth", "hidden_size", "intermediate_size", "num_heads", "out_hidden_size", "patch_size", "spatial_merge_size",
        "temporal_patch_size", "window_size", "fullatt_block_indexes", "hidden_act", "tokens_per_second",
    )
    seen = {name: getattr(vision, name) for name in names}
    seen |= {"in_channels": 3, "in_chans": 3, "model_type": "qwen2_5_vl", "spatial_patch_size": 14}
    whole = flat | _token_ids(ids) | {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"], "model_type": "qwen2_5_vl", "sliding_window": 32768,
        "text_config": inner, "tie_word_embeddings": False, "torch_dtype": "float32", "transformers_version": "4.53.1",
        "vision_config": seen,
    }
    path.write_text(json.dumps(whole, indent=2, sort_keys=True) + "\n")
