"""Evaluation on Tabletop: exact answers, hallucinations, and whether planted mistakes are mended.

Two runs over the same rows. In the first the model answers freely. In the second its response begins with one that the
oracle wrote with mistakes planted in CAPTION, up to and including the last `<REFLECTION>`, and the model goes on: the
share of planted mistakes that its reflection gets right shows whether it looks; the wrong-image control shows how much
of it comes from the image.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tqdm import tqdm

from look_again.answers import Answer
from look_again.core.reattention import Reattention
from look_again.model import LookAgain, Request, Sampling
from look_again.scoring.extraction import score
from look_again.scoring.statistics import wilson_interval
from look_again.tabletop.oracle import Mistake
from look_again.tabletop.render import render
from look_again.tabletop.rows import TabletopRow, make_row
from look_again.tabletop.seeing import LISTED, listed
from look_again.tabletop.world import Scene
from look_again.text.grammar import open_tag

PLANTED_RATE = 0.3
OTHER_IMAGES = 1_000_003  # the wrong-image control shows the image of the row this many places on


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """n rows of a stream, `batch` at a time; `planted` adds those with planted mistakes. length: of all rows."""

    n: int
    seed: int
    split: str = "test"
    batch: int = 50
    max_new_tokens: int = 512
    planted: bool = True
    length: str | None = None


def evaluate(model: LookAgain, config: EvalConfig, policy: Reattention) -> dict[str, Any]:
    """Everything that `look-again eval tabletop --json` prints."""
    rows = [
        make_row(config.split, config.seed, index, length=config.length, reflections=1, error_rate=PLANTED_RATE)
        for index in range(config.n)
    ]
    free = _decode(model, rows, [""] * len(rows), config, policy, "answers")
    result = {"benchmark": "tabletop", **summarise(rows, free)}
    if config.planted:
        wrong = [row for row in rows if row.written.mistakes]
        continued = _decode(model, wrong, [planted_prefix(row) for row in wrong], config, policy, "planted")
        result["planted"] = mended(wrong, continued)
    result["settings"] = {"model": model.checkpoint.name, **asdict(config), "reattention": asdict(policy)}
    return result


def planted_prefix(row: TabletopRow) -> str:
    """The oracle's response with its mistakes, up to and including its last `<REFLECTION>`."""
    text, tag = row.written.text, open_tag("REFLECTION")
    return text[: text.rindex(tag) + len(tag)]


def summarise(rows: Sequence[TabletopRow], answers: Sequence[Answer]) -> dict[str, Any]:
    """Accuracy with its interval and per kind, hallucinations and recall, tokens, format."""
    right = [score(a.answer or "", row.answer) for row, a in zip(rows, answers, strict=True)]
    per_kind: dict[str, list[bool]] = defaultdict(list)
    for row, ok in zip(rows, right, strict=True):
        per_kind[row.question.kind].append(ok)
    tokens: Counter[str] = Counter()
    for answer in answers:
        tokens.update(answer.tokens)
    captions = [(row.scene, _section_text(a, "CAPTION")) for row, a in zip(rows, answers, strict=True)]
    reflections = [(row.scene, _section_text(a, "REFLECTION")) for row, a in zip(rows, answers, strict=True)]
    return {
        "n": len(rows),
        "accuracy": sum(right) / len(right),
        "interval": wilson_interval(sum(right), len(right)),
        "per_kind": {k: {"n": len(v), "accuracy": sum(v) / len(v)} for k, v in sorted(per_kind.items())},
        "well_formed": sum(a.parsed.well_formed for a in answers) / len(answers),
        "unanswered": sum(a.answer is None for a in answers),
        "caption": list_quality(captions),
        "reflection": list_quality(reflections),
        "reflections_per_answer": sum(not r.stray for a in answers for r in a.reflections) / len(answers),
        "tokens_per_answer": {kind: count / len(answers) for kind, count in tokens.items()},
    }


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


def mended(rows: Sequence[TabletopRow], answers: Sequence[Answer]) -> dict[str, Any]:
    """How many planted mistakes the last reflection mends, per kind of mistake, and the accuracy of the answers."""
    planted: Counter[str] = Counter()
    repaired: Counter[str] = Counter()
    right = 0
    for row, answer in zip(rows, answers, strict=True):
        text = _section_text(answer, "REFLECTION")
        for mistake in row.written.mistakes:
            planted[mistake.kind] += 1
            repaired[mistake.kind] += is_mended(mistake, row.scene, text)
        right += score(answer.answer or "", row.answer)
    total, done = sum(planted.values()), sum(repaired.values())
    return {
        "rows": len(rows),
        "mistakes": total,
        "mended": done,
        "share": done / total if total else None,
        "per_kind": {kind: repaired[kind] / planted[kind] for kind in sorted(planted)},
        "accuracy": right / len(rows) if rows else None,
    }


def is_mended(mistake: Mistake, scene: Scene, reflection: str) -> bool:
    """Whether a reflection says of the mistake's place what is true: the real object there, or nothing."""
    said = {place: (colour, shape) for place, colour, shape in LISTED.findall(reflection)}
    real = {thing.place: thing.pair for thing in scene.things}
    return bool(said) and said.get(mistake.place) == real.get(mistake.place)


def _section_text(answer: Answer, tag: str) -> str:
    section = answer.parsed.get(tag)
    return section.text if section else ""


def _decode(
    model: LookAgain,
    rows: Sequence[TabletopRow],
    prefixes: Sequence[str],
    config: EvalConfig,
    policy: Reattention,
    what: str,
) -> list[Answer]:
    """Answers in the order of `rows`; answers of similar length are decoded together."""
    sampling = Sampling(max_new_tokens=config.max_new_tokens)
    answers: dict[int, Answer] = {}
    order = sorted(range(len(rows)), key=lambda i: len(rows[i].written.text))
    with tqdm(total=len(rows), desc=what, unit="row") as progress:
        for start in range(0, len(order), config.batch):
            part = order[start : start + config.batch]
            requests = [_request(rows[i], prefixes[i], config, policy) for i in part]
            answers.update(zip(part, model.ask_batch(requests, reattention=policy, sampling=sampling), strict=True))
            progress.update(len(part))
    return [answers[i] for i in range(len(rows))]


def _request(row: TabletopRow, prefix: str, config: EvalConfig, policy: Reattention) -> Request:
    control = []
    if policy.control == "wrong-image":
        index = int(row.id.rsplit("-", 1)[1]) + OTHER_IMAGES
        control = [render(make_row(config.split, config.seed, index).scene)]
    return Request([render(row.scene)], row.prompt, control, prefix)
