"""Yes or no: references and answers of the benchmarks that ask for nothing else."""

from __future__ import annotations

from look_again.data.fields import short
from look_again.data.sample import SampleError
from look_again.evaluation.benchmark import ItemScore
from look_again.scoring.extraction import extract


def yes_or_no(value: object, row_id: str, field: str) -> str:
    """A reference answer as "yes" or "no"; SampleError for anything else."""
    answer = value.strip().rstrip(".").lower() if isinstance(value, str) else ""
    if answer not in ("yes", "no"):
        raise SampleError(row_id, f"{field} is {short(value)}: yes or no is needed")
    return answer


def yes_no_score(reference: str, text: str, official: str | None) -> ItemScore:
    """A yes or no question's answer by our scorer, and `official` as the benchmark's own rule reads it."""
    found = extract(text, "yesno")
    return ItemScore(
        official=float(official == reference),
        strict=float(found == reference),
        extracted=found,
        unparsed=found is None,
        facts={"official_answer": official},
    )
