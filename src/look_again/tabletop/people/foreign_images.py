"""Drawn images that show nothing of Tabletop: landscapes, faces, pages, charts, patterns, textures, other tables.

Each is a function of (kind, seed) in integers and Pillow alone. They stand for what people bring of their own; a model
that has seen them should notice that a photo is none of Tabletop's images.
"""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from look_again.data.image_files import LazyImage
from look_again.tabletop.render import draw_thing, render
from look_again.tabletop.world import COLOURS, SHAPES, Thing, lay_out

Colour = tuple[int, int, int]
SHORT_SIDES = (120, 168, 220, 300)  # pixels


@dataclass(frozen=True)
class ForeignImage(LazyImage):
    """An image of `KINDS`, drawn when read."""

    kind: str
    seed: int

    def __str__(self) -> str:
        return f"drawn {self.kind} {self.seed}"

    def read(self) -> bytes:
        file = io.BytesIO()
        draw_foreign(self.kind, self.seed).save(file, "PNG", compress_level=1)
        return file.getvalue()

    def stored(self) -> dict[str, Any]:
        return {"foreign": self.kind, "seed": self.seed}

    @classmethod
    def from_stored(cls, stored: Mapping[str, Any]) -> ForeignImage:
        return cls(stored["foreign"], stored["seed"])


def draw_foreign(kind: str, seed: int) -> Image.Image:
    """An RGB image of a kind of `KINDS`. ValueError for another kind."""
    if kind not in KINDS:
        raise ValueError(f"unknown kind of image {kind!r}; known: {', '.join(KINDS)}")
    rng = random.Random(f"foreign/{kind}/{seed}")
    image = KINDS[kind](rng, _size(rng))
    if rng.random() < 0.5:
        image = _light(rng, image)
    if rng.random() < 0.5:
        image = _grain(rng, image)
    return image.convert("L").convert("RGB") if rng.random() < 0.1 else image


def _size(rng: random.Random) -> tuple[int, int]:
    """Width and height: square, as photos and screens are, or a strip."""
    short = rng.choice(SHORT_SIDES)
    long = int(short * rng.choice((1.0, 1.0, 1.25, 1.33, 1.5, 1.78, 2.2)))
    return (short, long) if rng.random() < 0.5 else (long, short)


def _colour(rng: random.Random) -> Colour:
    return rng.randrange(256), rng.randrange(256), rng.randrange(256)


def _near(rng: random.Random, colour: Colour, by: int) -> Colour:
    red, green, blue = (max(0, min(255, value + rng.randint(-by, by))) for value in colour)
    return red, green, blue


def _gradient(rng: random.Random, size: tuple[int, int]) -> Image.Image:
    """Four corner colours, interpolated."""
    corners = np.array([_colour(rng) for _ in range(4)], dtype=np.uint8).reshape(2, 2, 3)
    return Image.fromarray(corners).resize(size, Image.Resampling.BILINEAR)


def _texture(rng: random.Random, size: tuple[int, int]) -> Image.Image:
    """Clouds of several scales about a few colours, as in photos out of focus."""
    image = Image.new("RGB", size, _colour(rng))
    for cells in (3, 6, 12, 25, 50):
        raw = np.frombuffer(rng.randbytes(cells * cells * 3), dtype=np.uint8).reshape(cells, cells, 3)
        layer = Image.fromarray(raw.copy()).resize(size, Image.Resampling.BICUBIC)
        image = Image.blend(image, layer, rng.uniform(0.15, 0.5))
    if rng.random() < 0.6:
        image = Image.blend(image, Image.new("RGB", size, _colour(rng)), rng.uniform(0.2, 0.6))
    return image


def _noise(rng: random.Random, size: tuple[int, int]) -> Image.Image:
    raw = np.frombuffer(rng.randbytes(size[0] * size[1] * 3), dtype=np.uint8)
    return Image.fromarray(raw.reshape(size[1], size[0], 3).copy())


def _plain(rng: random.Random, size: tuple[int, int]) -> Image.Image:
    colour = rng.choice([(255, 255, 255), (0, 0, 0), (128, 128, 128), _colour(rng), _colour(rng)])
    return Image.new("RGB", size, colour)


