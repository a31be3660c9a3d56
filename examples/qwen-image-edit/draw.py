"""Draws the sources of configs/qwen-image-edit, and writes edits.jsonl and held-out.jsonl there: what Qwen-Image-Edit is trained and measured on
where nobody brings pictures of their own.

Each picture is drawn from a list of what stands in it, so that an instruction asks only for what is there: its colour, its absence, another thing
in its place, something new beside it, another hour, season or manner. Held-out pictures, and the words of held-out instructions, are in no training
task. The same files for the same Python (`random.Random` of a fixed seed) and the same Pillow (13.0.0).
"""

import json
import math
import random
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter

SIZE = 512
# Drawn larger and reduced, so that edges are smooth.
SCALE = 3

COLOURS = {
    "red": (196, 58, 52), "orange": (226, 132, 48), "yellow": (232, 196, 74), "green": (86, 142, 82), "teal": (52, 138, 138),
    "blue": (62, 104, 176), "purple": (122, 84, 156), "pink": (222, 142, 162), "white": (238, 234, 226), "brown": (132, 90, 60),
}
WALLS = {"cream": (236, 224, 200), "pale green": (200, 216, 196), "pale blue": (196, 212, 226), "gray": (198, 198, 198)}


def shade(colour, factor):
    return tuple(max(0, min(255, round(value * factor))) for value in colour)


class Canvas:
    """Draws in units of the finished picture; everything that stands somewhere drops a soft shadow."""

    def __init__(self, above, below):
        side = SIZE * SCALE
        self.image = Image.new("RGB", (side, side))
        draw = ImageDraw.Draw(self.image)
        for row in range(side):
            share = row / side
            draw.line([(0, row), (side, row)], tuple(round(a + (b - a) * share) for a, b in zip(above, below)))

    def _points(self, points):
        return [(x * SCALE, y * SCALE) for x, y in points]

    def polygon(self, colour, *points):
        ImageDraw.Draw(self.image).polygon(self._points(points), colour)

    def box(self, colour, left, top, right, bottom, radius=0):
        ImageDraw.Draw(self.image).rounded_rectangle([v * SCALE for v in (left, top, right, bottom)], radius * SCALE, colour)

    def disc(self, colour, x, y, rx, ry=None):
        ry = rx if ry is None else ry
        ImageDraw.Draw(self.image).ellipse([v * SCALE for v in (x - rx, y - ry, x + rx, y + ry)], colour)

    def line(self, colour, width, *points):
        ImageDraw.Draw(self.image).line(self._points(points), colour, round(width * SCALE), "curve")

    def arc(self, colour, width, x, y, rx, ry, start, end):
        ImageDraw.Draw(self.image).arc([v * SCALE for v in (x - rx, y - ry, x + rx, y + ry)], start, end, colour, round(width * SCALE))

    def shadow(self, x, y, rx, ry):
        mask = Image.new("L", self.image.size)
        ImageDraw.Draw(mask).ellipse([v * SCALE for v in (x - rx, y - ry, x + rx, y + ry)], 110)
        mask = mask.filter(ImageFilter.GaussianBlur(6 * SCALE))
        self.image.paste(Image.new("RGB", self.image.size, (40, 34, 30)), mask=mask)

    def finished(self):
        return self.image.resize((SIZE, SIZE), Image.LANCZOS)


# Things that stand on a ground line: canvas, middle, ground, size, colour.

def cup(c, x, y, s, colour):
    c.shadow(x + 6, y, 40 * s, 9 * s)
    c.arc(shade(colour, 0.8), 8 * s, x + 36 * s, y - 34 * s, 18 * s, 18 * s, -90, 90)
    c.polygon(colour, (x - 36 * s, y - 66 * s), (x + 36 * s, y - 66 * s), (x + 28 * s, y), (x - 28 * s, y))
    c.disc(shade(colour, 0.7), x, y - 66 * s, 36 * s, 8 * s)
    c.disc((92, 62, 44), x, y - 65 * s, 30 * s, 6 * s)


