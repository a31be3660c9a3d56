"""Labelled pairs as files: `pairs.jsonl` (query, response, label_rank with 1 = better) in one folder, PNG files in another."""

import json
import os
from collections.abc import Iterable
from pathlib import Path

from PIL import Image


def write_pairs(pairs: Iterable[tuple[str, tuple[Image.Image, Image.Image], int]], labels: Path, pictures: Path) -> None:
    """Writes pairs of (caption, pictures, index of the better picture); the labels name the pictures by relative paths."""
    labels.mkdir(parents=True, exist_ok=True)
    pictures.mkdir(parents=True, exist_ok=True)
    folder = Path(os.path.relpath(pictures, labels))
    lines = []
    for number, (caption, images, better) in enumerate(pairs):
        names = [f"{number:03}-{side}.png" for side in "ab"]
        for name, image in zip(names, images):
            image.save(pictures / name, optimize=True)
        response = [(folder / name).as_posix() for name in names]
        lines.append(json.dumps({"query": caption, "response": response, "label_rank": [2, 1] if better else [1, 2]}))
    (labels / "pairs.jsonl").write_text("\n".join(lines) + "\n")
    print(f"{len(lines)} pairs in {labels}, their pictures in {pictures}")
