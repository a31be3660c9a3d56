"""Measures the small judge of edits: on labelled pairs of a file, and on fresh edits by kind of fault. Prints Markdown rows.

A verdict counts only where both image orders agree. Labels come from the scenes. "Rough" pictures have bent outlines, blur, noise
and traces of the source; those "through the VAE" are decoded from noisy latents of rough pictures. With `--editor`, also on pairs that
an editor paints, where the only reference is the pixel rules (`scenes/edit_check.py`), which see what can be told apart by rules.
"""

import argparse
import json
import random
from pathlib import Path

import numpy as np
import torch
from judge.edit_candidates import Candidate, Candidates, fulfilment, preservation
from judge.edit_prompt import CONCEPTS, HELD_OUT, QUICKSTART, SENTENCES, EditJudge
from PIL import Image
from scenes.edit import KINDS, random_edit, render
from scenes.edit_faults import spoiled, wrong


def row(name: str, count: int, *figures: float) -> None:
    print("| " + " | ".join([name, str(count), *(f"{100 * figure:.1f} %" for figure in figures)]) + " |", flush=True)


def measured(name: str, answers: list[int | None], labels: list[int]) -> None:
    """Prints how many orders agree, and how many of those verdicts and of all are right."""
    right = [answer == label for answer, label in zip(answers, labels) if answer is not None]
    row(name, len(labels), len(right) / len(labels), float(np.mean(right)) if right else 0.0, sum(right) / len(labels))


class Check:
    """Fresh edits, painted and judged."""

    def __init__(self, judge: EditJudge, count: int, seed: int, vae: Path):
        self.judge, self.count, self.vae = judge, count, vae
        self.rng = random.Random(seed)
        self.candidates = Candidates(self.rng)

    def measure(self, name: str, pairs, criteria=QUICKSTART, concepts=CONCEPTS, roughness: float = 1.0, through_vae: bool = False):
        sources = [render(edit.source) for edit, _ in pairs]
        sides = [
            [self.candidates.paint(pair[k].scene, source, roughness) for source, (_, pair) in zip(sources, pairs)] for k in (0, 1)
        ]
        if through_vae:
            sides = [self.decoded(images) for images in sides]
        answers = self.judge.verdicts([edit.instruction for edit, _ in pairs], sources, *sides, criteria)
        measured(name, answers, [int(pair[1].score(concepts) > pair[0].score(concepts)) for _, pair in pairs])

    def decoded(self, images):
        """The pictures through the VAE with latent noise."""
        from diffusers import AutoencoderKL
        from flux.flux_training import images_of, latents_of

        vae = AutoencoderKL.from_pretrained(self.vae).eval()
        z = latents_of(vae, images)
        return images_of(vae, z + 0.12 * torch.randn_like(z))

    def pairs(self, wanted=lambda a, b: True, kind: str | None = None):
        """`count` pairs for which `wanted` holds, of one kind of edit or of all."""
        found = []
        while len(found) < self.count:
            edit, pair = self.candidates.pair(wanted)
            if kind in (None, edit.kind):
                found.append((edit, pair))
        return found

    def habits(self, first, second):
        """`count` pairs of two habits of an editor, in random order; each is a function of an edit that gives a scene."""
        found = []
        while len(found) < self.count:
            edit = random_edit(self.rng)
            pair = [Candidate(scene, fulfilment(edit, scene), preservation(edit, scene)) for scene in (first(edit), second(edit))]
            if Candidates.told_apart(pair):
                self.rng.shuffle(pair)
                found.append((edit, tuple(pair)))
        return found

    def all(self) -> None:
        print("| fresh edits | pairs | orders agree | right, where they agree | right, of all |\n|---|---|---|---|---|")
        for name, roughness, through_vae in (("clean", 0.0, False), ("rough", 1.0, False), ("through the VAE", 0.5, True)):
            self.measure(f"all kinds of candidates, {name}", self.pairs(), roughness=roughness, through_vae=through_vae)
        self.faults()
        for kind in KINDS:
            self.measure(f"all kinds of candidates, {kind}", self.pairs(kind=kind))
        self.rubrics()

    def faults(self) -> None:
        same = lambda a, b: abs(a - b) < 1e-6  # noqa: E731
        self.measure("fulfilment alone differs", self.pairs(lambda a, b: same(a.rest, b.rest)))
        self.measure("preservation alone differs", self.pairs(lambda a, b: same(a.edit, b.edit)))
        self.measure("one fulfils more, the other preserves more", self.pairs(lambda a, b: (a.edit - b.edit) * (a.rest - b.rest) < 0))
        target, source = (lambda edit: edit.target), (lambda edit: edit.source)
        careless, mistaken = (lambda edit: spoiled(edit, self.rng)), (lambda edit: wrong(edit, self.rng))
        self.measure("target against untouched source", self.habits(target, source))
        self.measure("target against another edit", self.habits(target, mistaken))
        self.measure("target against a spoiled rest", self.habits(target, careless))
        self.measure("spoiled rest against untouched source", self.habits(careless, source))
        self.measure("spoiled rest against another edit", self.habits(careless, mistaken))

    def rubrics(self) -> None:
        """One criterion alone, in trained and untrained words; conflicts show whether the rubric is read."""
        conflicts = self.pairs(
            lambda a, b: (a.edit - b.edit) * (a.rest - b.rest) < 0 and all(Candidates.told_apart((a, b), [c]) for c in CONCEPTS)
        )
        for concept, name in zip(CONCEPTS, ("fulfilment", "preservation")):
            for words, texts in (("trained words", SENTENCES[concept]), ("untrained words", (HELD_OUT[concept],))):
                criteria = [[self.rng.choice(texts)] for _ in conflicts]
                self.measure(f"one fulfils more, the other preserves more: {name} alone, {words}", conflicts, criteria, [concept])
        self.measure("no rubric", self.pairs(), ())