def apple(c, x, y, s, colour):
    c.shadow(x + 6, y, 34 * s, 8 * s)
    c.disc(colour, x - 12 * s, y - 32 * s, 24 * s, 32 * s)
    c.disc(colour, x + 12 * s, y - 32 * s, 24 * s, 32 * s)
    c.disc(shade(colour, 1.25), x - 16 * s, y - 44 * s, 7 * s, 10 * s)
    c.line((88, 62, 40), 4 * s, (x, y - 58 * s), (x + 6 * s, y - 78 * s))
    c.polygon((92, 146, 72), (x + 4 * s, y - 68 * s), (x + 30 * s, y - 80 * s), (x + 22 * s, y - 60 * s))


def vase(c, x, y, s, colour):
    c.shadow(x + 6, y, 40 * s, 9 * s)
    for index, flower in enumerate(("pink", "yellow", "white")):
        angle = (index - 1) * 0.45
        top = (x + math.sin(angle) * 130 * s, y - 110 * s - math.cos(angle) * 70 * s)
        c.line((86, 128, 72), 5 * s, (x, y - 96 * s), top)
        for petal in range(6):
            turn = petal * math.pi / 3
            c.disc(COLOURS[flower], top[0] + math.cos(turn) * 14 * s, top[1] + math.sin(turn) * 14 * s, 10 * s)
        c.disc((216, 164, 60), *top, 8 * s)
    c.disc(colour, x, y - 48 * s, 40 * s, 48 * s)
    c.box(colour, x - 18 * s, y - 112 * s, x + 18 * s, y - 80 * s)
    c.disc(shade(colour, 1.2), x - 16 * s, y - 60 * s, 8 * s, 18 * s)


def book(c, x, y, s, colour):
    c.shadow(x + 6, y, 66 * s, 9 * s)
    c.box((240, 236, 224), x - 58 * s, y - 26 * s, x + 60 * s, y - 4 * s)
    c.box(colour, x - 62 * s, y - 34 * s, x + 62 * s, y - 26 * s, 2)
    c.box(colour, x - 62 * s, y - 6 * s, x + 62 * s, y, 2)
    c.box(shade(colour, 0.8), x - 64 * s, y - 34 * s, x - 54 * s, y, 3)


def candle(c, x, y, s, colour):
    c.shadow(x + 4, y, 26 * s, 7 * s)
    c.box(colour, x - 16 * s, y - 110 * s, x + 16 * s, y, 4)
    c.line((60, 50, 44), 3 * s, (x, y - 110 * s), (x, y - 124 * s))
    c.disc((250, 206, 92), x, y - 138 * s, 9 * s, 17 * s)


def lamp(c, x, y, s, colour):
    c.shadow(x, y, 44 * s, 8 * s)
    c.disc((84, 78, 74), x, y - 3 * s, 36 * s, 7 * s)
    c.line((84, 78, 74), 7 * s, (x, y), (x, y - 190 * s))
    c.polygon(colour, (x - 34 * s, y - 250 * s), (x + 34 * s, y - 250 * s), (x + 62 * s, y - 170 * s), (x - 62 * s, y - 170 * s))


def sofa(c, x, y, s, colour):
    c.shadow(x, y, 150 * s, 12 * s)
    c.box(shade(colour, 0.85), x - 130 * s, y - 130 * s, x + 130 * s, y - 30 * s, 20)
    c.box(colour, x - 118 * s, y - 72 * s, x - 2 * s, y - 24 * s, 12)
    c.box(colour, x + 2 * s, y - 72 * s, x + 118 * s, y - 24 * s, 12)
    for side in (-1, 1):
        c.box(shade(colour, 0.75), x + side * 130 * s - 20 * s, y - 94 * s, x + side * 130 * s + 20 * s, y - 12 * s, 14)
        c.box((78, 58, 44), x + side * 110 * s - 6 * s, y - 14 * s, x + side * 110 * s + 6 * s, y)


