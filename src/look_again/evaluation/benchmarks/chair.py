"""CHAIR: which objects of a description are not in the image, and how many of those that are it finds.

CHAIR_i is the share of object mentions that are hallucinated, CHAIR_s the share of captions with at least one, recall
the share of true objects that are mentioned; all are sums over the set, as in Rohrbach et al. (EMNLP 2018) and later
copies. True are the annotated instances and whatever the reference captions mention.

The paper scores CONCLUSION alone and leaves open what happens without one, and longer texts hallucinate more; so every
number stands here twice, for the CONCLUSION (else the whole text) and, as `whole_…`, for all that was said, each beside
its length. The official CHAIR_s counts an empty caption as free of hallucination, the strict one as a failure.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from look_again.evaluation.benchmark import Benchmark, Item, ItemScore, Judge, Reply, Scores
from look_again.evaluation.benchmarks.chair_files import HUB, SPLITS, load, size_group
from look_again.evaluation.benchmarks.chair_words import NORMALISER, read_caption
from look_again.evaluation.benchmarks.image_folders import share
from look_again.text.grammar import TAG_TOKENS, split_at_tags

NOTES = {
    "normaliser": NORMALISER,
    "scored": "chair_i, chair_s, recall: the CONCLUSION, or all of an answer without one; whole_…: all of every answer",
    "truth": "annotated instances and objects mentioned in the reference captions",
    "strict": "strict_chair_s counts an empty caption as a failure; officially it is free of hallucination",
}
_BETWEEN_SECTIONS = "\n|\n"  # a mark that keeps the words of two sections apart


@dataclass(frozen=True)
class Judged:
    """One caption against its image. mentions, hallucinated: classes in order, with repeats. found, true: counts."""

    words: int
    mentions: tuple[str, ...]
    hallucinated: tuple[str, ...]
    found: int
    true: int

    def facts(self) -> dict[str, object]:
        return {
            "words": self.words,
            "mentions": list(self.mentions),
            "hallucinations": list(self.hallucinated),
            "hallucinated": int(bool(self.hallucinated)),
            "found": self.found,
            "true": self.true,
        }


def judge_caption(text: str, truth: Sequence[str]) -> Judged:
    """What `text` says, against the classes that are in the image; tags of the response format are not read."""
    if "<" in text:
        text = _BETWEEN_SECTIONS.join(part for part in split_at_tags(text) if part not in TAG_TOKENS)
    caption = read_caption(text)
    real = set(truth)
    hallucinated = tuple(name for name in caption.objects if name not in real)
    return Judged(caption.words, caption.objects, hallucinated, len(real.intersection(caption.objects)), len(real))


def summarise(captions: Sequence[Judged]) -> dict[str, float | int | None]:
    """Metrics of a set, shares from 0 to 1; None where nothing was mentioned, true, or said at all."""
    n = len(captions)
    empty = sum(not caption.words for caption in captions)
    wrong = sum(bool(caption.hallucinated) for caption in captions)
    return {
        "chair_s": share(wrong, n),
        "chair_i": share(sum(len(c.hallucinated) for c in captions), sum(len(c.mentions) for c in captions)),
        "recall": share(sum(c.found for c in captions), sum(c.true for c in captions)),
        "words": share(sum(c.words for c in captions), n),
        "strict_chair_s": share(wrong + empty, n),
        "empty": empty,
        "without_objects": sum(not c.mentions for c in captions) - empty,
    }


def score(items: Sequence[Item], replies: Sequence[Reply], judge: Judge | None = None) -> Scores:
    """CHAIR of the replies; subsets by how many classes the image holds.

    An item's points are 1 for a caption without hallucination; `hallucinated` in its facts is the 0 or 1 of CHAIR_s.
    """
    finals = [judge_caption(r.final, item.reference) for item, r in zip(items, replies, strict=True)]
    wholes = [
        final if reply.text == reply.final else judge_caption(reply.text, item.reference)
        for item, reply, final in zip(items, replies, finals, strict=True)
    ]
    groups: dict[str, list[Judged]] = defaultdict(list)
    for item, final in zip(items, finals, strict=True):
        groups[f"objects/{size_group(item.reference)}"].append(final)
    metrics = summarise(finals) | {f"whole_{name}": value for name, value in summarise(wholes).items()}
    return Scores(
        items=[_item_score(final, whole) for final, whole in zip(finals, wholes, strict=True)],
        metrics=metrics | {"items": len(items), "without_conclusion": sum(r.conclusion is None for r in replies)},
        subsets={group: _with_count(captions) for group, captions in sorted(groups.items())},
        notes=NOTES,
    )


def _with_count(captions: Sequence[Judged]) -> Mapping[str, float | int | None]:
    return summarise(captions) | {"items": len(captions)}


def _item_score(final: Judged, whole: Judged) -> ItemScore:
    clean = not final.hallucinated
    return ItemScore(
        official=float(clean),
        strict=float(clean and final.words > 0),
        extracted=sorted(set(final.mentions)),
        unparsed=not final.words,
        facts=final.facts() | {f"whole_{name}": value for name, value in whole.facts().items()},
    )


CHAIR = Benchmark(
    name="chair", hub=HUB, splits=SPLITS, load=load, score=score, primary="chair_s", paired="hallucinated"
)
