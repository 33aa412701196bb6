"""POPE and MME against lmms-eval's scorers: equal on plain answers, and each difference in rules by example.

POPE. lmms-eval takes the whole reply for the answer, "yes" or "no" in any case, and everything else is wrong; POPE's
own rule, ours, reads the first sentence. It pools the three splits, the paper and we take the mean. Its yes ratio
counts the ground truth. MME. lmms-eval drops full stops and knows "y" and "n", MME's own script does not; it asserts
that every picture has two questions, where we count those that have one.
"""

from __future__ import annotations

from itertools import product

import pytest
from lmms_eval.tasks.mme.utils import mme_aggregate_results, mme_process_results, parse_pred_ans
from lmms_eval.tasks.pope import utils as pope

from look_again.evaluation.benchmark import BenchmarkItem, ModelReply
from look_again.evaluation.benchmarks.mme import official_reading as mme_reading
from look_again.evaluation.benchmarks.mme import score as mme_score
from look_again.evaluation.benchmarks.pope import KINDS
from look_again.evaluation.benchmarks.pope import official_reading as pope_reading
from look_again.evaluation.benchmarks.pope import score as pope_score

SHARES = {"accuracy": "accuracy", "precision": "precision", "recall": "recall", "f1": "f1_score"}

Row = tuple[str, str, str]
"""Group, reference, reply."""


def pope_theirs(rows: list[Row]) -> dict[str, float]:
    docs = [({"question_id": str(at), "answer": reference}, [reply]) for at, (_, reference, reply) in enumerate(rows)]
    processed = [pope.pope_process_results(*doc)["pope_accuracy"] for doc in docs]
    names = (*SHARES.values(), "yes_ratio")
    return {name: getattr(pope, f"pope_aggregate_{name}")(processed) for name in names}


def pope_ours(rows: list[Row]) -> dict[str, dict[str, float | int | None]]:
    """Of the means ("mean"), and of each split."""
    items = [
        BenchmarkItem(id=str(at), prompt="?", reference=reference, facts={"category": kind})
        for at, (kind, reference, _) in enumerate(rows)
    ]
    found = pope_score(items, [ModelReply(reply) for *_, reply in rows])
    return {"mean": dict(found.metrics)} | {name.partition("/")[2]: dict(part) for name, part in found.subsets.items()}


POPE_ROWS: list[Row] = [
    (kind, ("yes", "no")[at % 2], reply)
    for kind, replies in zip(
        KINDS,
        (["Yes", "No", "Yes", "Yes", "no", "no"], ["yes", "no", "Yes", "No", "yes", "no"], ["Yes"] * 6),
        strict=True,
    )
    for at, reply in enumerate(replies)
]


@pytest.mark.parametrize("kind", KINDS)
def test_pope_is_equal_on_plain_answers(kind: str) -> None:
    rows = [row for row in POPE_ROWS if row[0] == kind]
    ours, theirs = pope_ours(rows)[kind], pope_theirs(rows)
    assert {name: ours[name] for name in SHARES} == pytest.approx({name: theirs[SHARES[name]] for name in SHARES})


def test_pope_means_and_pooled_shares() -> None:
    """Splits of one size have the mean accuracy of the pooled answers; F1 is no mean, so pooling gives another."""
    ours, theirs = pope_ours(POPE_ROWS)["mean"], pope_theirs(POPE_ROWS)
    assert ours["accuracy"] == pytest.approx(theirs["accuracy"])
    assert ours["f1"] != pytest.approx(theirs["f1_score"])


def test_a_model_that_never_says_yes_has_no_precision_here_and_0_there() -> None:
    rows: list[Row] = [("random", "yes", "No"), ("random", "no", "No")]
    assert pope_theirs(rows)["precision"] == 0
    assert pope_ours(rows)["random"]["precision"] is None


def test_popes_yes_ratio_there_is_that_of_the_references() -> None:
    rows: list[Row] = [("random", "yes", "Yes"), ("random", "no", "Yes")]
    assert pope_theirs(rows)["yes_ratio"] == 0.5
    assert pope_ours(rows)["random"]["yes_ratio"] == 1


@pytest.mark.parametrize(
    ("reply", "ours", "theirs"),
    [
        ("Yes.", "yes", None),  # any full stop is wrong there
        ("No, there is no dog.", "no", None),
        ("The answer is no", "no", None),
        ("NO", "yes", "no"),  # POPE's words are "No", "no" and "not"
        ("", "yes", None),
    ],
)
def test_how_pope_differs(reply: str, ours: str, theirs: str | None) -> None:
    right = [pope_theirs([("random", reference, reply)])["accuracy"] == 1 for reference in ("yes", "no")]
    assert right == [theirs == "yes", theirs == "no"]
    assert pope_reading(reply) == ours


MME_REPLIES = [
    "Yes",
    "no",
    "YES.",
    "No, it is not.",
    "Yes, it is.",
    "Not sure",
    "None",
    "I know",
    "It is.",
    "",
    "**Yes**",
]


@pytest.mark.parametrize("reply", [*MME_REPLIES, "'Yes'", " no", "yes\n", "The answer is yes", "Nothing", "ye s"])
def test_mme_reads_the_same(reply: str) -> None:
    assert (mme_reading(reply) or "other") == parse_pred_ans(reply)


@pytest.mark.parametrize(
    ("reply", "ours", "theirs"), [("n", None, "no"), ("Y", None, "yes"), ("...Yes", None, "yes"), ("N.o", None, "no")]
)
def test_how_mme_differs(reply: str, ours: str | None, theirs: str) -> None:
    assert (mme_reading(reply), parse_pred_ans(reply)) == (ours, theirs)


def mme_theirs(rows: list[tuple[str, str, str, str]]) -> dict[str, float]:
    found: dict[str, list[dict]] = {"mme_perception_score": [], "mme_cognition_score": []}
    for subtask, image, reference, reply in rows:
        doc = {"question_id": f"{subtask}/{image}", "answer": reference, "category": subtask}
        for name, value in mme_process_results(doc, [reply]).items():
            found[name].append(value)
    return {name: mme_aggregate_results(values) for name, values in found.items()}


def mme_ours(rows: list[tuple[str, str, str, str]]) -> dict[str, float | int | None]:
    items = [
        BenchmarkItem(
            id=str(at), prompt="?", reference=reference.lower(), facts={"subtask": subtask, "image_id": image}
        )
        for at, (subtask, image, reference, _) in enumerate(rows)
    ]
    return dict(mme_score(items, [ModelReply(reply) for *_, reply in rows]).metrics)


def test_mme_sums_are_equal() -> None:
    """Every pair of the replies above as the two answers to one image, over four subtasks."""
    subtasks = ("existence", "OCR", "code_reasoning", "text_translation")
    rows = []
    for at, pair in enumerate(product(MME_REPLIES, repeat=2)):
        subtask = subtasks[at % len(subtasks)]
        rows += [(subtask, str(at), ref, reply) for ref, reply in zip(("Yes", "No"), pair, strict=True)]
    ours, theirs = mme_ours(rows), mme_theirs(rows)
    assert ours["perception"] == pytest.approx(theirs["mme_perception_score"])
    assert ours["cognition"] == pytest.approx(theirs["mme_cognition_score"])
    assert ours["total"] == pytest.approx(sum(theirs.values()))


def test_an_mme_image_with_one_question() -> None:
    rows = [("count", "1", "Yes", "Yes")]
    with pytest.raises(AssertionError, match="pairwise"):
        mme_theirs(rows)
    assert mme_ours(rows)["incomplete_pairs"] == 1
