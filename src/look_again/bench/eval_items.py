"""What `look-again bench eval` scores: items as loaders make them, without images, and replies of usual length.

Replies take turns: a right answer, a sentence around one, an answer that no rule can read. Their reasoning differs from
item to item, so that nothing is scored out of a cache.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from look_again.evaluation.benchmark import BenchmarkItem, DataLocation, ModelReply
from look_again.evaluation.benchmarks.chair_words import vocabulary
from look_again.evaluation.benchmarks.pope import KINDS
from look_again.evaluation.known_benchmarks import BENCHMARKS, benchmark
from look_again.tabletop.samples import make_sample
from look_again.tabletop.tabletop_benchmark import PLANTED_RATE
from look_again.text.grammar import TAGS, close_tag, open_tag, parse

CAPTION_WORDS = 100
SECTION_WORDS = 60  # of each section before CONCLUSION
FILLER = "the a in front of near beside on with large small red wooden standing there is are two".split()  # noqa: SIM905
FOUR = ["red", "a blue ball", "green", "none of them"]
TEN = [f"item {number}" for number in range(10)]

ORACLE = ("tabletop", "tabletop-planted")  # whose replies are the oracle's; others of Tabletop get the right answer

Asked = tuple[Any, dict[str, Any], Sequence[str]]
"""Reference, facts and conclusions to take turns."""

_LETTERS = ("B", "The answer is (C).", "I cannot tell.")
_YES_NO = ("Yes", "No, there is none.", "I cannot tell.")
_GROUPS = {
    "category": "logic",
    "l2_category": "counting",
    "subject": "Art",
    "discipline": "Art and Design",
    "level": "1",
}


def _letters(options: list[str]) -> Asked:
    return "B", {"options": options, "question_type": "multiple-choice"}, _LETTERS


def _mmmu(at: int) -> Asked:
    open_question: Asked = (["12", "twelve"], {"options": [], "question_type": "open"}, ("12", "It is 12 cm", "none"))
    return open_question if at % 6 == 5 else _letters(FOUR)


def _mathvision(at: int) -> Asked:
    kinds: tuple[Asked, ...] = (
        _letters(FOUR),
        ("6", {"options": []}, ("6", r"So we get \boxed{6}.", "I cannot tell.")),
        (r"2\sqrt{3}", {"options": []}, (r"$\sqrt{12}$", r"\boxed{2\sqrt{3}}", "I cannot tell.")),
    )
    return kinds[at % len(kinds)]


def _mmbench(at: int) -> Asked:
    reference, facts, conclusions = _letters(FOUR)
    return reference, facts | {"question": str(at // 4), "copy": at % 4, "copies": 4, "table": "V11"}, conclusions


def _mme(at: int) -> Asked:
    return ("yes", "no")[at % 2], {"subtask": "count", "image_id": f"count/{at // 2}.jpg"}, _YES_NO


def _mmhal(at: int) -> Asked:
    return "Two.", {"question_type": "counting", "image_content": ["Plant", "Sheep"]}, ("Two sheep.", "Three.", "")


ASKED: dict[str, Callable[[int], Asked]] = {
    "mmmu": _mmmu,
    "mmmu-pro": lambda at: _letters(TEN),
    "mmmu-pro-vision": lambda at: _letters(TEN),
    "mmbench": _mmbench,
    "mmstar": lambda at: _letters(FOUR),
    "mathvision": _mathvision,
    "pope": lambda at: (("yes", "no")[at % 2], {"category": KINDS[at % len(KINDS)]}, _YES_NO),
    "mme": _mme,
    "mmhal": _mmhal,
}


def made(name: str, n: int, seed: int = 0) -> tuple[list[BenchmarkItem], list[ModelReply]]:
    """n items of a benchmark (fewer of "tabletop-planted") and a reply to each. ValueError for an unknown name."""
    if name not in BENCHMARKS:
        benchmark(name)
    rng = random.Random(seed)
    if name in ORACLE:
        return _tabletop(name, n)
    if name.startswith("tabletop"):
        items = _load_stream(name, n)
        return items, [_reply(str(item.reference), rng) for item in items]
    if name == "chair":
        return captioned(n, rng)
    asked = [ASKED[name](at) for at in range(n)]
    items = [
        BenchmarkItem(id=str(at), prompt="What is it?", reference=reference, facts=_GROUPS | facts)
        for at, (reference, facts, _) in enumerate(asked)
    ]
    return items, [_reply(conclusions[at % len(conclusions)], rng) for at, (*_, conclusions) in enumerate(asked)]


def captioned(n: int, rng: random.Random) -> tuple[list[BenchmarkItem], list[ModelReply]]:
    """Images with two to four classes of objects, and captions of `CAPTION_WORDS` words, a tenth of them objects.

    Every other caption may also mention objects that are not there.
    """
    class_of = vocabulary().class_of
    classes = sorted(set(class_of.values()))
    items, replies = [], []
    for at in range(n):
        truth = rng.sample(classes, rng.randint(2, 4))
        named = [*truth, *rng.sample(classes, 2)] if at % 2 else truth
        words = [word for word, name in class_of.items() if name in named]
        items.append(BenchmarkItem(id=str(at), prompt="Describe it.", reference=truth))
        replies.append(ModelReply(_prose(rng, CAPTION_WORDS, words)))
    return items, replies


def _prose(rng: random.Random, words: int, objects: Sequence[str] = ()) -> str:
    """Sentences of about twelve words."""
    chosen = [rng.choice(objects) if objects and rng.random() < 0.1 else rng.choice(FILLER) for _ in range(words)]
    return ". ".join(" ".join(chosen[start : start + 12]) for start in range(0, words, 12)) + "."


def _reply(conclusion: str, rng: random.Random) -> ModelReply:
    """A whole response that ends in the CONCLUSION."""
    contents = {tag: _prose(rng, SECTION_WORDS) for tag in TAGS} | {"CONCLUSION": conclusion}
    return ModelReply("".join(f"{open_tag(tag)}{contents[tag]}{close_tag(tag)}" for tag in TAGS), conclusion)


def _load_stream(name: str, n: int) -> list[BenchmarkItem]:
    found = benchmark(name)
    items = found.load(DataLocation(path=found.hub, split="test", limit=n))
    return [item for item in items if isinstance(item, BenchmarkItem)]


def _tabletop(name: str, n: int) -> tuple[list[BenchmarkItem], list[ModelReply]]:
    """Rows of the stream, answered as its oracle answers them."""
    items, replies = _load_stream(name, n), []
    for item in items:
        row = make_sample("test", 0, int(item.id.rpartition("-")[2]), reflections=1, error_rate=PLANTED_RATE)
        replies.append(ModelReply(row.written.text, parse(row.written.text).conclusion))
    return items, replies