def cat(c, x, y, s, colour):
    c.shadow(x, y, 50 * s, 8 * s)
    c.arc(colour, 11 * s, x + 44 * s, y - 34 * s, 26 * s, 36 * s, -60, 110)
    c.disc(colour, x, y - 38 * s, 38 * s, 40 * s)
    c.disc(colour, x, y - 92 * s, 30 * s, 27 * s)
    for side in (-1, 1):
        c.polygon(colour, (x + side * 28 * s, y - 132 * s), (x + side * 6 * s, y - 112 * s), (x + side * 30 * s, y - 96 * s))
        c.disc((44, 60, 44), x + side * 11 * s, y - 96 * s, 4 * s, 6 * s)
        c.disc(shade(colour, 0.85), x + side * 18 * s, y - 5 * s, 15 * s, 7 * s)
    c.polygon((206, 132, 128), (x - 5 * s, y - 86 * s), (x + 5 * s, y - 86 * s), (x, y - 80 * s))


def house(c, x, y, s, colour):
    c.box(colour, x - 70 * s, y - 130 * s, x + 70 * s, y)
    c.polygon((128, 74, 62), (x - 84 * s, y - 130 * s), (x + 84 * s, y - 130 * s), (x, y - 205 * s))
    c.box((94, 68, 52), x - 16 * s, y - 58 * s, x + 16 * s, y, 3)
    for side in (-1, 1):
        c.box((212, 228, 236), x + side * 42 * s - 15 * s, y - 104 * s, x + side * 42 * s + 15 * s, y - 72 * s, 2)


def car(c, x, y, s, colour):
    c.shadow(x, y, 96 * s, 9 * s)
    c.polygon(colour, (x - 50 * s, y - 46 * s), (x - 32 * s, y - 80 * s), (x + 30 * s, y - 80 * s), (x + 56 * s, y - 46 * s))
    c.polygon((208, 224, 232), (x - 36 * s, y - 48 * s), (x - 26 * s, y - 72 * s), (x - 3 * s, y - 72 * s), (x - 3 * s, y - 48 * s))
    c.polygon((208, 224, 232), (x + 3 * s, y - 48 * s), (x + 3 * s, y - 72 * s), (x + 26 * s, y - 72 * s), (x + 42 * s, y - 48 * s))
    c.box(colour, x - 92 * s, y - 50 * s, x + 94 * s, y - 14 * s, 12)
    for side in (-1, 1):
        c.disc((40, 40, 42), x + side * 54 * s, y - 14 * s, 19 * s)
        c.disc((176, 176, 178), x + side * 54 * s, y - 14 * s, 9 * s)


def tree(c, x, y, s, colour):
    c.shadow(x, y, 50 * s, 8 * s)
    c.box((104, 76, 54), x - 10 * s, y - 90 * s, x + 10 * s, y)
    for dx, dy, r in ((-34, -112, 40), (34, -112, 40), (0, -150, 48), (0, -108, 42)):
        c.disc(shade(colour, 0.9 + r % 3 * 0.06), x + dx * s, y + dy * s, r * s)


def boat(c, x, y, s, colour):
    c.line((92, 70, 52), 5 * s, (x, y - 24 * s), (x, y - 150 * s))
    c.polygon((244, 240, 230), (x + 5 * s, y - 146 * s), (x + 5 * s, y - 36 * s), (x + 66 * s, y - 36 * s))
    c.polygon(colour, (x - 74 * s, y - 26 * s), (x + 80 * s, y - 26 * s), (x + 54 * s, y + 6 * s), (x - 52 * s, y + 6 * s))


def bench(c, x, y, s, colour):
    c.shadow(x, y, 90 * s, 8 * s)
    for side in (-1, 1):
        c.box((72, 66, 62), x + side * 66 * s - 5 * s, y - 74 * s, x + side * 66 * s + 5 * s, y)
    for row in (-74, -56, -34):
        c.box(colour, x - 84 * s, y + (row - 6) * s, x + 84 * s, y + (row + 6) * s, 3)


