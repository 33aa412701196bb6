"""MMHal-Bench: 96 questions that invite hallucination, each answer rated from 0 to 6 by a judge (Sun et al., 2023).

The paper has GPT-4o judge, by the benchmark's rubric. Here any endpoint judges, by a rubric of our own
(`assets/mmhal_judge.md`) with the same seven ratings, so that numbers compare within this project alone. As officially,
a rating below 3 is a hallucination, and a judge's reply must name exactly one rating. One that does not is asked for
again, and after `TRIES` replies the answer is unjudged: it is counted and listed, means take it for 0, as the official
script does, `judged_…` and comparisons leave it out. The strict score gives an empty answer 0, to which a judge may
well give 3.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from look_again.evaluation.benchmark import Benchmark, Item, ItemScore, Judge, Reply, Scores
from look_again.evaluation.benchmarks.image_folders import share
from look_again.evaluation.benchmarks.mmhal_files import HUB, QUESTION_TYPES, SPLITS, load

TRIES = 3
HALLUCINATED_BELOW = 3
REMINDER = 'Your last reply had no single rating. Give one, in a line of the form "Rating: N".'

Metrics = dict[str, float | int | None]

_RATING = re.compile(r"\brating[\s*_`\"']*[:=][\s*_`\[(\"']*([0-6])(?![0-9]|\.[0-9])", re.IGNORECASE)
_FIELD = re.compile(r"\{\{(\w+)\}\}")


@dataclass(frozen=True)
class Verdict:
    """What the judge made of an answer. rating: None where no reply named one. said: its last reply, or its failure."""

    rating: int | None
    said: str
    tries: int


@cache
def rubric() -> str:
    """The judge's instructions, with fields `{{contents}}`, `{{question}}`, `{{reference}}` and `{{answer}}`."""
    return (files("look_again") / "assets" / "mmhal_judge.md").read_text(encoding="utf-8").strip()


def judge_prompt(item: Item, answer: str) -> str:
    """The rubric about one answer. Braces in the answer stay what they are."""
    fields = {
        "contents": ", ".join(item.facts["image_content"]),
        "question": item.prompt,
        "reference": item.reference,
        "answer": answer.strip(),
    }
    return _FIELD.sub(lambda field: fields[field[1]], rubric())


def read_rating(reply: str) -> int | None:
    """The one rating from 0 to 6 that a judge's reply names; None for none and for several different ones.

    Example: "Two dogs are invented.\\nRating: 2" is 2; "Rating: 3 or Rating: 4" and "Rating: 10" are None.
    """
    ratings = set(_RATING.findall(reply))
    return int(ratings.pop()) if len(ratings) == 1 else None


def ask(judge: Judge, prompt: str) -> Verdict:
    """The judge's verdict; asked up to `TRIES` times for a rating, from the second on with a reminder of the form.

    A judge that gives no reply at all (OSError, TimeoutError) has tried long enough itself and is not asked again.
    """
    said = ""
    for attempt in range(1, TRIES + 1):
        try:
            said = judge(prompt if attempt == 1 else f"{prompt}\n\n{REMINDER}")
        except OSError as error:
            return Verdict(None, f"no reply: {error}", attempt)
        if (rating := read_rating(said)) is not None:
            return Verdict(rating, said, attempt)
    return Verdict(None, said, TRIES)


def score(items: Sequence[Item], replies: Sequence[Reply], judge: Judge | None) -> Scores:
    """Mean ratings and hallucination rates, and the same per type of question. ValueError without a judge."""
    if judge is None:
        raise ValueError("mmhal is scored by a judge: name an endpoint that judges")
    scores = [
        _item_score(ask(judge, judge_prompt(item, reply.final)), reply.final)
        for item, reply in zip(items, replies, strict=True)
    ]
    kinds = [item.facts["question_type"] for item in items]
    groups = {kind: [one for one, its in zip(scores, kinds, strict=True) if its == kind] for kind in QUESTION_TYPES}
    return Scores(
        items=scores,
        metrics=summarise(scores),
        subsets={f"question_type/{kind}": summarise(group) for kind, group in groups.items() if group},
        notes=_notes(),
    )


def summarise(scores: Sequence[ItemScore]) -> Metrics:
    """Mean ratings from 0 to 6 and shares of hallucinated answers; None of no answers, and where none was judged."""
    judged = [one for one in scores if one.facts["rating"] is not None]
    official = [one.official or 0.0 for one in scores] if judged else []
    strict = [one.strict or 0.0 for one in scores] if judged else []
    ratings = [one.official or 0.0 for one in judged]
    rows = {"": official, "strict_": strict, "judged_": ratings}
    metrics: Metrics = {}
    for name, values in rows.items():
        metrics[f"{name}score"] = share(sum(values), len(values))
        metrics[f"{name}hallucination_rate"] = share(sum(v < HALLUCINATED_BELOW for v in values), len(values))
    counts = {"unjudged": len(scores) - len(judged), "unparsed": sum(one.unparsed for one in scores)}
    return metrics | counts | {"items": len(scores)}


def _item_score(verdict: Verdict, answer: str) -> ItemScore:
    rating, empty = verdict.rating, not answer.strip()
    return ItemScore(
        official=None if rating is None else float(rating),
        strict=None if rating is None else 0.0 if empty else float(rating),
        extracted=rating,
        unparsed=empty,
        unjudged=verdict.said if rating is None else None,
        facts={
            "rating": rating,
            "hallucinated": None if rating is None else int(rating < HALLUCINATED_BELOW),
            "judge_said": verdict.said,
            "judge_tries": verdict.tries,
        },
    )


def _notes() -> Mapping[str, str]:
    digest = hashlib.sha256(rubric().encode()).hexdigest()[:12]
    return {
        "judge": f"by LookAgain's assets/mmhal_judge.md, version {digest}; asked up to {TRIES} times for a rating",
        "official": f"an answer without a rating is 0; a rating below {HALLUCINATED_BELOW} is a hallucination",
        "unjudged": "an answer without a rating is left out of judged_… and of comparisons",
        "strict": "an empty answer is 0 and a hallucination, whatever the judge says",
    }


MMHAL = Benchmark(
    name="mmhal",
    hub=HUB,
    splits=SPLITS,
    load=load,
    score=score,
    primary="score",
    paired="rating",
    needs_judge=True,
)
