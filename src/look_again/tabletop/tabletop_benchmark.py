"""Tabletop as two benchmarks: exact answers with hallucinations, and whether planted mistakes are mended.

In the first the model answers freely. In the second its response begins with a text that the oracle wrote with mistakes
planted in CAPTION, up to and including the last `<REFLECTION>`, and the model goes on: the share of planted mistakes
that its reflection gets right shows whether it looks; the wrong-image control shows how much of it comes from the
image. All figures are computed from texts alone, so that any model can be the one under test. The location of the data
is a stream, not a folder: its path is "seed=N".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from look_again.evaluation.benchmark import (
    JSON,
    Benchmark,
    BenchmarkItem,
    DataLocation,
    ItemScore,
    Judge,
    ModelReply,
    Scores,
)
from look_again.evaluation.benchmarks.choices import accuracies, by_group
from look_again.evaluation.subjects import PREFIX_FACT
from look_again.scoring.extraction import answer_kind, extract, score
from look_again.tabletop.loader import SceneImage
from look_again.tabletop.oracle import LENGTHS, Mistake
from look_again.tabletop.samples import TabletopSample, make_sample
from look_again.tabletop.seeing import LISTED, listed
from look_again.tabletop.world import Scene, Thing
from look_again.text.grammar import TAG_TOKENS, open_tag, parse

SPLITS = ("test", "heldout", "validation")
DEFAULT_ITEMS = 200
PLANTED_RATE = 0.3  # of the oracle's mistakes, per object of a list


def _row(split: str, seed: int, index: int, length: str | None = None) -> TabletopSample:
    return make_sample(split, seed, index, length=length, reflections=1, error_rate=PLANTED_RATE)


def parse_stream(path: str) -> tuple[int, str | None]:
    """N and the length of "seed=N" or "seed=N,length=brief". ValueError for any other place."""
    found = re.fullmatch(rf"seed=([0-9]+)(?:,length=({'|'.join(LENGTHS)}))?", path)
    if found is None:
        raise ValueError(
            f"Tabletop is drawn, not read: its place is a stream, 'seed=0' or 'seed=0,length=brief', not {path!r}"
        )
    return int(found[1]), found[2]


def load_free(location: DataLocation) -> Iterator[BenchmarkItem]:
    """The questions of a stream; 200 unless `location.limit` says otherwise."""
    seed, length = parse_stream(location.path)
    for index in range(DEFAULT_ITEMS if location.limit is None else location.limit):
        row = _row(location.split, seed, index, length)
        yield _item(row, {})


def load_planted(location: DataLocation) -> Iterator[BenchmarkItem]:
    """Those of the questions whose response has a planted mistake, with that response up to its last reflection."""
    seed, length = parse_stream(location.path)
    for index in range(DEFAULT_ITEMS if location.limit is None else location.limit):
        row = _row(location.split, seed, index, length)
        if row.written.mistakes:
            mistakes = [{"kind": mistake.kind, "place": mistake.place} for mistake in row.written.mistakes]
            facts = {PREFIX_FACT: planted_prefix(row), "mistakes": mistakes}
            yield _item(row, facts)


def _item(row: TabletopSample, facts: Mapping[str, JSON]) -> BenchmarkItem:
    image = SceneImage(row.scene, row.id)
    things = [[thing.place, thing.colour, thing.shape] for thing in row.scene.things]
    known = {"kind": row.question.kind, "length": row.length, "objects": things}
    return BenchmarkItem(id=row.id, images=(image,), prompt=row.prompt, reference=row.answer, facts=known | dict(facts))


def planted_prefix(row: TabletopSample) -> str:
    """The oracle's response with its mistakes, up to and including its last `<REFLECTION>`."""
    text, tag = row.written.text, open_tag("REFLECTION")
    return text[: text.rindex(tag) + len(tag)]


def score_free(items: Sequence[BenchmarkItem], replies: Sequence[ModelReply], judge: Judge | None = None) -> Scores:
    """Exact answers, and what CAPTION and the last REFLECTION list: hallucinated and recalled shares of objects."""
    scores = [answer_score(item, reply, _listed(item, reply)) for item, reply in zip(items, replies, strict=True)]
    parsed = [parse(reply.text) for reply in replies]
    quality: dict[str, float | int | None] = {}
    for tag in ("CAPTION", "REFLECTION"):
        lists = [(_scene(item), _section(reply, tag)) for item, reply in zip(items, replies, strict=True)]
        quality |= {f"{tag.lower()}_{name}": value for name, value in list_quality(lists).items()}
    return Scores(
        items=scores,
        metrics={
            **accuracies(scores),
            "well_formed": sum(p.well_formed for p in parsed) / len(parsed) if parsed else None,
            **quality,
        },
        subsets=by_group(items, scores, ("kind",)),
        notes={
            "answers": "look_again.scoring.extraction over CONCLUSION; the whole text of a model that writes no tags"
        },
    )