TABLE = {"cup": cup, "apple": apple, "vase of flowers": vase, "book": book, "candle": candle}
ROOM = {"sofa": sofa, "lamp": lamp, "cat": cat}
STREET = {"house": house, "car": car, "tree": tree}
LAKE = {"boat": boat, "tree": tree, "bench": bench}
# What a thing may be painted in; what is missing here may have any colour.
NATURAL = {"apple": ["red", "green", "yellow"], "tree": ["green"], "cat": ["orange", "brown", "white"], "candle": ["white", "red", "yellow"], "bench": ["brown", "green"]}


def coloured(random_, thing):
    name = random_.choice(NATURAL.get(thing, list(COLOURS)))
    return name, COLOURS[name]


def table(random_):
    """Three things beside each other on a table before a wall."""
    wall, top = random_.choice(list(WALLS.values())), (158, 112, 78)
    c = Canvas(shade(wall, 1.04), shade(wall, 0.92))
    c.polygon(top, (0, 370), (512, 370), (512, 512), (0, 512))
    c.box(shade(top, 0.8), 0, 366, 512, 374)
    things = random_.sample(list(TABLE), 3)
    there = {}
    for thing, x in zip(things, (112, 258, 404)):
        name, colour = coloured(random_, thing)
        TABLE[thing](c, x, 430 + random_.randint(-8, 12), 1.15, colour)
        there[thing] = name
    return c.finished(), there


def room(random_):
    """Sofa, lamp and cat before a window."""
    wall, floor = random_.choice(list(WALLS.values())), (172, 134, 96)
    c = Canvas(shade(wall, 1.03), shade(wall, 0.95))
    c.polygon(floor, (0, 380), (512, 380), (512, 512), (0, 512))
    for board in range(0, 512, 64):
        c.line(shade(floor, 0.9), 2, (board + 40, 380), (board - 30, 512))
    c.box((248, 246, 240), 60, 60, 220, 220, 3)
    c.box((176, 208, 232), 70, 70, 210, 210)
    c.box((248, 246, 240), 136, 70, 144, 210)
    c.box((248, 246, 240), 70, 136, 210, 144)
    there = {}
    for thing, x, y, s in (("lamp", 440, 400, 1.05), ("sofa", 250, 420, 1.15), ("cat", 108, 470, 0.95)):
        name, colour = coloured(random_, thing)
        ROOM[thing](c, x, y, s, colour)
        there[thing] = name
    return c.finished(), there


def street(random_):
    """A house between trees, a car before it."""
    c = Canvas((150, 192, 226), (226, 232, 230))
    c.polygon((142, 168, 110), (0, 330), (512, 330), (512, 420), (0, 420))
    c.polygon((108, 108, 112), (0, 408), (512, 408), (512, 512), (0, 512))
    for dash in range(20, 512, 110):
        c.box((222, 218, 206), dash, 456, dash + 56, 462)
    there = {}
    for thing, x, y, s in (("house", random_.randint(150, 200), 390, 1.25), ("tree", random_.randint(390, 430), 392, 1.15), ("car", random_.randint(230, 300), 448, 1.1)):
        name, colour = coloured(random_, thing)
        STREET[thing](c, x, y, s, colour)
        there[thing] = name
    return c.finished(), there


def lake(random_):
    """A boat on a lake below mountains, a tree and a bench on the shore."""
    c = Canvas((162, 198, 228), (238, 226, 206))
    ridge = [(0, 270)] + [(x, random_.randint(120, 220)) for x in range(60, 512, 90)] + [(512, 270)]
    c.polygon((132, 142, 162), *ridge)
    c.polygon((112, 134, 118), (0, 268), (160, 236), (330, 258), (512, 228), (512, 290), (0, 290))
    c.polygon((104, 152, 178), (0, 284), (512, 284), (512, 440), (0, 440))
    for wave in range(8):
        x, y = random_.randint(20, 440), random_.randint(296, 396)
        c.line((140, 182, 202), 3, (x, y), (x + 50, y))
    c.polygon((150, 168, 106), (0, 430), (180, 404), (512, 422), (512, 512), (0, 512))
    there = {}
    for thing, x, y, s in (("boat", random_.randint(190, 330), 360, 1.0), ("tree", 90, 448, 1.2), ("bench", 380, 478, 1.0)):
        name, colour = coloured(random_, thing)
        LAKE[thing](c, x, y, s, colour)
        there[thing] = name
    return c.finished(), there


