"""Synthetic scenes: one or two flat shapes, or two to four of one kind, on a flat background, with captions, and a pixel-rule adherence checker.

Images are 64x64 RGB uint8. `render(scene)` draws; `caption(scene)` writes; `check(image, scene)` scores by pixels alone.
"""
import random
from dataclasses import dataclass
from functools import cache
import numpy as np
from PIL import Image, ImageDraw

SIZE = 64
COLOURS = {"red": (220, 40, 40), "green": (40, 170, 60), "blue": (50, 80, 220), "yellow": (240, 210, 40),
           "purple": (150, 60, 190), "orange": (245, 135, 30)}
BACKGROUNDS = {"black": (15, 15, 15), "white": (245, 245, 245), "gray": (128, 128, 128), "pink": (250, 170, 200)}
SHAPES = ("circle", "square", "triangle")
RELATIONS = ("left of", "above")
NUMBERS = {2: "two", 3: "three", 4: "four"}
PIECE_PIXELS = 40  # a smaller connected part of a colour's pixels is not counted
PALETTE_NAMES = list(COLOURS) + list(BACKGROUNDS)
PALETTE = np.array([COLOURS.get(n) or BACKGROUNDS[n] for n in PALETTE_NAMES], dtype=np.float32)


@dataclass(frozen=True)
class Scene:
    objects: tuple  # ((colour, shape), ...) one or two
    relation: str | None
    background: str
    count: int = 1  # how many of the one object; 1 where there are two objects


def random_scene(rng: random.Random, two_prob=0.5) -> Scene:
    bg = rng.choice(list(BACKGROUNDS))
    if rng.random() < two_prob:
        c1, c2 = rng.sample(list(COLOURS), 2)
        return Scene(((c1, rng.choice(SHAPES)), (c2, rng.choice(SHAPES))), rng.choice(RELATIONS), bg)
    return Scene(((rng.choice(list(COLOURS)), rng.choice(SHAPES)),), None, bg)


def random_count_scene(rng: random.Random) -> Scene:
    """Two, three or four of one object."""
    return Scene(((rng.choice(list(COLOURS)), rng.choice(SHAPES)),), None, rng.choice(list(BACKGROUNDS)), rng.choice(list(NUMBERS)))


def caption(s: Scene) -> str:
    if s.count > 1:
        return f"{NUMBERS[s.count]} {s.objects[0][0]} {s.objects[0][1]}s on a {s.background} background"
    a = f"a {s.objects[0][0]} {s.objects[0][1]}"
    if s.relation:
        a += f" {s.relation} a {s.objects[1][0]} {s.objects[1][1]}"
    return a + f" on a {s.background} background"


def parse(text: str) -> Scene:
    w = text.split()
    bg = w[w.index("background") - 1]
    count = next((number for number, word in NUMBERS.items() if word == w[0]), 1)
    if count > 1:
        return Scene(((w[1], w[2].removesuffix("s")),), None, bg, count)
    if "left" in w or "above" in w:
        rel = "left of" if "left" in w else "above"
        k = w.index("left") + 2 if "left" in w else w.index("above") + 1
        return Scene(((w[1], w[2]), (w[k + 1], w[k + 2])), rel, bg)
    return Scene(((w[1], w[2]),), None, bg)


def draw_shape(d, colour, shape, cx, cy, r):
    """Draws one flat shape of radius `r` around (cx, cy)."""
    if shape == "circle":
        d.ellipse([cx - r, cy - r, cx + r, cy + r], fill=colour)
    elif shape == "square":
        d.rectangle([cx - r * .9, cy - r * .9, cx + r * .9, cy + r * .9], fill=colour)
    else:
        d.polygon([(cx, cy - r), (cx - r, cy + r * .8), (cx + r, cy + r * .8)], fill=colour)


