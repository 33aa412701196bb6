"""A Tabletop scene read back from its image, and a question from its text.

The image alone is enough: pixels of each colour are matched with the drawings of every shape, size and jitter at
every place. So an endpoint that is sent an image can answer from the truth without being told which row it is.
"""

from __future__ import annotations

import random
import re
from functools import lru_cache
from itertools import product

import numpy as np
from PIL import Image

from look_again.tabletop.oracle import REQUESTS
from look_again.tabletop.questions import KINDS, Question, sample_question
from look_again.tabletop.render import CELL_PIXELS, NOISE_LEVELS, RGB, SIDE_PIXELS, render
from look_again.tabletop.world import COLOURS, PLACES, SHAPES, SIZES, WORLD_SIZES, Scene, Thing, allowed_pairs

JITTER = range(-5, 6)  # pixels
WINDOW_PIXELS = CELL_PIXELS + 24  # around a place, as far as its object may reach
TOLERANCE = NOISE_LEVELS + 1
MIDDLE_PIXELS = 6  # around a place's middle, where any object there shows
LEAST = 0.5  # of a drawing's pixels, that have to be there for it to count
QUESTIONS = 247  # 3 x 41 about a colour, a shape or both, 50 comparisons, 72 places, 2 odd ones

MARK = r"(?: (?:yes|no|more|than|\d))?"  # what a line may say behind a word
PLACE = "|".join(sorted({place for size in WORLD_SIZES.values() for place in size.places}))  # of tables of every size
LISTED = re.compile(rf"\b({PLACE}){MARK} ([a-z]+){MARK} ([a-z]+)")

Drawing = tuple[str, str, int, int]  # shape, size, dx, dy


class UnseenError(ValueError):
    """An image or a text that is not of this world."""


def see(image: Image.Image) -> Scene:
    """The scene that an image of SIDE_PIXELS x SIDE_PIXELS shows; its noise seed is 0.

    UnseenError for images of another size, and for those in which fewer than two objects are found.
    """
    if image.size != (SIDE_PIXELS, SIDE_PIXELS):
        raise UnseenError(f"a picture of {image.width} x {image.height} pixels shows no scene of Tabletop")
    pixels = np.asarray(image.convert("RGB"), dtype=np.int16)
    return _see(pixels.tobytes())


@lru_cache(maxsize=256)  # a panel asks about one image several times
def _see(data: bytes) -> Scene:
    pixels = np.frombuffer(data, dtype=np.int16).reshape(SIDE_PIXELS, SIDE_PIXELS, 3)
    table = _windows(_like(pixels, _table()))
    colours = np.stack([_windows(_like(pixels, np.array(RGB[colour]))) for colour in COLOURS])  # colour, place, pixel
    middle = _middle()
    candidates = [
        (place, colour)
        for place, colour in product(range(len(PLACES)), range(len(COLOURS)))
        if colours[colour, place][middle].sum() >= 4
    ]
    if len(candidates) < 2:
        raise UnseenError("the picture shows no scene of Tabletop")
    fill, edge, drawings = _drawings()
    edges = ~(table | colours.any(axis=0))
    shown = np.stack([colours[colour, place] for place, colour in candidates], axis=1).astype(np.float32)
    bare, drawn = (
        np.stack([kind[place] for place, _ in candidates], axis=1).astype(np.float32) for kind in (table, edges)
    )
    # (drawing, candidate): pixels that are as drawn, less those that show the table, or an inside where an edge is.
    # What another object may hide counts neither way.
    score = (fill - edge) @ shown - (2 * fill + edge) @ bare + edge @ drawn
    return Scene(_best(score, candidates, drawings, fill.sum(axis=1)))