def score_planted(items: Sequence[BenchmarkItem], replies: Sequence[ModelReply], judge: Judge | None = None) -> Scores:
    """The share of planted mistakes that the last reflection mends, per kind of mistake, and the answers after it."""
    scores = []
    for item, reply in zip(items, replies, strict=True):
        mended = _mended(item, _section(reply, "REFLECTION"))
        facts = {"mistakes": len(mended), "mended": sum(mended), "mended_share": sum(mended) / len(mended)}
        scores.append(answer_score(item, reply, facts))
    total = sum(int(s.facts["mistakes"]) for s in scores)
    done = sum(int(s.facts["mended"]) for s in scores)
    return Scores(
        items=scores,
        metrics={
            "mended": done / total if total else None,
            "mistakes": total,
            **accuracies(scores),
            **_mended_per_kind(items, replies),
        },
        subsets=by_group(items, scores, ("kind",)),
        notes={"mended": "a mistake is mended if the last reflection says of its place what is true"},
    )


def answer_score(item: BenchmarkItem, reply: ModelReply, facts: Mapping[str, JSON] | None = None) -> ItemScore:
    """Official and strict agree: nothing for a response in the format whose CONCLUSION is missing."""
    tagged = any(tag in reply.text for tag in TAG_TOKENS)
    answer = "" if tagged and reply.conclusion is None else reply.final
    read = extract(answer, answer_kind(item.reference)) if answer else None
    right = float(score(answer, item.reference))
    return ItemScore(official=right, strict=right, extracted=read, unparsed=read is None, facts=facts or {})


def _listed(item: BenchmarkItem, reply: ModelReply) -> dict[str, float | int | None]:
    """What one reply's lists get wrong and recall, None where it lists nothing."""
    caption, reflection = (list_quality([(_scene(item), _section(reply, tag))]) for tag in ("CAPTION", "REFLECTION"))
    return {
        "caption_hallucinated": caption["hallucinated"],
        "reflection_hallucinated": reflection["hallucinated"],
        "reflection_recall": reflection["recall"],
    }


def _mended(item: BenchmarkItem, reflection: str) -> list[bool]:
    planted = [Mistake(m["kind"], m["place"], Thing(m["place"], "", "")) for m in item.facts["mistakes"]]
    return [is_mended(mistake, _scene(item), reflection) for mistake in planted]


def _mended_per_kind(items: Sequence[BenchmarkItem], replies: Sequence[ModelReply]) -> dict[str, float]:
    per_kind: dict[str, list[bool]] = {}
    for item, reply in zip(items, replies, strict=True):
        for mistake, done in zip(item.facts["mistakes"], _mended(item, _section(reply, "REFLECTION")), strict=True):
            per_kind.setdefault(mistake["kind"], []).append(done)
    return {f"mended_{kind}": sum(done) / len(done) for kind, done in sorted(per_kind.items())}


def list_quality(lists: Iterable[tuple[Scene, str]]) -> dict[str, float | int | None]:
    """Over lists of objects: the share of listed ones that are not there as said, and the share of real ones listed.

    None where nothing was listed. `empty` counts texts that list nothing.
    """
    said_total = false = true_total = found = empty = 0
    for scene, text in lists:
        said = listed(text)
        truth = {(thing.place, thing.colour, thing.shape) for thing in scene.things}
        said_total, false = said_total + len(said), false + len(said - truth)
        true_total, found = true_total + len(truth), found + len(said & truth)
        empty += not said
    return {
        "hallucinated": false / said_total if said_total else None,
        "recall": found / true_total if true_total else None,
        "empty": empty,
    }


def is_mended(mistake: Mistake, scene: Scene, reflection: str) -> bool:
    """Whether a reflection says of the mistake's place what is true: the real object there, or nothing."""
    said = {place: (colour, shape) for place, colour, shape in LISTED.findall(reflection)}
    real = {thing.place: thing.pair for thing in scene.things}
    return bool(said) and said.get(mistake.place) == real.get(mistake.place)


def _scene(item: BenchmarkItem) -> Scene:
    return Scene(tuple(Thing(*words) for words in item.facts["objects"]))


def _section(reply: ModelReply, tag: str) -> str:
    section = parse(reply.text).get(tag)
    return section.text if section else ""


TABLETOP = Benchmark(
    name="tabletop",
    hub="seed=0",
    splits=SPLITS,
    load=load_free,
    score=score_free,
    primary="accuracy",
    paired="strict",
    max_new_tokens=512,
)
TABLETOP_PLANTED = Benchmark(
    name="tabletop-planted",
    hub="seed=0",
    splits=SPLITS,
    load=load_planted,
    score=score_planted,
    primary="mended",
    paired="mended_share",
    max_new_tokens=512,
)
