"""Differences of metrics that are no mean: what they are of, and that their intervals are of the metric itself."""

from __future__ import annotations

import random

import pytest

from look_again.evaluation.benchmark import BenchmarkItem, ModelReply
from look_again.evaluation.benchmarks import chair, mme, pope
from look_again.evaluation.metric_differences import METRICS, metric_differences, metric_value
from look_again.evaluation.run import item_line
from look_again.evaluation.subjects import Output

WORDS = ("cat", "dog", "bicycle", "car", "person")


def lines(items, scores):
    """As a run's result.json holds them."""
    return [item_line(item, Output(), score) for item, score in zip(items, scores.items, strict=True)]


def pope_run(n, seed, wrong):
    draw = random.Random(seed)
    items = [
        BenchmarkItem(
            id=str(i),
            prompt="?",
            reference="yes" if i % 2 else "no",
            facts={"category": ("random", "popular", "adversarial")[i % 3]},
        )
        for i in range(n)
    ]
    said = [{"yes": "no", "no": "yes"}[item.reference] if draw.random() < wrong else item.reference for item in items]
    return items, pope.score(items, [ModelReply(one) for one in said])


def mme_run(n, seed, wrong):
    draw = random.Random(seed)
    items = [
        BenchmarkItem(
            id=f"{subtask}{i}",
            prompt="?",
            reference="yes" if i % 2 else "no",
            facts={"subtask": subtask, "image_id": f"{subtask}/{i // 2}"},
        )
        for subtask in ("count", "OCR", "code_reasoning")
        for i in range(n + (subtask == "OCR"))  # one picture of OCR has one question
    ]
    said = [{"yes": "No", "no": "Yes"}[item.reference] if draw.random() < wrong else item.reference for item in items]
    return items, mme.score(items, [ModelReply(one) for one in said])


def chair_run(n, seed, wrong):
    draw = random.Random(seed)
    items = [BenchmarkItem(id=str(i), prompt="?", reference=sorted(draw.sample(WORDS, 2))) for i in range(n)]
    draw = random.Random(seed + wrong)
    said = [" ".join(f"A {word}." for word in draw.sample(WORDS, draw.randint(0, 3))) for _ in items]
    return items, chair.score(items, [ModelReply(one) for one in said])


@pytest.mark.parametrize(("benchmark", "run"), [("pope", pope_run), ("mme", mme_run), ("chair", chair_run)])
def test_a_metric_is_the_one_that_the_run_reports(benchmark, run):
    """Would catch an interval about another number than the one beside it."""
    items, scores = run(60, 1, 0.3)
    made = {name: metric_value(metric, lines(items, scores)) for name, metric in METRICS[benchmark].items()}
    assert made == {name: pytest.approx(scores.metrics[name]) for name in made}


def test_the_same_answers_do_not_differ():
    one = lines(*pope_run(30, 0, 0.2))
    made = metric_differences("pope", one, one[::-1])["f1"]
    assert (made["difference"], made["interval"], made["units"]) == (0.0, [0.0, 0.0], 30)


def test_f1_by_hand():
    """Half of 20 yes are said: F1 is 2 x 10 / (20 + 10) against 1. Of two questions there is no interval."""
    items = [BenchmarkItem(id=str(i), prompt="?", reference="yes", facts={"category": "random"}) for i in range(20)]
    half, all_of_them = (
        lines(items, pope.score(items, [ModelReply(word) for word in said]))
        for said in (["yes", "no"] * 10, ["yes"] * 20)
    )
    made = metric_differences("pope", half, all_of_them)["f1"]
    assert (made["base"], made["other"], made["difference"]) == (pytest.approx(2 / 3), 1, pytest.approx(1 / 3))
    low, high = made["interval"]
    assert (low, high) == (pytest.approx(0.18, abs=0.05), pytest.approx(0.54, abs=0.05))
    few = metric_differences("pope", half[:2], all_of_them[:2])["f1"]
    assert (few["difference"], few["interval"]) == (pytest.approx(1 / 3), None)


def test_an_interval_holds_what_other_draws_of_the_questions_give():
    """Coverage, roughly: the true difference of F1, from many questions, lies in most intervals of few."""
    true = metric_differences("pope", lines(*pope_run(20_000, 1, 0.3)), lines(*pope_run(20_000, 2, 0.1)))["f1"]
    inside = 0
    for seed in range(20):
        made = metric_differences("pope", lines(*pope_run(120, seed, 0.3)), lines(*pope_run(120, 99 + seed, 0.1)))["f1"]
        low, high = made["interval"]
        inside += low <= true["difference"] <= high
    assert inside >= 16


def test_images_are_drawn_whole():
    """Both questions of an image move together: drawn apart, accuracy+ would not exist for most draws."""
    made = metric_differences("mme", lines(*mme_run(20, 1, 0.4)), lines(*mme_run(20, 2, 0.1)))
    assert made["total"]["units"] == 10 + 11 + 10
    assert made["total"]["interval"] is not None
    assert made["perception"]["difference"] + made["cognition"]["difference"] == pytest.approx(
        made["total"]["difference"]
    )


def test_what_was_not_asked_is_in_neither():
    base, other = lines(*pope_run(30, 0, 0.2)), lines(*pope_run(30, 1, 0.2))
    lacking = [{**other[0], "official": None, "score_facts": {}}, *other[1:]]
    assert metric_differences("pope", base, lacking) == metric_differences("pope", base[1:], other[1:])


def test_undefined_metrics_and_other_benchmarks_have_none():
    items = [BenchmarkItem(id="a", prompt="?", reference=["cat"])]
    silent = lines(items, chair.score(items, [ModelReply("")]))
    assert set(metric_differences("chair", silent, silent)) == {"recall"}
    assert metric_differences("mmstar", silent, silent) == {}