def _landscape(rng: random.Random, size: tuple[int, int]) -> Image.Image:
    """A sky, hills, perhaps a sun and trees or houses."""
    width, height = size
    image = _gradient(rng, size) if rng.random() < 0.5 else Image.new("RGB", size, _near(rng, (140, 190, 235), 50))
    draw = ImageDraw.Draw(image)
    if rng.random() < 0.5:
        _disc(draw, rng, rng.randrange(width), rng.randrange(height // 2), width // 12, (250, 220, 120))
    for layer in range(rng.randint(1, 4)):
        base = height * (5 + layer) // 9
        points = [(x, base + rng.randint(-height // 8, height // 8)) for x in range(0, width + 40, 40)]
        draw.polygon([(0, height), *points, (width, height)], fill=_near(rng, (60, 110, 60), 70))
    for _ in range(rng.randint(0, 6)):
        x, y, side = rng.randrange(width), rng.randrange(height // 2, height), rng.randint(10, height // 4)
        draw.rectangle((x, y - side, x + side // 2, y), fill=_colour(rng))
    return image.filter(ImageFilter.GaussianBlur(rng.choice((0, 1, 2))))


def _disc(draw: ImageDraw.ImageDraw, rng: random.Random, x: int, y: int, radius: int, colour: Colour) -> None:
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=_near(rng, colour, 30))


def _face(rng: random.Random, size: tuple[int, int]) -> Image.Image:
    """A head with hair, eyes and a mouth before a background, shoulders below."""
    width, height = size
    image = _texture(rng, size) if rng.random() < 0.6 else _gradient(rng, size)
    draw = ImageDraw.Draw(image)
    x, y, r = (
        width // 2 + rng.randint(-width // 8, width // 8),
        height * 2 // 5,
        min(width, height) // rng.randint(3, 5),
    )
    skin = _near(rng, rng.choice([(235, 200, 170), (190, 140, 100), (110, 75, 50)]), 20)
    draw.ellipse((x - 2 * r, y + r, x + 2 * r, y + 5 * r), fill=_colour(rng))
    draw.ellipse((x - r, y - r * 3 // 2, x + r, y + r // 2), fill=_near(rng, (60, 40, 30), 50))
    draw.ellipse((x - r * 4 // 5, y - r, x + r * 4 // 5, y + r * 6 // 5), fill=skin)
    for side in (-1, 1):
        _disc(draw, rng, x + side * r // 3, y - r // 8, max(2, r // 10), (40, 40, 50))
    draw.arc((x - r // 3, y + r // 4, x + r // 3, y + r * 3 // 4), 20, 160, fill=(150, 50, 50), width=max(2, r // 14))
    return image.filter(ImageFilter.GaussianBlur(rng.choice((0, 1, 2))))


def _page(rng: random.Random, size: tuple[int, int]) -> Image.Image:
    """Lines of text on paper."""
    image = Image.new("RGB", size, _near(rng, (245, 243, 238), 12))
    draw = ImageDraw.Draw(image)
    ink = _near(rng, (30, 30, 30), 30)
    for y in range(rng.randint(4, 20), size[1] - 10, rng.randint(11, 24)):
        words = ["".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(1, 9))) for _ in range(12)]
        draw.text((rng.randint(4, 14), y), " ".join(words), fill=ink)
    return image


def _chart(rng: random.Random, size: tuple[int, int]) -> Image.Image:
    """Bars or a line on axes."""
    width, height = size
    image = Image.new("RGB", size, _near(rng, (250, 250, 250), 5))
    draw = ImageDraw.Draw(image)
    draw.line((15, 10, 15, height - 15, width - 8, height - 15), fill=(40, 40, 40), width=2)
    step = max(12, width // rng.randint(5, 12))
    values = [(x, rng.randint(12, height - 20)) for x in range(22, width - step, step)]
    if rng.random() < 0.5 and len(values) > 1:
        draw.line(values, fill=_colour(rng), width=3)
    else:
        colour = _colour(rng)
        for x, y in values:
            draw.rectangle((x, y, x + step * 2 // 3, height - 16), fill=_near(rng, colour, 40))
    return image


def _pattern(rng: random.Random, size: tuple[int, int]) -> Image.Image:
    """Stripes or a board of two colours."""
    width, height = size
    first, second, cell = _colour(rng), _colour(rng), rng.randint(6, 40)
    image = Image.new("RGB", size, first)
    draw = ImageDraw.Draw(image)
    board = rng.random() < 0.5
    for row in range(0, height, cell):
        for column in range(0, width, cell):
            if (row // cell + (column // cell if board else 0)) % 2:
                draw.rectangle((column, row, column + cell - 1, row + cell - 1), fill=second)
    return image.rotate(rng.choice((0, 0, 90, 30)), fillcolor=first)


def _shapes(rng: random.Random, size: tuple[int, int]) -> Image.Image:
    """Discs, boxes and triangles of any colour and size on some background, as children draw."""
    width, height = size
    image = rng.choice((_gradient, _texture, _plain))(rng, size)
    draw = ImageDraw.Draw(image)
    for _ in range(rng.randint(1, 12)):
        x, y, r = rng.randrange(width), rng.randrange(height), rng.randint(4, min(size) // 2)
        box = (x - r, y - r, x + r, y + r)
        if (form := rng.randrange(3)) == 0:
            draw.ellipse(box, fill=_colour(rng))
        elif form == 1:
            draw.rectangle(box, fill=_colour(rng))
        else:
            draw.polygon([(x, y - r), (x + r, y + r), (x - r, y + r)], fill=_colour(rng))
    return image


def _thing_elsewhere(rng: random.Random, size: tuple[int, int]) -> Image.Image:
    """An object like a cup or a box, large and alone, before a blurred background."""
    width, height = size
    image = rng.choice((_texture, _gradient, _landscape))(rng, size).filter(ImageFilter.GaussianBlur(4))
    draw = ImageDraw.Draw(image)
    x, y, w, h = width // 2, height // 2, width // rng.randint(3, 6), height // rng.randint(3, 5)
    colour = _colour(rng)
    draw.rounded_rectangle((x - w, y - h, x + w, y + h), radius=min(w, h) // rng.randint(1, 6), fill=colour)
    draw.ellipse((x - w, y - h - h // 4, x + w, y - h + h // 4), fill=_near(rng, colour, 60))
    draw.arc((x + w // 2, y - h // 2, x + w * 3 // 2, y + h // 2), 270, 90, fill=_near(rng, colour, 30), width=8)
    return image.filter(ImageFilter.GaussianBlur(1))


def _other_table(rng: random.Random, size: tuple[int, int]) -> Image.Image:
    """Tabletop's objects where they do not belong: on a background that is not its table."""
    image = rng.choice((_plain, _gradient, _texture, _pattern))(rng, (336, 336))
    draw = ImageDraw.Draw(image)
    pairs = [(rng.choice(COLOURS), rng.choice(SHAPES)) for _ in range(rng.randint(2, 8))]
    for thing in lay_out(rng, pairs).things:
        draw_thing(draw, Thing(thing.place, thing.colour, thing.shape, thing.size, thing.dx, thing.dy))
    return image.reduce(2)


def _cut_table(rng: random.Random, size: tuple[int, int]) -> Image.Image:
    """A scene of Tabletop, small in the corner of something else."""
    pairs = [(rng.choice(COLOURS), rng.choice(SHAPES)) for _ in range(rng.randint(2, 8))]
    scene = render(lay_out(rng, pairs)).resize((60, 60))
    image = rng.choice((_plain, _texture, _page))(rng, size)
    image.paste(scene, (rng.randrange(max(1, size[0] - 60)), rng.randrange(max(1, size[1] - 60))))
    return image


def _light(rng: random.Random, image: Image.Image) -> Image.Image:
    """Light from one side."""
    shade = _gradient(rng, image.size).convert("L").convert("RGB")
    return Image.blend(image, shade, rng.uniform(0.05, 0.3))


def _grain(rng: random.Random, image: Image.Image) -> Image.Image:
    """Noise of a camera."""
    pixels = np.asarray(image, dtype=np.int16)
    raw = np.frombuffer(rng.randbytes(pixels.size), dtype=np.uint8).astype(np.int16).reshape(pixels.shape)
    level = rng.choice((4, 8, 16, 32))
    return Image.fromarray(np.clip(pixels + raw % (2 * level + 1) - level, 0, 255).astype(np.uint8))


KINDS: dict[str, Callable[[random.Random, tuple[int, int]], Image.Image]] = {
    "gradient": _gradient,
    "texture": _texture,
    "noise": _noise,
    "plain": _plain,
    "landscape": _landscape,
    "face": _face,
    "page": _page,
    "chart": _chart,
    "pattern": _pattern,
    "shapes": _shapes,
    "thing": _thing_elsewhere,
    "other-table": _other_table,
    "cut-table": _cut_table,
}
