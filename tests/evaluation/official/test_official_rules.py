"""The official readings of 6,000 generated replies per benchmark, against what the benchmarks' own code read in them.

`replies` draws the replies, `record` wrote the readings down. A rule is compared with one version of one file, which
the record names. Where a rule cannot be the same, the kind of reply is named here and in `docs/evaluation.md`.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from look_again.evaluation.benchmarks import choices, mathv_rule, mme, mmmu_pro, mmstar, open_answers, pope
from look_again.evaluation.benchmarks.chair_words import read_caption
from tests.evaluation.official.replies import OPEN_ANSWERS, OPTIONS, REPLIES, TEN_OPTIONS, digest, summary


def recorded(name: str) -> tuple[list[Any], Any]:
    """The replies, and the readings that were recorded of them."""
    record = json.loads((Path(__file__).parent / f"{name}.json").read_text(encoding="utf-8"))
    replies = REPLIES[name]()
    assert (record["replies"], record["sha256"]) == (len(replies), digest(replies)), "other replies than those recorded"
    return replies, record["readings"]


RULES: dict[str, Callable[[str], str | None]] = {
    "mmmu": lambda reply: choices.mmmu_letter(reply, OPTIONS),
    "lmms_mmmu": lambda reply: choices.lmms_letter(reply, OPTIONS),
    "mmmu_pro": lambda reply: mmmu_pro.mmmu_pro_letter(reply, TEN_OPTIONS),
    "mmbench_2026_02": lambda reply: choices.matched_letter(reply, OPTIONS),
    "mmbench_2026_06": lambda reply: choices.matched_letter(reply, OPTIONS, verbose=True),
    "mmstar": lambda reply: mmstar.mmstar_letter(reply, OPTIONS),
    "pope": lambda reply: pope.official_reading(reply)[0],
    "mme": lambda reply: (mme.official_reading(reply) or ".")[0],
}


def differences(replies: list[Any], ours: list[Any], theirs: Any) -> dict[str, tuple[Any, Any]]:
    return {
        str(reply): (here, there) for reply, here, there in zip(replies, ours, theirs, strict=True) if here != there
    }


@pytest.mark.parametrize("name", RULES)
def test_readings_are_the_official_ones(name: str) -> None:
    """A part of a rule that is missing, out of order, or of another version."""
    replies, theirs = recorded(name)
    ours = [RULES[name](reply) or "." for reply in replies]
    assert differences(replies, ours, theirs) == {}
    assert sum(reading != theirs[0] for reading in theirs) > 500


def test_open_answers_are_judged_as_by_mmmu() -> None:
    replies, theirs = recorded("mmmu_open")
    ours = [int("".join(str(int(open_answers.mmmu_open(r, [a]))) for a in OPEN_ANSWERS), 2) for r in replies]
    assert differences(replies, ours, theirs) == {}
    assert len(set(theirs)) > 20


def test_the_two_versions_of_mmbenchs_rule_differ() -> None:
    """One version recorded twice."""
    _, before = recorded("mmbench_2026_02")
    _, since = recorded("mmbench_2026_06")
    assert sum(a != b for a, b in zip(before, since, strict=True)) > 100


@pytest.mark.skipif(importlib.util.find_spec("math_verify") is None, reason="math-verify is not installed")
def test_mathvision_is_judged_as_by_math_v() -> None:
    rows, theirs = recorded("mathvision")
    ours = []
    for reply, answer, options in rows:
        targets = [answer, options["ABCDE".index(answer)]] if options else [answer]
        ours.append(str(int(mathv_rule.mathv_right(mathv_rule.mathv_answer(reply), targets))))
    assert differences(rows, ours, theirs) == {}
    assert theirs.count("1") > 200


def test_captions_are_read_as_by_chair() -> None:
    """ "couch/sofa" taken for two mentions, a pair of words cut in two, a mention counted once."""
    replies, theirs = recorded("chair")
    ours = [summary(read_caption(reply).objects) for reply in replies]
    assert differences(replies, ours, [theirs[at : at + 4] for at in range(0, len(theirs), 4)]) == {}
    assert len(set(ours)) > 3_000