def labelled(judge: EditJudge, file: Path) -> None:
    """Judges the labelled pairs of a file."""
    examples = [json.loads(line) for line in file.read_text().splitlines()]
    opened = lambda names: [Image.open(file.parent / name) for name in names]  # noqa: E731
    sources = opened(e["source_image"] for e in examples)
    first, second = (opened(e["edited_images"][k] for e in examples) for k in (0, 1))
    answers = judge.verdicts([e["query"] for e in examples], sources, first, second)
    print("| labelled pairs | pairs | orders agree | right, where they agree | right, of all |\n|---|---|---|---|---|")
    measured(file.as_posix(), answers, [e["label_rank"].index(1) for e in examples])


def painted(judge: EditJudge, folder: Path, edits: Path, seeds: int) -> None:
    """Judges pairs that an editor paints from two initial noises; the pixel rules say which is better, if one is by 0.2 of 2."""
    from qwen.edit_sampling import edited, initial_noise, read_edits, scores
    from qwen.edit_training import Parts

    parts, lines = Parts.load(folder), read_edits(edits)
    instructions = [line["instruction"] for line in lines]
    sources = [Image.open(edits.parent / line["source_image"]).convert("RGB") for line in lines]
    answers, labels = [], []
    for seed in range(seeds):
        sides = [edited(parts, instructions, sources, initial_noise(len(lines), 500 + 2 * seed + k)) for k in (0, 1)]
        first, second = (scores(instructions, sources, images).sum(1) for images in sides)
        told = np.abs(first - second) > 0.2
        found = judge.verdicts(instructions, sources, *sides)
        answers += [answer for answer, clear in zip(found, told) if clear]
        labels += [int(b > a) for a, b, clear in zip(first, second, told) if clear]
    print("| painted by the editor | pairs | orders agree | as the pixel rules, where they agree | as the pixel rules, of all |")
    print("|---|---|---|---|---|")
    measured(f"{folder.as_posix()}, of {seeds * len(lines)} pairs those that the rules tell apart", answers, labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--judge", type=Path, default=Path("models/tiny-edit-judge"))
    parser.add_argument("--pairs", type=Path, default=Path("configs/quickstart-edit/labelled/pairs.jsonl"))
    parser.add_argument("--editor", type=Path, help="QwenImageEditPipeline folder")
    parser.add_argument("--edits", type=Path, default=Path("configs/quickstart-edit/held-out.jsonl"), help="what the editor is to do")
    parser.add_argument("--vae", type=Path, default=Path("models/tiny-flux/vae"))
    parser.add_argument("--count", type=int, default=200, help="pairs per figure")
    parser.add_argument("--seed", type=int, default=2000)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    judge = EditJudge(args.judge)
    if args.pairs.is_file():
        labelled(judge, args.pairs)
    if args.editor:
        painted(judge, args.editor, args.edits, seeds=2)
    Check(judge, args.count, args.seed, args.vae).all()


if __name__ == "__main__":
    main()
