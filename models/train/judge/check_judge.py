"""Measures a judge on labelled pairs: share where both image orders agree, and share of right verdicts among those."""

import argparse
import json
from pathlib import Path

from judge.judge_prompt import Judge
from PIL import Image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--judge", type=Path, default=Path("models/tiny-judge"))
    parser.add_argument("--pairs", type=Path, default=Path("configs/quickstart/labelled/pairs.jsonl"))
    args = parser.parse_args()

    examples = [json.loads(line) for line in args.pairs.read_text().splitlines()]
    queries = [e["query"] for e in examples]
    first, second = ([Image.open(args.pairs.parent / e["response"][k]) for e in examples] for k in (0, 1))
    judge = Judge(args.judge)
    p, q = judge.prob_first(queries, first, second), 1 - judge.prob_first(queries, second, first)
    agreed = [(a > 0.5) == (e["label_rank"][0] == 1) for a, b, e in zip(p, q, examples) if (a > 0.5) == (b > 0.5)]
    right = 100 * sum(agreed) / max(1, len(agreed))
    print(f"{len(examples)} pairs: both orders agree on {len(agreed)}, of which {sum(agreed)} ({right:.1f} %) are right")


if __name__ == "__main__":
    main()
