"""Questions to begin with, drawn when they are shown: sets of examples that are registered by name.

Their small images are part of the page, not addresses of their own: whoever may not see the page cannot have any
drawn.
"""

from __future__ import annotations

from typing import Protocol

from PIL import Image

from look_again.images import data_url
from look_again.registry import lookup
from look_again.web.section_cards import escape

EXAMPLES = {"tabletop": "look_again.tabletop.ui_examples:TABLETOP_EXAMPLES"}
SHOWN = "tabletop"
SEEDS = 10_000
SMALL_SIDE = 112  # pixels, shown on half as many


class ExampleQuestion(Protocol):
    """text: the question. title: the question in short, for a tooltip. label: the kind of question."""

    @property
    def text(self) -> str: ...

    @property
    def title(self) -> str: ...

    @property
    def label(self) -> str: ...

    def draw(self) -> Image.Image:
        """Its image."""
        ...


class ExampleSets(Protocol):
    """Sets of examples, a set for each seed. noun: what one of them is called. count: examples of a set."""

    noun: str
    count: int

    def example(self, seed: int, index: int) -> ExampleQuestion:
        """Example `index` of the set of a seed."""
        ...


def load_sets() -> ExampleSets:
    """The sets that the page shows."""
    sets: ExampleSets = lookup(EXAMPLES, SHOWN, what="set of examples")
    return sets


def load_example(name: object) -> tuple[Image.Image, str]:
    """Image and question of an example by its name in the page, "seed/index". ValueError for anything else."""
    sets = load_sets()
    seed, _, index = str(name)[:20].partition("/")
    if not seed.isdecimal() or not index.isdecimal():
        raise ValueError("this is not an example of the page")
    if int(seed) >= SEEDS or int(index) >= sets.count:
        raise ValueError(f"there is no example {int(index)} of set {int(seed)}")
    example = sets.example(int(seed), int(index))
    return example.draw(), example.text


def read_click(data: object, name: str) -> object:
    """A field of a clicked button; untrusted, as a browser sent it."""
    return data.get(name) if isinstance(data, dict) else None


def next_set(name: object) -> int:
    """The set after the one of this name, the first for anything that is no set."""
    seed = str(name)[:6]
    return (int(seed) + 1) % SEEDS if seed.isdecimal() else 0


def examples_html(seed: int) -> str:
    """A set as small images to choose from, and a button for another set."""
    sets = load_sets()
    shown = "".join(_example_html(sets.example(seed, index), f"{seed}/{index}") for index in range(sets.count))
    more = f'<button type="button" class="la-more-scenes" data-set="{seed}" title="other scenes">↻</button>'
    return f'<div class="la-scenes"><span class="la-scenes-title">or {escape(sets.noun)} {more}</span>{shown}</div>'


def _example_html(example: ExampleQuestion, name: str) -> str:
    address = data_url(example.draw().resize((SMALL_SIDE, SMALL_SIDE)), "JPEG", quality=85)
    return (
        f'<button type="button" class="la-scene" data-scene="{name}" title="{escape(example.title)}">'
        f'<img src="{address}" alt="{escape(example.label)}" width="56" height="56"></button>'
    )