def render(s: Scene, rng: random.Random, spread: float = 1.0) -> Image.Image:
    """Draws a scene. `spread` scales the ranges of sizes and positions: 1 is the full range, 0 one fixed layout of large shapes."""
    k = 4
    im = Image.new("RGB", (SIZE * k, SIZE * k), BACKGROUNDS[s.background])
    d = ImageDraw.Draw(im)
    if s.count > 1:
        # Each has a quarter of the picture to itself.
        colour, shape = s.objects[0]
        r = 11 - 3 * spread * rng.random()
        for cx, cy in rng.sample([(16, 16), (48, 16), (16, 48), (48, 48)], s.count):
            cx, cy = cx + rng.uniform(-3, 3) * spread, cy + rng.uniform(-3, 3) * spread
            draw_shape(d, COLOURS[colour], shape, cx * k, cy * k, r * k)
    elif s.relation is None:
        r = 20 - 8 * spread * rng.random()
        room = (SIZE / 2 - 3 - r) * spread
        cx, cy = SIZE / 2 + rng.uniform(-room, room), SIZE / 2 + rng.uniform(-room, room)
        draw_shape(d, COLOURS[s.objects[0][0]], s.objects[0][1], cx * k, cy * k, r * k)
    else:
        ra, rb = 13 - 4 * spread * rng.random(), 13 - 4 * spread * rng.random()
        a, b = 16 + rng.uniform(-spread, spread), 48 + rng.uniform(-spread, spread)
        ja, jb = 32 + rng.uniform(-14, 14) * spread, 32 + rng.uniform(-14, 14) * spread
        pa, pb = ((a, ja), (b, jb)) if s.relation == "left of" else ((ja, a), (jb, b))
        draw_shape(d, COLOURS[s.objects[0][0]], s.objects[0][1], pa[0] * k, pa[1] * k, ra * k)
        draw_shape(d, COLOURS[s.objects[1][0]], s.objects[1][1], pb[0] * k, pb[1] * k, rb * k)
    return im.resize((SIZE, SIZE), Image.LANCZOS)


def pixel_classes(image) -> np.ndarray:
    """The palette colour of each pixel as an index of `PALETTE_NAMES`, (64, 64); -1 at blurred edges and specks."""
    x = np.asarray(image.convert("RGB"), dtype=np.float32).reshape(-1, 1, 3)
    dist = np.linalg.norm(x - PALETTE[None], axis=2)
    cls = np.where(dist.min(1) < 60, dist.argmin(1), -1)  # -1: no palette colour (edges, blur)
    return without_specks(cls.reshape(SIZE, SIZE))


def without_specks(cls: np.ndarray) -> np.ndarray:
    """Erases specks: pixels with fewer than three like neighbours (of eight) become -1."""
    p = np.pad(cls, 1, constant_values=-2)
    same = sum((p[1 + dy:65 + dy, 1 + dx:65 + dx] == cls).astype(int) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx)
    return np.where(same >= 3, cls, -1)


