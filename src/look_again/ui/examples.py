"""Questions to begin with: Tabletop scenes, rendered when they are shown.

Their small images are part of the page, not addresses of their own: whoever may not see the page cannot have any
rendered.
"""

from __future__ import annotations

from PIL import Image

from look_again.images import data_url
from look_again.tabletop.questions import KINDS
from look_again.tabletop.render import render
from look_again.tabletop.rows import TabletopRow, make_row
from look_again.web.section_cards import escape

SPLIT = "test"
COUNT = len(KINDS)  # one scene of each kind of question
SEEDS = 10_000
LENGTHS = ("long", "normal")
SMALL_SIDE = 112  # pixels, shown on half as many


def example(seed: int, index: int) -> TabletopRow:
    """Scene and question number `index` of a set. ValueError outside of the sets that the page has."""
    if not 0 <= seed < SEEDS or not 0 <= index < COUNT:
        raise ValueError(f"there is no example {index} of set {seed}")
    return make_row(SPLIT, seed, index, length=LENGTHS[index % len(LENGTHS)])


def example_of(name: object) -> tuple[Image.Image, str]:
    """Image and question of an example by its name in the page, "seed/index". ValueError for anything else."""
    seed, _, index = str(name)[:20].partition("/")
    if not seed.isdecimal() or not index.isdecimal():
        raise ValueError("this is not an example of the page")
    row = example(int(seed), int(index))
    return render(row.scene), row.prompt


def clicked(data: object, name: str) -> object:
    """What a clicked button says of itself; untrusted, as a browser sent it."""
    return data.get(name) if isinstance(data, dict) else None


def set_after(name: object) -> int:
    """The set after the one of this name, the first for anything that is no set."""
    seed = str(name)[:6]
    return (int(seed) + 1) % SEEDS if seed.isdecimal() else 0


def examples_html(seed: int) -> str:
    """The set as small images to choose from, and a button for another set."""
    shown = "".join(_example_html(seed, index) for index in range(COUNT))
    more = f'<button type="button" class="la-more-scenes" data-set="{seed}" title="other scenes">↻</button>'
    return f'<div class="la-scenes"><span class="la-scenes-title">or a Tabletop scene {more}</span>{shown}</div>'


def _example_html(seed: int, index: int) -> str:
    row = example(seed, index)
    address = data_url(render(row.scene).resize((SMALL_SIDE, SMALL_SIDE)), "JPEG", quality=85)
    return (
        f'<button type="button" class="la-scene" data-scene="{seed}/{index}" title="{escape(row.question.text)}">'
        f'<img src="{address}" alt="{escape(row.question.kind)}" width="56" height="56"></button>'
    )
