"""Pictures in every form that a task may name, with the pixels that Pillow reads of them: `python tests/golden/pictures.py` from the
repository root. Writes `tests/golden/pictures/`; `expected.png` of each is what `convert("RGB")` gives, as diffusers' `load_image` does,
and `alpha.png.white.png` what Pillow shows of that picture over white.
"""

import pathlib
import struct
import zlib

import numpy as np
from PIL import Image

OUT = pathlib.Path(__file__).resolve().parent / "pictures"
HEIGHT, WIDTH = 6, 8


def sixteen_bits(pixels: np.ndarray) -> bytes:
    """A PNG of 16 bits a channel, which Pillow reads and does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def main():
    OUT.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    picture = Image.fromarray(rgb)
    picture.quantize(16).save(OUT / "palette.png")
    picture.convert("L").save(OUT / "gray.png")
    Image.fromarray(np.dstack([rgb, rng.integers(0, 256, (HEIGHT, WIDTH), dtype=np.uint8)])).save(OUT / "alpha.png")
    (OUT / "sixteen.png").write_bytes(sixteen_bits(rng.integers(0, 65536, (HEIGHT, WIDTH, 3))))
    smooth = Image.fromarray(np.linspace([0, 40, 250], [255, 90, 10], WIDTH * 4).astype(np.uint8)[None].repeat(24, 0))
    smooth.convert("CMYK").save(OUT / "cmyk.jpg", quality=95)
    smooth.save(OUT / "lossy.webp", quality=95)
    for file in ("palette.png", "gray.png", "alpha.png", "sixteen.png", "cmyk.jpg", "lossy.webp"):
        Image.open(OUT / file).convert("RGB").save(OUT / f"{file}.expected.png")
    shown = Image.open(OUT / "alpha.png").convert("RGBA")
    white = Image.new("RGBA", shown.size, "white")
    Image.alpha_composite(white, shown).convert("RGB").save(OUT / "alpha.png.white.png")
    frames = [picture, picture.transpose(Image.FLIP_LEFT_RIGHT)]
    for file in ("moving.png", "moving.webp"):
        frames[0].save(OUT / file, save_all=True, append_images=frames[1:], duration=100)


if __name__ == "__main__":
    main()
