"""Images of Tabletop scenes: Pillow drawings of 168 x 168 pixels, 6 x 6 visual tokens of 28 pixels.

Shapes are drawn at twice the size and averaged down, all in integers, so a scene gives the same bytes everywhere.
"""

from __future__ import annotations

import math
import random

import numpy as np
from PIL import Image, ImageDraw

from look_again.tabletop.world import GRID_SIDE, ROWS, Scene, Thing

CELL_PIXELS = 28
SIDE_PIXELS = GRID_SIDE * CELL_PIXELS
RADIUS_PIXELS = {"small": 10, "large": 15}
NOISE_LEVELS = 8  # uniform noise of -8 .. 8 levels per channel
SCALE = 2
RGB = {
    "red": (214, 40, 40),
    "green": (40, 160, 60),
    "blue": (40, 80, 210),
    "yellow": (236, 200, 30),
    "purple": (150, 50, 180),
    "black": (25, 25, 25),
}
GREEN_OF_TABLE = 185


def render(scene: Scene) -> Image.Image:
    """The scene as an RGB image of CELL_PIXELS per place and side; later objects may overlap earlier ones."""
    canvas = _table(scene.side)
    draw = ImageDraw.Draw(canvas)
    order = list(scene.things)
    random.Random(f"order/{scene.noise_seed}").shuffle(order)
    for thing in order:
        draw_thing(draw, thing)
    return _add_noise(canvas.reduce(SCALE), scene.noise_seed)


def centre(thing: Thing) -> tuple[int, int]:
    """Pixel coordinates (x, y) of an object's centre."""
    row, column = ROWS.index(thing.place[0]), int(thing.place[1:]) - 1
    half = CELL_PIXELS // 2
    return column * CELL_PIXELS + half + thing.dx, row * CELL_PIXELS + half + thing.dy


def table_pixels() -> np.ndarray:
    """(SIDE_PIXELS, SIDE_PIXELS, 3) the empty table as int16, without noise."""
    return np.asarray(_table(GRID_SIDE).reduce(SCALE), dtype=np.int16)


def _table(places: int) -> Image.Image:
    """The empty table, lit so that red grows from left to right and blue falls from top to bottom.

    A place can then be read off a patch of the table. Without it a model this small has to infer places from rotary
    phases alone: after 700 steps a quarter of the places in its captions was still wrong.
    """
    side = places * CELL_PIXELS * SCALE
    ramp = np.arange(side) * 84 // side
    pixels = np.full((side, side, 3), GREEN_OF_TABLE, dtype=np.uint8)
    pixels[:, :, 0] = 160 + ramp[None, :]
    pixels[:, :, 2] = 216 - ramp[:, None]
    return Image.fromarray(pixels)


def _add_noise(image: Image.Image, seed: int) -> Image.Image:
    pixels = np.asarray(image, dtype=np.int16)
    raw = np.frombuffer(random.Random(f"noise/{seed}").randbytes(pixels.size), dtype=np.uint8).astype(np.int16)
    noise = raw % (2 * NOISE_LEVELS + 1) - NOISE_LEVELS
    return Image.fromarray(np.clip(pixels + noise.reshape(pixels.shape), 0, 255).astype(np.uint8))


def draw_thing(draw: ImageDraw.ImageDraw, thing: Thing) -> None:
    """One object on a canvas of SCALE times SIDE_PIXELS."""
    x, y = (value * SCALE for value in centre(thing))
    r = RADIUS_PIXELS[thing.size] * SCALE
    fill, outline = RGB[thing.colour], tuple(value // 2 for value in RGB[thing.colour])
    if thing.shape == "ball":
        draw.ellipse((x - r, y - r, x + r, y + r), fill=fill, outline=outline, width=2)
    elif thing.shape == "ring":
        draw.ellipse((x - r, y - r, x + r, y + r), outline=fill, width=r // 2)
    elif thing.shape == "cube":
        s = r * 7 // 8
        draw.rectangle((x - s, y - s, x + s, y + s), fill=fill, outline=outline, width=2)
    elif thing.shape == "cone":
        draw.polygon([(x, y - r), (x + r, y + r * 7 // 8), (x - r, y + r * 7 // 8)], fill=fill, outline=outline)
    else:
        draw.polygon(_star(x, y, r), fill=fill, outline=outline)


def _star(x: int, y: int, r: int) -> list[tuple[int, int]]:
    """Ten corners of a five-pointed star, rounded to whole pixels so that platforms cannot differ."""
    corners = []
    for i in range(10):
        radius = r * 6 // 5 if i % 2 == 0 else r // 2
        angle = math.pi * i / 5
        corners.append((x + round(radius * math.sin(angle)), y - round(radius * math.cos(angle))))
    return corners
