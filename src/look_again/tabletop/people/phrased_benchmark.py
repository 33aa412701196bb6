"""Tabletop as people ask it, as a benchmark: the same questions in every form, so that forms can be compared.

Each question is asked as the rows have it, in lower case, without its request for a length, reworded, and in wordings
that training never shows; beside them stand further questions, unknown ones, and foreign images, where the right answer
is not to know. The location is a stream as in `tabletop`: "seed=N".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from look_again.evaluation.benchmark import Benchmark, BenchmarkItem, DataLocation, ItemScore, Judge, ModelReply, Scores
from look_again.evaluation.benchmarks.choices import accuracies, by_group
from look_again.scoring.extraction import answer_kind, extract, score
from look_again.tabletop.people.phrased_samples import FORMS, make_phrased
from look_again.tabletop.tabletop_benchmark import SPLITS, parse_stream
from look_again.text.grammar import TAG_TOKENS

DEFAULT_ITEMS = 60 * len(FORMS)
REFUSAL = "i do not know"


def load_phrased(location: DataLocation) -> Iterator[BenchmarkItem]:
    """Items in the order of questions, each in all forms; 60 questions unless `location.limit` says otherwise."""
    seed, length = parse_stream(location.path)
    if length is not None:
        raise ValueError(
            f"questions as people ask them have lengths of their own: 'seed={seed}', not {location.path!r}"
        )
    forms = list(FORMS)
    for number in range(DEFAULT_ITEMS if location.limit is None else location.limit):
        index, form = divmod(number, len(forms))
        row = make_phrased(location.split, seed, index, {forms[form]: 1.0})
        facts = {"form": row.form, "kind": row.kind}
        yield BenchmarkItem(id=row.id, images=(row.image,), prompt=row.prompt, reference=row.answer, facts=facts)


def score_phrased(items: Sequence[BenchmarkItem], replies: Sequence[ModelReply], judge: Judge | None = None) -> Scores:
    """Exact answers by form and by kind; not to know is right where nothing can be known, and wrong elsewhere."""
    scores = [_score(item, reply) for item, reply in zip(items, replies, strict=True)]
    return Scores(
        items=scores,
        metrics=accuracies(scores),
        subsets=by_group(items, scores, ("form", "kind")),
        notes={
            "answers": "look_again.scoring.extraction over CONCLUSION; the whole text of a model that writes no tags",
            "unknown": 'right if the answer begins with "I do not know"',
        },
    )


def _score(item: BenchmarkItem, reply: ModelReply) -> ItemScore:
    tagged = any(tag in reply.text for tag in TAG_TOKENS)
    answer = "" if tagged and reply.conclusion is None else reply.final
    refuses = answer.strip().lower().startswith(REFUSAL)
    kind = item.facts["kind"]
    if kind == "unknown":
        right, read = float(refuses), answer or None
    elif kind in ("list", "object"):
        right, read = float(_words(answer) == _words(item.reference)), answer or None
    else:
        right = 0.0 if refuses else float(score(answer, item.reference))
        read = extract(answer, answer_kind(item.reference)) if answer else None
    return ItemScore(official=right, strict=right, extracted=read, unparsed=read is None)


def _words(text: str) -> list[str]:
    """The objects of a list, in any order."""
    return sorted(" ".join(part.split()) for part in text.lower().rstrip(".").split(","))


TABLETOP_PHRASED = Benchmark(
    name="tabletop-phrased",
    hub="seed=0",
    splits=SPLITS,
    load=load_phrased,
    score=score_phrased,
    primary="accuracy",
    paired="strict",
    max_new_tokens=512,
)
