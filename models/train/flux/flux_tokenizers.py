"""The tokenizers of the tiny FLUX: CLIP's byte-level BPE and T5's unigram, both with a vocabulary made from scene captions."""

import json
import string
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import CLIPTokenizer, PreTrainedTokenizerFast

CLIP_WORDS = r"""<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""


def clip_tokenizer(corpus, folder: Path) -> CLIPTokenizer:
    """Trains a BPE with `</w>` word ends, stores `vocab.json` and `merges.txt` in `folder`, and loads them as CLIP's tokenizer."""
    bpe = Tokenizer(models.BPE(unk_token="<|endoftext|>", end_of_word_suffix="</w>", continuing_subword_prefix=""))
    bpe.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(CLIP_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe.train_from_iterator(
        corpus,
        trainers.BpeTrainer(
            vocab_size=700, initial_alphabet=alphabet, end_of_word_suffix="</w>", special_tokens=[], show_progress=False
        ),
    )
    model = json.loads(bpe.to_str())["model"]
    vocabulary = model["vocab"]
    merges = [" ".join(m) if isinstance(m, list) else m for m in model["merges"]]
    for letter in alphabet:
        for token in (letter, letter + "</w>"):
            vocabulary.setdefault(token, len(vocabulary))
    for token in ("<|startoftext|>", "<|endoftext|>"):
        vocabulary[token] = len(vocabulary)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    return CLIPTokenizer(vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"), model_max_length=77)


def t5_tokenizer(corpus) -> PreTrainedTokenizerFast:
    """A unigram tokenizer with every caption word as one piece and single letters as the fallback."""
    words = sorted({word for text in corpus for word in text.split()})
    letters = sorted({c for word in words for c in word} | set(string.ascii_lowercase + string.digits + ".,'-"))
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [("\u2581" + word, -2.0 - 0.01 * i) for i, word in enumerate(words) if len(word) > 1]
    pieces += [("\u2581", -6.0)] + [(c, -8.0) for c in letters]
    unigram = Tokenizer(models.Unigram(pieces, unk_id=2, byte_fallback=False))
    unigram.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    unigram.pre_tokenizer = pre_tokenizers.Metaspace()
    unigram.decoder = decoders.Metaspace()
    unigram.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=unigram, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512
    )