def shape_of(mask: np.ndarray) -> str | None:
    """Names a mask's shape from its fill of the bounding box and its row widths."""
    ys, xs = np.nonzero(mask)
    if len(ys) < 60:
        return None
    y0, y1, x0, x1 = np.percentile(ys, 1), np.percentile(ys, 99), np.percentile(xs, 1), np.percentile(xs, 99)
    h, w = y1 - y0 + 1, x1 - x0 + 1
    if not 0.6 < h / w < 1.6:
        return None
    box = mask[int(y0):int(y1) + 1, int(x0):int(x1) + 1]
    fill = box.mean()
    rows = box.sum(1)
    n = max(1, len(rows) // 4)
    taper = rows[:n].mean() / max(1.0, rows[-n:].mean())
    if fill > 0.90:
        return "square"
    if taper < 0.55 and fill < 0.70:
        return "triangle"
    if 0.68 < fill <= 0.90 and 0.6 < taper < 1.6:
        return "circle"
    return None


def pieces_of(mask: np.ndarray) -> list[np.ndarray]:
    """The mask's parts that are connected by their pixels' sides, each as a mask; parts under `PIECE_PIXELS` are left out."""
    left, pieces = mask.copy(), []
    while left.any():
        piece = np.zeros_like(left)
        piece[np.unravel_index(left.argmax(), left.shape)] = True
        while True:
            p = np.pad(piece, 1)
            grown = left & (p[1:-1, 1:-1] | p[:-2, 1:-1] | p[2:, 1:-1] | p[1:-1, :-2] | p[1:-1, 2:])
            if (grown == piece).all():
                break
            piece = grown
        left &= ~piece
        if piece.sum() >= PIECE_PIXELS:
            pieces.append(piece)
    return pieces


class ColourMap:
    """What the rules read of a picture, so that many scenes can be asked about; each colour is looked at once."""

    def __init__(self, image):
        c = self.classes = pixel_classes(image)
        border = np.concatenate([c[0], c[-1], c[:, 0], c[:, -1]])
        border = border[border >= 0] if (border >= 0).any() else np.zeros(1, int)
        self.background = PALETTE_NAMES[np.bincount(border, minlength=len(PALETTE_NAMES)).argmax()]
        self.pixels = {n: int((c == PALETTE_NAMES.index(n)).sum()) for n in COLOURS}
        self.shape, self.centre, self.pieces = cache(self._shape), cache(self._centre), cache(self._pieces)

    def mask(self, colour: str) -> np.ndarray:
        return self.classes == PALETTE_NAMES.index(colour)

    def _shape(self, colour: str) -> str | None:
        return shape_of(self.mask(colour))

    def _centre(self, colour: str):
        ys, xs = np.nonzero(self.mask(colour))
        return (xs.mean(), ys.mean()) if len(xs) else None

    def _pieces(self, colour: str) -> list[str | None]:
        """The shape of each piece of a colour."""
        return [shape_of(piece) for piece in pieces_of(self.mask(colour))]

    def check(self, s: Scene) -> dict:
        """As `check` of this module."""
        parts = {"background": int(self.background == s.background)}
        for i, (col, shp) in enumerate(s.objects):
            parts[f"colour{i}"] = int(self.pixels[col] >= 60)
            if s.count > 1:
                pieces = self.pieces(col)
                parts[f"shape{i}"] = int(2 * pieces.count(shp) > len(pieces))
                parts["count"] = int(len(pieces) == s.count)
            else:
                parts[f"shape{i}"] = int(self.shape(col) == shp)
        wanted = {o[0] for o in s.objects}
        parts["no_extra"] = int(all(pixels <= 80 for name, pixels in self.pixels.items() if name not in wanted))
        if s.relation:
            first, second = (self.centre(col) for col, _ in s.objects)
            ok = first is not None and second is not None
            ok = ok and (first[0] < second[0] - 6 if s.relation == "left of" else first[1] < second[1] - 6)
            parts["relation"] = int(bool(ok))
        parts["all"] = int(all(parts.values()))
        parts["mean"] = float(np.mean([v for k, v in parts.items() if k != "all"]))
        return parts


def check(image, s: Scene) -> dict:
    """Returns part scores in {0,1}: background, each object's colour and shape, relation, count; and 'all'.

    Of several objects of one kind `count` asks for as many pieces of their colour, and `shape0` that most of these have the shape.
    """
    return ColourMap(image).check(s)


if __name__ == "__main__":
    rng = random.Random(0)
    ok = [check(render(s, rng), s)["all"] for s in (random_scene(rng) for _ in range(2000))]
    wrong = []
    for _ in range(2000):
        s, t = random_scene(rng), random_scene(rng)
        if s != t:
            wrong.append(check(render(s, rng), t)["all"])
    print("checker on true scenes", np.mean(ok), "on other captions", np.mean(wrong))
    counted = [random_count_scene(rng) for _ in range(2000)]
    print("checker on true counts", np.mean([check(render(s, rng), s)["all"] for s in counted]))
    for s in counted + [random_scene(rng) for _ in range(2000)]:
        assert parse(caption(s)) == s
