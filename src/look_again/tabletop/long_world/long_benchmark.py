"""The long world as a benchmark: whether a reflection after long work mends the mistakes planted before it.

The response begins with the work, up to and including `<REFLECTION>`, and the model goes on. Scores are those of the
short benchmark of planted mistakes. The place of the data is a stream: "seed=0,pieces=800", with ",size=wide" where the
table is large and ",from=50" where the first 50 rows are passed over. Rows without a planted mistake are left out; the
same rows are asked at every length.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import count, islice

from look_again.evaluation.benchmark import Benchmark, BenchmarkItem, DataLocation
from look_again.evaluation.subjects import PREFIX_FACT
from look_again.tabletop.loader import SceneImage
from look_again.tabletop.long_world.long_work import LongSample, make_long_sample
from look_again.tabletop.tabletop_benchmark import SPLITS, score_planted
from look_again.tabletop.world import WORLD_SIZES

DEFAULT_ITEMS = 100
DESCRIBED = "answer_of_text"
"""Fact of an item: the answer that follows from what was described."""


def parse_long_stream(path: str) -> tuple[int, int, str, int]:
    """Seed, pieces, size and first row of "seed=0,pieces=800,size=wide,from=50". ValueError for any other place."""
    pattern = rf"seed=([0-9]+),pieces=([0-9]+)(?:,size=({'|'.join(WORLD_SIZES)}))?(?:,from=([0-9]+))?"
    found = re.fullmatch(pattern, path)
    if found is None:
        raise ValueError(
            f"the long world is drawn: its place is 'seed=0,pieces=800' or with ',size=wide', not {path!r}"
        )
    return int(found[1]), int(found[2]), found[3] or "small", int(found[4] or 0)


def load_long(location: DataLocation, kind: str = "listed") -> Iterator[BenchmarkItem]:
    """The rows of a stream, from its first on: of listed ones those that have a planted mistake."""
    seed, pieces, size, first = parse_long_stream(location.path)
    drawn = (make_long_sample(location.split, seed, index, pieces=pieces, size=size, kind=kind) for index in count())
    wanted = (row for row in drawn if row.mistakes or kind != "listed")
    for row in islice(wanted, first, first + (DEFAULT_ITEMS if location.limit is None else location.limit)):
        yield build_item(row)


def build_item(row: LongSample) -> BenchmarkItem:
    """A row as an item whose response begins with its work."""
    facts = {
        "kind": row.question.kind,
        "objects": [[thing.place, thing.colour, thing.shape] for thing in row.scene.things],
        "mistakes": [{"kind": mistake.kind, "place": mistake.place} for mistake in row.mistakes],
        "sub_questions": len(row.sub_questions),
        **({DESCRIBED: row.described} if row.kind == "swap" else {}),
        PREFIX_FACT: row.beginning,
    }
    image = SceneImage(row.scene, row.id)
    return BenchmarkItem(id=row.id, images=(image,), prompt=row.prompt, reference=row.answer, facts=facts)


TABLETOP_LONG = Benchmark(
    name="tabletop-long",
    hub="seed=0,pieces=800",
    splits=SPLITS,
    load=load_long,
    score=score_planted,
    primary="mended",
    paired="mended_share",
    max_new_tokens=4608,
)