def _best(
    score: np.ndarray, candidates: list[tuple[int, int]], drawings: list[Drawing], sizes: np.ndarray
) -> tuple[Thing, ...]:
    """At each place the drawing that agrees best, where enough of it is there."""
    found: dict[int, tuple[float, Thing]] = {}
    for column, (place, colour) in enumerate(candidates):
        row = int(score[:, column].argmax())
        agreed = float(score[row, column])
        if agreed >= LEAST * sizes[row] and agreed > found.get(place, (0.0, None))[0]:
            shape, size, dx, dy = drawings[row]
            found[place] = (agreed, Thing(PLACES[place], COLOURS[colour], shape, size, dx, dy))
    return tuple(found[place][1] for place in sorted(found))


def _like(pixels: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """(side, side): whether a pixel is of this colour but for noise."""
    return (np.abs(pixels - colour) <= TOLERANCE).all(axis=2)


@lru_cache(maxsize=1)
def _table() -> np.ndarray:
    """(side, side, 3) the bare table, without its noise: the mean of many."""
    total = sum(np.asarray(render(Scene((), seed)), dtype=np.float64) for seed in range(24))
    return np.round(total / 24).astype(np.int16)


@lru_cache(maxsize=1)
def _drawings() -> tuple[np.ndarray, np.ndarray, list[Drawing]]:
    """(drawings, pixels of a window) where each shape, size and jitter is filled, and has its edge; what each is."""
    filled, edges, names = [], [], []
    centre = PLACES.index("c3")
    for shape, size in product(SHAPES, SIZES):
        picture = np.asarray(render(Scene((Thing("c3", "blue", shape, size),))), dtype=np.int16)
        fill = _like(picture, np.array(RGB["blue"]))
        edge = ~(fill | _like(picture, _table()))
        for dx, dy in product(JITTER, JITTER):
            filled.append(_windows(np.roll(fill, (dy, dx), (0, 1)))[centre])
            edges.append(_windows(np.roll(edge, (dy, dx), (0, 1)))[centre])
            names.append((shape, size, dx, dy))
    return np.stack(filled).astype(np.float32), np.stack(edges).astype(np.float32), names


def _windows(mask: np.ndarray) -> np.ndarray:
    """(places, pixels of a window): the surroundings of every place, beyond the edge nothing."""
    margin = (WINDOW_PIXELS - CELL_PIXELS) // 2
    view = np.lib.stride_tricks.sliding_window_view(np.pad(mask, margin), (WINDOW_PIXELS, WINDOW_PIXELS))
    return view[::CELL_PIXELS, ::CELL_PIXELS].reshape(len(PLACES), -1)


def _middle() -> np.ndarray:
    """Pixels of a window around its middle; a ring is hollow there, so it reaches out to where its band is."""
    offset = np.abs(np.arange(WINDOW_PIXELS) - WINDOW_PIXELS // 2)
    near = offset <= MIDDLE_PIXELS + 5
    return (near[:, None] & near[None, :]).reshape(-1)


def prepare() -> None:
    """Make the drawings and questions now, before several threads want them at once."""
    _drawings()
    _questions()


def listed(text: str) -> set[tuple[str, str, str]]:
    """The objects that a text lists, as place, colour and shape."""
    return {(place, colour, shape) for place, colour, shape in LISTED.findall(text)}


def parse_question(text: str) -> Question:
    """The question that a prompt asks, with or without its request for a length. UnseenError for any other text."""
    plain = " ".join(text.split())
    for request in REQUESTS.values():
        plain = plain.removesuffix(request).strip()
    try:
        return _questions()[plain]
    except KeyError:
        raise UnseenError(f"{plain[:80]!r} is no question of Tabletop") from None


@lru_cache(maxsize=1)
def _questions() -> dict[str, Question]:
    """Every question there is, by its text; what a question counts does not depend on the scene it was drawn with."""
    rng, pairs = random.Random("every question"), allowed_pairs("heldout")
    found: dict[str, Question] = {}
    for _ in range(20_000):
        _, question = sample_question(rng, KINDS[rng.randrange(len(KINDS))], pairs)
        found.setdefault(question.text, question)
        if len(found) == QUESTIONS:
            return found
    raise AssertionError(f"{len(found)} of {QUESTIONS} questions found")
