"""Golden values for SigLIP as a judge: `python tests/golden/siglip.py` from the repository root.

Writes `tests/golden/siglip/<case>/`: a model folder of random weights with a tokenizer of its own, and in `expected.safetensors` the pictures,
what transformers' image processor makes of them, the tokens, the embeddings and the logits, in float32. Needs sentencepiece and protobuf.
Deterministic; the libraries' versions stand in the file's metadata.
"""
import io
import json
import pathlib
import shutil

import PIL
import sentencepiece
import tokenizers
import torch
import transformers
from PIL import Image
from safetensors.torch import save_file
from tokenizers import normalizers, pre_tokenizers, processors

from clip import picture, randomize

OUT = pathlib.Path(__file__).resolve().parent / "siglip"
VERSIONS = {"torch": torch.__version__, "transformers": transformers.__version__, "pillow": PIL.__version__}
PROMPTS = ["A red circle, on a blue   background!", "", "Two blue squares & a yellow (triangle); " * 9]
# No picture shrinks more in its height than in its width: Pillow 13 would take its passes in another order than the releases before it.
SIZES = [(64, 64), (20, 16), (47, 90), (33, 101), (24, 24)]
WORDS = [f"{a} {color} {shape} {place} a {ground} background and {n} more" for a in ("a", "one", "two", "three") for n in ("one", "two")
         for color in ("red", "blue", "green", "yellow", "purple") for shape in ("circle", "squares", "triangle", "tray", "cup")
         for place in ("on", "left of", "above", "beside") for ground in ("blue", "gray", "black", "white")]


def sentencepiece_folder(folder):
    """A tokenizer as SigLIP's: a SentencePiece model, and the same as tokenizer.json. Returns what transformers makes of the former."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(WORDS), model_writer=model, vocab_size=90, hard_vocab_limit=False, model_type="unigram", pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
        normalization_rule_name="identity", num_threads=1, minloglevel=2,
    )
    (folder / "spiece.model").write_bytes(model.getvalue())
    slow = transformers.SiglipTokenizer(str(folder / "spiece.model"), model_max_length=16)
    slow.save_pretrained(folder)
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    scores = [(pieces.id_to_piece(index), pieces.get_score(index)) for index in range(pieces.get_piece_size())]
    fast = tokenizers.Tokenizer(tokenizers.models.Unigram(scores, unk_id=2))
    fast.pre_tokenizer = pre_tokenizers.Metaspace()
    fast.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    fast.add_special_tokens(["</s>", "<unk>"])
    fast.save(str(folder / "tokenizer.json"))
    return slow


def gemma_folder(folder):
    """A tokenizer as SigLIP 2's, which has small letters and keeps punctuation."""
    trained = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    trained.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace(" ", "\u2581")])
    special = ["<pad>", "<eos>", "<bos>", "<unk>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=380, special_tokens=special, show_progress=False)
    trained.train_from_iterator(WORDS, trainer)
    # Bytes are tokens as any other, as Gemma has them.
    plain = json.loads(trained.to_str())
    plain["added_tokens"] = [token for token in plain["added_tokens"] if not token["content"].startswith("<0x")]
    trained = tokenizers.Tokenizer.from_str(json.dumps(plain))
    trained.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=trained, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>", unk_token="<unk>", padding_side="right", model_max_length=16
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


@torch.no_grad()
def case(name, seed, make_tokenizer, text, vision, resample):
    folder = OUT / name
    folder.mkdir(parents=True)
    tokenizer = make_tokenizer(folder)
    text |= {"vocab_size": len(tokenizer), "max_position_embeddings": 16, "projection_size": vision["hidden_size"]}
    config = transformers.SiglipConfig(text_config=text, vision_config=vision)
    model = randomize(transformers.SiglipModel(config), seed)
    model.logit_scale.data, model.logit_bias.data = torch.tensor([3.1]), torch.tensor([-4.5])
    model.save_pretrained(folder)
    processor = transformers.SiglipImageProcessorPil(size={"height": 24, "width": 24}, resample=resample)
    processor.save_pretrained(folder)
    pictures = [picture(seed + i, *dims) for i, dims in enumerate(SIZES)]
    pixels = torch.cat([processor(Image.fromarray(one), return_tensors="pt")["pixel_values"] for one in pictures])
    ids = tokenizer(PROMPTS, padding="max_length", truncation=True, max_length=16, return_tensors="pt")["input_ids"]
    answer = model(input_ids=ids, pixel_values=pixels)
    tensors = {f"picture.{i}": torch.from_numpy(one) for i, one in enumerate(pictures)} | {"pixels": pixels, "ids": ids.to(torch.uint32)}
    tensors |= {"image_embeds": answer.image_embeds, "text_embeds": answer.text_embeds, "logits": answer.logits_per_text}
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, folder / "expected.safetensors", metadata=VERSIONS)
    print(name, ids, answer.logits_per_text)


if __name__ == "__main__":
    torch.set_num_threads(1)
    shutil.rmtree(OUT, ignore_errors=True)
    common = {"intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    case("siglip", 1, sentencepiece_folder, common | {"hidden_size": 32}, common | {"hidden_size": 32, "image_size": 24, "patch_size": 8}, 3)
    case("siglip2", 2, gemma_folder, common | {"hidden_size": 24}, common | {"hidden_size": 32, "image_size": 24, "patch_size": 7}, 2)
