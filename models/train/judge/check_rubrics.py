"""Measures what the small judge makes of rubrics, on fresh scenes: verdicts, criteria, themes and reasons. Prints Markdown rows.

A verdict counts only where both image orders agree. Labels come from the scene specifications; those of painted pictures (`--painted`, files
of `paint_pairs.py`) from the pixel rules.
"""

import argparse
import json
import random
from pathlib import Path

import numpy as np
import torch
from judge import rubric_prompt
from judge.criteria import BOTH, CONCEPTS, COVERS, HELD_OUT, SENTENCES, grouped, sentences
from judge.judge_prompt import CRITERIA, Judge, about_pair, prompt, turn
from judge.painted import read
from judge.rubric_examples import RubricExamples, difference
from judge.wordings import FRESH, worded
from scenes.scene import caption

CANONICAL = tuple(CRITERIA.values())


def row(name: str, *figures) -> None:
    print("| " + " | ".join([name, *(f if isinstance(f, str) else f"{100 * f:.1f} %" for f in figures)]) + " |", flush=True)


class Check:
    def __init__(self, path: Path, count: int, seed: int, vae: Path, painted: list[Path]):
        self.judge, self.count = Judge(path), count
        self.examples = RubricExamples(self.judge.tokenizer, seed)
        self.rng, self.vae_folder, self.painted = random.Random(seed), vae, painted

    def pairs(self, kind, wanted):
        """`count` pairs (asked, pictures) of a kind for which `wanted(pictures)` holds."""
        found = []
        while len(found) < self.count:
            asked, pictures = self.examples.two(kind)
            if wanted(pictures):
                found.append((asked, pictures))
        return found

    def probabilities(self, pairs, rubrics, look=lambda images: images) -> np.ndarray:
        """Of each pair: the probability that the first picture is better, asked in this order and in the other one. (pairs, 2)"""
        answers = []
        for at in range(0, len(pairs), 50):
            part = list(zip(pairs[at : at + 50], rubrics[at : at + 50]))
            texts = [prompt(caption(asked), criteria) for (asked, _), criteria in part]
            first, second = (look([pictures[k].image for (_, pictures), _ in part]) for k in (0, 1))
            answers.append(np.stack([self.judge.prob_first_of(texts, first, second), 1 - self.judge.prob_first_of(texts, second, first)], 1))
        return np.concatenate(answers)

    def verdicts(self, pairs, rubrics, **kwargs) -> list[int | None]:
        """0 or 1 for the better picture, None where the orders disagree."""
        return [int(p <= 0.5) if (p > 0.5) == (q > 0.5) else None for p, q in self.probabilities(pairs, rubrics, **kwargs)]

    def measure(self, name, pairs, rubrics, covers, *, counted=False, **kwargs) -> list[int | None]:
        """Prints how many orders agree, and how many of those verdicts and of all are right; with `counted` the number of pairs too."""
        answers = self.verdicts(pairs, rubrics, **kwargs)
        labels = [int(p[0].count(names) > p[1].count(names)) for (_, p), names in zip(pairs, covers)]
        agreed = [a == b for a, b in zip(answers, labels) if a is not None]
        row(name, *[str(len(pairs))] * counted, len(agreed) / len(pairs), float(np.mean(agreed)), sum(agreed) / len(pairs))
        return answers

    def judging(self) -> None:
        print("\n| verdicts | orders agree | right, where they agree | right, of all |\n|---|---|---|---|")
        unequal = self.pairs(None, lambda p: p[0].count(CONCEPTS) != p[1].count(CONCEPTS))
        every = [CONCEPTS] * self.count
        self.measure("the quickstart's rubric", unequal, [CANONICAL] * self.count, every)
        self.measure("no rubric", unequal, [()] * self.count, every)
        self.measure("the quickstart's rubric, generated-looking pictures", unequal, [CANONICAL] * self.count, every, look=self.generated)
        pairs, rubrics, covers = [], [], []
        while len(pairs) < self.count:
            names = self.rng.sample(CONCEPTS, self.rng.randint(1, 4))
            asked, pictures = self.examples.two()
            if pictures[0].count(names) != pictures[1].count(names):
                pairs.append((asked, pictures))
                rubrics.append(sentences(names, self.rng, self.rng.randint(1, 10)))
                covers.append(names)
        self.measure("random rubrics of one to four concepts, up to ten lines", pairs, rubrics, covers)
        self.measure("the same, generated-looking pictures", pairs, rubrics, covers, look=self.generated)
        self.conflicts()
        ties = self.left_out()
        self.undecided(ties)

    def conflicts(self) -> None:
        """One picture breaks A alone, the other B alone; a rubric of one sentence names A or B."""
        single = lambda p: all(sum(v > 0 for v in x.faults.values()) == 1 for x in p)  # noqa: E731
        pairs = self.pairs("conflict", single)
        names = [[next(c for c in CONCEPTS if x.faults[c]) for x in p] for _, p in pairs]
        asked = []
        for k, label in ((0, "conflict pairs, rubric [A]"), (1, "conflict pairs, rubric [B]")):
            rubrics = [[self.rng.choice(SENTENCES[n[k]])] for n in names]
            asked.append(self.measure(label, pairs, rubrics, [[n[k]] for n in names]))
        row("verdict differs between [A] and [B]", "", "", float(np.mean([None not in v and v[0] != v[1] for v in zip(*asked)])))
        for concept in CONCEPTS:
            chosen = [(p, [concept]) for p, n in zip(pairs, names) if concept in n]
            self.measure(f"conflict pairs, {concept} alone", *zip(*[(p, SENTENCES[c[0]][:1], c) for p, c in chosen]))
        self.measure("conflict pairs, held-out sentence for A", pairs, [[HELD_OUT[n[0]]] for n in names], [n[:1] for n in names])
        self.measure("conflict pairs, one of other wordings for A", pairs, [[worded((n[0],), self.rng)] for n in names], [n[:1] for n in names])
        self.measure("conflict pairs, a sentence of another form for A", pairs, [[FRESH[n[0]]] for n in names], [n[:1] for n in names])

    def left_out(self):
        """A has two faults, B one: with all concepts A decides, without A the other picture must win. Returns pairs and rubrics with the only fault left out."""
        pairs, deciding = [], []
        while len(pairs) < self.count:
            asked, pictures = self.examples.two("conflict")
            counts = [[c for c in CONCEPTS if x.faults[c]] for x in pictures]
            worse = [k for k in (0, 1) if len(counts[k]) == 1 and pictures[k].count(CONCEPTS) == 2]
            if len(worse) == 1 and pictures[1 - worse[0]].count(CONCEPTS) == 1:
                pairs.append((asked, pictures))
                deciding.append(counts[worse[0]][0])
        every = [[self.rng.choice(SENTENCES[c]) for c in CONCEPTS] for _ in pairs]
        less = [[t for t, c in zip(texts, CONCEPTS) if c != d] for texts, d in zip(every, deciding)]
        full = self.measure("two faults in A against one in B, five concepts", pairs, every, [CONCEPTS] * self.count)
        left = [[c for c in CONCEPTS if c != d] for d in deciding]
        fewer = self.measure("the same, A left out", pairs, less, left)
        row("verdict differs when A is left out", "", "", float(np.mean([None not in v and v[0] != v[1] for v in zip(full, fewer)])))
        pairs = self.pairs("one", lambda p: sum(x.count(CONCEPTS) for x in p) == 1)
        rubrics = [[SENTENCES[c][0] for c in CONCEPTS if not any(x.faults[c] for x in p)] for _, p in pairs]
        return pairs, rubrics

    def undecided(self, ties) -> None:
        """Pairs that are equal under their rubric: the only fault left out, and as many faults in either picture."""
        heads = ("orders disagree", "mean probability within 0.1 of one half", "both orders name the faulty one")
        print(f"\n| pairs that are equal under the rubric | {' | '.join(heads)} |\n|---|---|---|---|")
        pairs, rubrics = ties
        p = self.probabilities(pairs, rubrics)
        faulty = np.array([pictures[0].count(CONCEPTS) > 0 for _, pictures in pairs])
        named = np.where(faulty, (p > 0.5).all(1), (p < 0.5).all(1))
        row("only fault left out", float(np.mean((p[:, 0] > 0.5) != (p[:, 1] > 0.5))), float(np.mean(abs(p.mean(1) - 0.5) < 0.1)), float(np.mean(named)))
        pairs = self.pairs("conflict", lambda pictures: pictures[0].count(CONCEPTS) == pictures[1].count(CONCEPTS))
        p = self.probabilities(pairs, [CANONICAL] * len(pairs))
        row("the quickstart's rubric, as many faults in either", float(np.mean((p[:, 0] > 0.5) != (p[:, 1] > 0.5))), float(np.mean(abs(p.mean(1) - 0.5) < 0.1)), "")

    def painting(self) -> None:
        """Painted pairs that the pixel rules tell apart, by the number of facts between them, and under one concept."""
        head = "| orders agree | the rules' picture, where they agree | of all |\n|---|---|---|---|---|"
        print(f"\n| painted pairs, the quickstart's rubric | pairs {head}")
        files = {file.stem: read([file]) for file in self.painted}
        every = [pair for pairs in files.values() for pair in pairs]
        gap = lambda pair, names=CONCEPTS: abs(pair[1][0].count(names) - pair[1][1].count(names))  # noqa: E731
        for name, pairs, low, high in (
            *((name, pairs, 1, 7) for name, pairs in files.items()), ("all", every, 1, 7), ("one fact between them", every, 1, 1),
            ("two facts", every, 2, 2), ("three", every, 3, 3), ("four or more", every, 4, 7),
        ):  # fmt: skip
            chosen = [pair for pair in pairs if low <= gap(pair) <= high]
            self.measure(name, chosen, [CANONICAL] * len(chosen), [CONCEPTS] * len(chosen), counted=True)
        chosen = [pair for pair in every if gap(pair)]
        self.measure("all, no rubric", chosen, [()] * len(chosen), [CONCEPTS] * len(chosen), counted=True)
        for concept in CONCEPTS:
            chosen = [pair for pair in every if gap(pair, [concept])]
            self.measure(f"{concept} alone", chosen, [SENTENCES[concept][:1]] * len(chosen), [[concept]] * len(chosen), counted=True)

    def generated(self, images):
        """The pictures through the VAE with latent noise, as the generator's pictures look."""
        from diffusers import AutoencoderKL
        from flux.flux_training import images_of, latents_of

        vae = AutoencoderKL.from_pretrained(self.vae_folder).eval()
        z = latents_of(vae, images)
        return images_of(vae, z + 0.12 * torch.randn_like(z))

    def ask(self, questions):
        """Greedy answers to (caption, text, pictures)."""
        answers = []
        for at in range(0, len(questions), 50):
            part = questions[at : at + 50]
            images = [picture.image for _, _, pictures in part for picture in pictures]
            answers += self.judge.write([about_pair(c, t) if p else turn(t) for c, t, p in part], images)
        return answers

    def writing(self) -> None:
        print("\n| criteria for a labelled pair | valid, exactly n | a deciding concept is named | the first explains |\n|---|---|---|---|")
        for name, revise in (("proposed", False), ("revised after a wrong choice", True)):
            questions, facts = [], []
            for asked, pictures in self.pairs(None, lambda p: self.examples.explained(p)):
                better, deciding, others = self.examples.explained(pictures)
                count = self.rng.randint(1, 5)
                text = rubric_prompt.propose(better, count)
                if revise:
                    text = rubric_prompt.revise(sentences(others[:2], self.rng, 0), 3 - better, better, count)
                questions.append((caption(asked), text, pictures))
                facts.append((count, set(deciding)))
            valid, named, leads = [], [], []
            for answer, (count, deciding) in zip(self.ask(questions), facts):
                texts = parsed(answer, "criteria", str)
                valid.append(texts is not None and len(texts) == count and len(set(texts)) == count)
                covers = [set(COVERS.get(text, ())) for text in texts or []]
                named.append(any(deciding & seen for seen in covers))
                leads.append(bool(covers) and bool(deciding & covers[0]))
            row(name, float(np.mean(valid)), float(np.mean(named)), float(np.mean(leads)))

    def grouping(self) -> None:
        print("\n| themes | exact partition | the trained grouping |\n|---|---|---|")
        held = list(HELD_OUT.values())
        for name, low, high, extra in (
            ("1 to 4 criteria", 1, 4, 0), ("5 to 8", 5, 8, 0), ("9 to 12", 9, 12, 0), ("5 to 8, two of them held out", 3, 6, 2),
        ):  # fmt: skip
            lists = []
            while len(lists) < self.count:
                names = self.rng.sample(CONCEPTS, self.rng.randint(1, 5))
                texts = sentences(names, self.rng, self.rng.randint(low, high)) + self.rng.sample(held, extra)
                self.rng.shuffle(texts)
                if low + extra <= len(texts) <= high + extra:
                    lists.append((texts, self.rng.randint(1, 5)))
            exact, same = [], []
            for answer, (texts, k) in zip(self.ask([("", rubric_prompt.structure(t, k), ()) for t, k in lists]), lists):
                themes = [(str(theme.get("theme")), [str(tip) for tip in theme.get("tips") or ()]) for theme in parsed(answer, "themes", dict) or []]
                exact.append(sorted(tip for _, tips in themes for tip in tips) == sorted(texts) and len(themes) <= k)
                trained = grouped(texts, [COVERS[t] for t in texts], k)
                same.append(exact[-1] and sorted((t, sorted(tips)) for t, tips in themes) == sorted((t, sorted(tips)) for t, tips in trained))
            row(name, float(np.mean(exact)), float(np.mean(same)))

    def reasons(self) -> None:
        print("\n| reasons | true of the picture and about a rubric's concept |\n|---|---|")
        for name, few in (("one criterion that decides", True), ("no rubric", False)):
            questions, allowed = [], []
            for asked, pictures in self.pairs(None, lambda p: self.examples.explained(p)):
                better, deciding, _ = self.examples.explained(pictures)
                criteria = [self.rng.choice(SENTENCES[deciding[0]])] if few else []
                questions.append((caption(asked), rubric_prompt.reason(criteria, better), pictures))
                allowed.append(truths(asked, pictures[2 - better], 3 - better, deciding[:1] if few else deciding))
            row(name, float(np.mean([answer in right for answer, right in zip(self.ask(questions), allowed)])))


