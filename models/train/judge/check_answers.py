"""Holds the answers that `gavel evaluate` kept against the exact rules' facts of the same pictures, by kind of question.

Beside each share of agreement stands that of the commoner answer, which a model reaches that looks at no picture.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from scenes.questions import KINDS, questions
from scenes.scene import parse


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("evaluation", type=Path, help="evaluation.json of the folder that `gavel evaluate --out` wrote")
    parser.add_argument("--subject", type=int, default=0, help="number of the subject")
    args = parser.parse_args()

    rows = []
    for prompt in json.loads(args.evaluation.read_text())["prompts"]:
        asked, picture = questions(parse(prompt["prompt"])), prompt["pictures"][args.subject]
        facts = {fact["name"]: fact["holds"] for fact in picture["facts"]}
        for question, answer in zip(asked, picture["questions"], strict=True):
            assert question.text == answer["question"]
            rows.append((question.kind, bool(answer["yes"]), question.holds(facts)))
    print("| kind | questions | answered yes | true by the rules | agreement | the commoner answer | right of the yes | of the no |")
    print("|---|---|---|---|---|---|---|---|")
    for kind in (*KINDS, "all"):
        says, holds = (np.array(column) for column in zip(*((s, h) for k, s, h in rows if kind in (k, "all"))))
        same, yes = says == holds, holds.mean()
        by_answer = [same[holds == answer].mean() if (holds == answer).any() else np.nan for answer in (True, False)]
        figures = (says.mean(), yes, same.mean(), max(yes, 1 - yes), *by_answer)
        print(f"| {kind} | {len(says)} | " + " | ".join(f"{figure:.3f}" for figure in figures) + " |")


if __name__ == "__main__":
    main()
