"""Synthetic scenes: one or two flat shapes on a flat background, with captions, and a pixel-rule adherence checker.

Images are 64x64 RGB uint8. `render(scene)` draws; `caption(scene)` writes; `check(image, scene)` scores by pixels alone.
"""
import random
from dataclasses import dataclass
import numpy as np
from PIL import Image, ImageDraw

SIZE = 64
COLOURS = {"red": (220, 40, 40), "green": (40, 170, 60), "blue": (50, 80, 220), "yellow": (240, 210, 40),
           "purple": (150, 60, 190), "orange": (245, 135, 30)}
BACKGROUNDS = {"black": (15, 15, 15), "white": (245, 245, 245), "gray": (128, 128, 128), "pink": (250, 170, 200)}
SHAPES = ("circle", "square", "triangle")
RELATIONS = ("left of", "above")
PALETTE_NAMES = list(COLOURS) + list(BACKGROUNDS)
PALETTE = np.array([COLOURS.get(n) or BACKGROUNDS[n] for n in PALETTE_NAMES], dtype=np.float32)


@dataclass(frozen=True)
class Scene:
    objects: tuple  # ((colour, shape), ...) one or two
    relation: str | None
    background: str


def random_scene(rng: random.Random, two_prob=0.5) -> Scene:
    bg = rng.choice(list(BACKGROUNDS))
    if rng.random() < two_prob:
        c1, c2 = rng.sample(list(COLOURS), 2)
        return Scene(((c1, rng.choice(SHAPES)), (c2, rng.choice(SHAPES))), rng.choice(RELATIONS), bg)
    return Scene(((rng.choice(list(COLOURS)), rng.choice(SHAPES)),), None, bg)


def caption(s: Scene) -> str:
    a = f"a {s.objects[0][0]} {s.objects[0][1]}"
    if s.relation:
        a += f" {s.relation} a {s.objects[1][0]} {s.objects[1][1]}"
    return a + f" on a {s.background} background"


def parse(text: str) -> Scene:
    w = text.split()
    bg = w[w.index("background") - 1]
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
    if s.relation is None:
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


def check(image, s: Scene) -> dict:
    """Returns part scores in {0,1}: background, each object's colour and shape, relation; and 'all'."""
    c = pixel_classes(image)
    border = np.concatenate([c[0], c[-1], c[:, 0], c[:, -1]])
    border = border[border >= 0] if (border >= 0).any() else np.zeros(1, int)
    bg_ok = np.bincount(border, minlength=len(PALETTE_NAMES)).argmax() == PALETTE_NAMES.index(s.background)
    parts = {"background": int(bg_ok)}
    centres = []
    wanted = {o[0] for o in s.objects}
    for i, (col, shp) in enumerate(s.objects):
        mask = c == PALETTE_NAMES.index(col)
        parts[f"colour{i}"] = int(mask.sum() >= 60)
        parts[f"shape{i}"] = int(shape_of(mask) == shp)
        ys, xs = np.nonzero(mask)
        centres.append((xs.mean(), ys.mean()) if len(xs) else None)
    extra = sum(int((c == PALETTE_NAMES.index(n)).sum() > 80) for n in COLOURS if n not in wanted)
    parts["no_extra"] = int(extra == 0)
    if s.relation:
        ok = centres[0] is not None and centres[1] is not None
        ok = ok and (centres[0][0] < centres[1][0] - 6 if s.relation == "left of" else centres[0][1] < centres[1][1] - 6)
        parts["relation"] = int(bool(ok))
    parts["all"] = int(all(parts.values()))
    parts["mean"] = float(np.mean([v for k, v in parts.items() if k != "all"]))
    return parts


if __name__ == "__main__":
    rng = random.Random(0)
    ok = [check(render(s, rng), s)["all"] for s in (random_scene(rng) for _ in range(2000))]
    wrong = []
    for _ in range(2000):
        s, t = random_scene(rng), random_scene(rng)
        if s != t:
            wrong.append(check(render(s, rng), t)["all"])
    print("checker on true scenes", np.mean(ok), "on other captions", np.mean(wrong))
    s = random_scene(rng)
    assert parse(caption(s)) == s