SCENES = {"table": table, "room": room, "street": street, "lake": lake}

# For training first, held out second.
WORDS = {
    "table": {
        "instead": (["a glass of water", "a lemon", "an alarm clock"], ["a pine cone", "a teapot"]),
        "more": (["a slice of cake on the table", "a window in the wall", "a striped tablecloth under everything"], ["a pair of glasses on the table", "a framed map on the wall"]),
        "all": (["turn the picture into a watercolour", "let warm light come from the left"], ["turn the picture into a pencil drawing"]),
    },
    "room": {
        "instead": (["a rocking chair", "a large potted palm", "a bookcase"], ["an upright piano", "a stack of suitcases"]),
        "more": (["a round rug on the floor", "rain behind the window", "a painting of a ship on the wall"], ["curtains at the window", "a ceiling fan"]),
        "all": (["make it night, with the lamp switched on", "turn the picture into an oil painting"], ["let the evening sun shine in"]),
    },
    "street": {
        "instead": (["a fire engine", "a row of sunflowers", "a windmill"], ["a hay wagon", "a telephone box"]),
        "more": (["a dog on the pavement", "a rainbow in the sky", "snow on the roof"], ["a balloon above the roof", "a letter box beside the door"]),
        "all": (["make it winter", "make it a rainy evening with wet asphalt"], ["make it autumn"]),
    },
    "lake": {
        "instead": (["a swan", "a wooden jetty", "a red tent"], ["a raft with a flag", "a stone tower"]),
        "more": (["snow on the mountains", "a heron at the shore", "two people in rain capes on the grass"], ["a full moon over the ridge", "a campfire on the shore"]),
        "all": (["make it a foggy morning", "turn the picture into a linocut"], ["make it sunset"]),
    },
}


def instructions(random_, scene, there, held_out):
    """One of each kind: colour, absence, another thing, something new, the whole picture."""
    words = {kind: lists[held_out] for kind, lists in WORDS[scene].items()}
    recoloured, removed, replaced = random_.sample(sorted(there), 3)
    colour = random_.choice(sorted(set(COLOURS) - {there[recoloured]}))
    return [
        f"make the {recoloured} {colour}",
        f"remove the {removed}",
        f"replace the {replaced} with {random_.choice(words['instead'])}",
        f"add {random_.choice(words['more'])}",
        random_.choice(words["all"]),
    ]


def main():
    here = Path(__file__).resolve().parent
    configs = here.parent.parent / "configs" / "qwen-image-edit"
    sources = here / "sources"
    sources.mkdir(exist_ok=True)
    tasks = {"edits.jsonl": [], "held-out.jsonl": []}
    for held_out, (file, count) in enumerate({"edits.jsonl": 4, "held-out.jsonl": 1}.items()):
        for number in range(count):
            for scene, draw in SCENES.items():
                name = f"{scene}-{'held-out' if held_out else number + 1}"
                random_ = random.Random(name)
                picture, there = draw(random_)
                picture.save(sources / f"{name}.jpg", quality=88)
                for instruction in instructions(random_, scene, there, held_out):
                    tasks[file].append({"instruction": instruction, "source_image": f"../../examples/qwen-image-edit/sources/{name}.jpg"})
    for file, records in tasks.items():
        # A step takes consecutive tasks: they are not to be all of one picture.
        random.Random(file).shuffle(records)
        (configs / file).write_text("".join(json.dumps(record) + "\n" for record in records))


main()
