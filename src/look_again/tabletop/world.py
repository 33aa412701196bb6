"""Scenes of Tabletop: what lies on the table, sampled from streams that are the same on every machine.

A stream is keyed by (split, seed, index); Python's generator seeded with that text is specified bit for bit, so no
machine, platform or library version changes a scene. Some colour-shape pairs never occur in the train, validation and
test splits; the `heldout` split shows at least one of them in every scene.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import asdict, dataclass

SHAPES = ("ball", "cube", "cone", "star", "ring")
COLOURS = ("red", "green", "blue", "yellow", "purple", "black")
SIZES = ("small", "large")
GRID_SIDE = 6  # places per side; a place is a letter for its row and a digit for its column
PLACES = tuple(f"{row}{column}" for row in "abcdef" for column in range(1, GRID_SIDE + 1))
HELDOUT_PAIRS = frozenset(
    {("red", "star"), ("green", "cone"), ("blue", "ring"), ("yellow", "ball"), ("purple", "cube")}
)
SPLITS = ("train", "validation", "test", "heldout")
MIN_OBJECTS, MAX_OBJECTS = 2, 8
ROWS = "abcdefghijkl"

Pair = tuple[str, str]


@dataclass(frozen=True)
class Thing:
    """One object: `place` such as "b3", `colour`, `shape`, `size`; `dx`, `dy` are its jitter in pixels."""

    place: str
    colour: str
    shape: str
    size: str = "large"
    dx: int = 0
    dy: int = 0

    @property
    def pair(self) -> Pair:
        return self.colour, self.shape

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


@dataclass(frozen=True)
class Scene:
    """Objects in reading order (row by row), the seed of the image's noise and drawing order, and places per side."""

    things: tuple[Thing, ...]
    noise_seed: int = 0
    side: int = GRID_SIDE

    @property
    def caption(self) -> str:
        """The true caption, the form that responses use: "a2 red ball, c5 blue cube"."""
        return ", ".join(f"{t.place} {t.colour} {t.shape}" for t in self.things)


@dataclass(frozen=True)
class WorldSize:
    """How large a table is: places per side, each one visual token, and how many objects lie on it."""

    side: int
    min_objects: int
    max_objects: int

    @property
    def places(self) -> tuple[str, ...]:
        return tuple(f"{row}{column}" for row in ROWS[: self.side] for column in range(1, self.side + 1))


WORLD_SIZES = {"small": WorldSize(GRID_SIDE, MIN_OBJECTS, MAX_OBJECTS), "wide": WorldSize(12, 8, 24)}


def stream(split: str, seed: int, index: int) -> random.Random:
    """The random stream of one row. Raises ValueError for a split that does not exist."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; known: {', '.join(SPLITS)}")
    return random.Random(f"tabletop/{split}/{seed}/{index}")


def allowed_pairs(split: str) -> list[Pair]:
    """Colour-shape pairs that may occur in a split, in a fixed order."""
    pairs = [(colour, shape) for colour in COLOURS for shape in SHAPES]
    return pairs if split == "heldout" else [pair for pair in pairs if pair not in HELDOUT_PAIRS]


def draw_pair(rng: random.Random, pairs: list[Pair], accept: Callable[[Pair], bool]) -> Pair:
    """One pair, uniformly among those accepted. ValueError when none is."""
    candidates = [pair for pair in pairs if accept(pair)]
    if not candidates:
        raise ValueError("no colour-shape pair satisfies the condition")
    return rng.choice(candidates)


def lay_out(rng: random.Random, pairs: list[Pair], size: WorldSize = WORLD_SIZES["small"]) -> Scene:
    """Put one object per pair on distinct places, with jitter of up to 5 pixels and one of two sizes."""
    if not size.min_objects <= len(pairs) <= size.max_objects:
        raise ValueError(f"a scene has {size.min_objects} to {size.max_objects} objects, not {len(pairs)}")
    known = size.places
    places = sorted(rng.sample(known, len(pairs)), key=known.index)
    shuffled = rng.sample(pairs, len(pairs))
    things = tuple(
        Thing(place, colour, shape, rng.choice(SIZES), rng.randint(-5, 5), rng.randint(-5, 5))
        for place, (colour, shape) in zip(places, shuffled, strict=True)
    )
    return Scene(things, rng.getrandbits(32), size.side)


def shows_heldout_pair(scene: Scene) -> bool:
    return any(thing.pair in HELDOUT_PAIRS for thing in scene.things)