def truths(asked, worse, number, concepts) -> set[str]:
    """Every sentence that truly names a fault in one of the concepts."""
    found = {difference(asked, worse, number, concept) for concept in concepts}
    if {"colour", "shape"} & set(concepts):
        for part, concept in ((0, "colour"), (1, "shape")):
            for a, b in zip(asked.objects, worse.scene.objects):
                if concept in concepts and a[part] != b[part] and worse.faults[concept]:
                    found.add(f"Image {number} shows a {b[0]} {b[1]}, not a {a[0]} {a[1]}.")
    return found


def parsed(answer: str, key: str, kind):
    """The list under `key` of a JSON answer, or None."""
    try:
        value = json.loads(answer)[key]
    except (ValueError, KeyError, TypeError):
        return None
    return value if isinstance(value, list) and all(isinstance(item, kind) for item in value) else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--judge", type=Path, default=Path("models/tiny-judge"))
    parser.add_argument("--vae", type=Path, default=Path("models/tiny-flux/vae"))
    parser.add_argument("--painted", type=Path, nargs="*", default=[], help="files of painted pairs to measure on (paint_pairs.py)")
    parser.add_argument("--count", type=int, default=400, help="pairs or lists per figure")
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--parts", nargs="+", default=["judging", "painting", "writing", "grouping", "reasons"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    assert not set(HELD_OUT.values()) & {*BOTH, *(t for texts in SENTENCES.values() for t in texts)}
    check = Check(args.judge, args.count, args.seed, args.vae, args.painted)
    for part in args.parts:
        getattr(check, part)()


if __name__ == "__main__":
    main()
