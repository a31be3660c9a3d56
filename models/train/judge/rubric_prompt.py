"""The words in which the small judge is asked to write, revise and group criteria and to give a reason, and its answers.

`configs/rubric/small/*.toml` hold the same words for the command line.
"""

import json

from judge.criteria import CONCEPTS

# The small judge settles each concept after its word, so that the answer can read all five there.
COMPARE = f"Compare {', '.join(CONCEPTS)}.\n"


def listed(criteria) -> str:
    return "".join(f"- {text}\n" for text in criteria)


def propose(better: int, count: int) -> str:
    """Follows both pictures with their captions; `better` counts from 1."""
    return f"{COMPARE}Image {better} is better. Write {count} criteria."


def revise(criteria, chosen: int, better: int, count: int) -> str:
    return f"Criteria:\n{listed(criteria)}The judge chose image {chosen}.\n{propose(better, count)}"


def reason(criteria, better: int) -> str:
    return (f"Rubric:\n{listed(criteria)}" if criteria else "") + f"{COMPARE}Image {better} is better. Why?"


def structure(criteria, themes: int) -> str:
    """The whole turn; no picture comes before it."""
    return f"Criteria:\n{listed(criteria)}Group them into {themes} themes."


def criteria_answer(criteria) -> str:
    return json.dumps({"criteria": list(criteria)}, separators=(",", ":"))


def themes_answer(groups) -> str:
    return json.dumps({"themes": [{"theme": name, "tips": tips} for name, tips in groups]}, separators=(",", ":"))
