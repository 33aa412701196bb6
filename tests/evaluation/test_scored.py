"""Items that could not be asked, and answers that no judge rated: nobody's points, in no pair, and told of."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from look_again.commands.main import main
from look_again.evaluation.benchmark import BenchmarkItem, DataLocation, Scores
from look_again.evaluation.benchmarks.chair import CHAIR
from look_again.evaluation.benchmarks.mmhal import MMHAL
from look_again.evaluation.benchmarks.pope import POPE
from look_again.evaluation.known_benchmarks import BENCHMARKS, benchmark
from look_again.evaluation.scored import list_warnings, nothing_scored, score_run
from look_again.evaluation.subjects import Output
from tests.evaluation.small_endpoint import answering
from tests.evaluation.test_all_benchmarks_end_to_end import CASES

REFUSED = Output(error="refused")


def asked(references: list[Any], **facts: Any) -> list[BenchmarkItem]:
    return [BenchmarkItem(id=str(i), prompt=f"{i}?", reference=r, facts=facts) for i, r in enumerate(references)]


def test_pope_by_hand(tmp_path: Path) -> None:
    """Silence is an official yes: without the error 3 of 4 would be right, F1 0.8."""
    items = asked(["yes", "yes", "no", "no"], category="random")
    outputs = [Output(text="Yes"), REFUSED, Output(text="No"), Output(text="Yes")]
    found = score_run(POPE, items, outputs, None, tmp_path / "judge.jsonl")
    assert found.metrics["accuracy"] == found.subsets["category/random"]["accuracy"] == 2 / 3
    assert found.metrics["f1"] == 2 / 3  # 1 right yes, 1 true yes, 2 said
    assert found.metrics["strict_accuracy"] == 2 / 4
    assert found.metrics["strict_f1"] == 2 / 4  # the one that was not asked counts as no
    assert [one.official for one in found.items] == [1, None, 1, 0]
    assert [one.strict for one in found.items] == [1, None, 1, 0]
    assert found.subsets["category/random"]["items"] == 3
    assert "strict ones count them as wrong" in found.notes["errors"]


def test_chair_by_hand(tmp_path: Path) -> None:
    """Saying nothing is free of hallucination: half of the captions refused would halve chair_s."""
    outputs = [Output(text="A dog and a cat."), REFUSED]
    found = score_run(CHAIR, asked([["dog"]] * 2), outputs, None, tmp_path / "judge.jsonl")
    assert found.metrics["chair_s"] == 1
    assert found.metrics["strict_chair_s"] == found.metrics["whole_strict_chair_s"] == 1
    assert [one.facts["hallucinated"] for one in found.items] == [1, None]


def test_nobody_judges_an_answer_that_is_not_there(tmp_path: Path) -> None:
    """Would catch a judge that is paid for an error, or asked twice about the answers: 6 of 1, strictly of 2."""
    prompts: list[str] = []

    def judge(prompt: str) -> str:
        prompts.append(prompt)
        return "Rating: 6"

    items = asked(["Two."] * 2, question_type="counting", image_content=[])
    found = score_run(MMHAL, items, [Output(text="Two"), REFUSED], judge, tmp_path / "judge.jsonl")
    assert len(prompts) == 1
    assert (found.metrics["score"], found.metrics["strict_score"]) == (6, 3)
    assert [one.facts["rating"] for one in found.items] == [6, None]
    assert [one.unjudged for one in found.items] == [None, None]  # it is an error, not a judge's failure


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_of_which_nothing_was_asked_has_no_official_score(name: str, tmp_path: Path) -> None:
    """Would catch points for an endpoint that refuses everything, and a scorer that divides by no items."""
    case, found = CASES[name], benchmark(name)
    if case.write is not None:
        case.write(tmp_path / "data")
    split = case.arguments[1] if "--split" in case.arguments else found.splits[0]
    location = DataLocation(path=str(tmp_path / "data") if case.write else found.hub, split=split, limit=4)
    items = [item for item in found.load(location) if isinstance(item, BenchmarkItem)]

    def scores(outputs: list[Output]) -> Scores:
        return score_run(found, items, outputs, lambda prompt: "Rating: 3", tmp_path / "judge.jsonl")

    none = scores([REFUSED] * len(items))
    assert found.primary in none.metrics
    assert {value for key, value in none.metrics.items() if "strict" not in key} == {None}
    for made in (none, scores([REFUSED, *[Output(text="A yes")] * (len(items) - 1)])):
        first = made.items[0]
        assert (first.official, first.strict, set(first.facts.values())) in ((None, None, {None}), (None, None, set()))
        assert found.paired in ("official", "strict", *first.facts)
        assert set(made.metrics) == set(none.metrics)
    json.dumps([dict(part) for part in (none.metrics, *none.subsets.values())], allow_nan=False)


def run_of(errors: list[str], unjudged: list[str]) -> dict[str, Any]:
    lists = {"errors": errors, "unjudged": unjudged}
    lines = {name: [{"id": id, "reason": "why"} for id in ids] for name, ids in lists.items()}
    return {"benchmark": "fake", "counts": {"items": 3}, "lists": lines}


def test_what_is_missing_is_told() -> None:
    assert list_warnings(run_of([], [])) == []
    first, second = list_warnings(run_of(["b", "c"], ["a"]))
    assert first.startswith("2 of 3 items of fake could not be asked")
    assert first.endswith("(the first, b: why)")
    assert second.startswith("1 of 3 items of fake were not judged")
    assert nothing_scored(run_of(["b", "c"], ["a"]))
    assert not nothing_scored(run_of(["b", "c"], []))


# --- the command


def grumpy(body: Any) -> str:
    """Refuses images, and max_tokens where only text is sent; rates everything 2."""
    image = not isinstance(body["messages"][0]["content"], str)
    if image and body["model"] == "blind":
        raise ValueError("no pictures")
    if not image and "max_tokens" in body:
        raise ValueError("use max_completion_tokens")
    return "Rating: 2"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with answering(grumpy) as base:
        yield base


def arguments(name: str, folder: Path, url: str, model: str) -> list[str]:
    CASES[name].write(folder / "data")
    data, run = str(folder / "data"), str(folder / "run")
    return ["eval", name, "--path", data, "--out", run, "--base-url", url, "--model", model, "--json"]


def test_an_endpoint_that_refuses_everything_fails_the_command(tmp_path: Path, capsys, url: str) -> None:
    """Would catch POPE's F1 of 1.000, and success, for an endpoint that takes no images."""
    assert main(arguments("pope", tmp_path, url, "blind")) == 1
    printed = capsys.readouterr()
    result = json.loads(printed.out)["pope"]
    assert (result["metrics"]["f1"], result["metrics"]["strict_accuracy"]) == (None, 0)
    assert result["counts"]["errors"] == 3
    assert "warning: 3 of 3 items of pope could not be asked" in printed.err
    assert "no pictures" in printed.err


def test_a_judges_request_can_be_changed_and_no_answer_is_asked_again(tmp_path: Path, capsys, url: str) -> None:
    """Would catch 96 answers left unjudged, or thrown away, because a judge takes no max_tokens."""
    argv = [*arguments("mmhal", tmp_path, url, "sighted"), "--judge-url", url, "--judge-model", "judge"]
    assert main(argv) == 2
    assert "use max_completion_tokens" in (said := capsys.readouterr().err)
    assert "--judge-request" in said
    kept = (tmp_path / "run" / "mmhal" / "items.jsonl").read_bytes()
    changed = [*argv, "--judge-request", '{"max_tokens": null, "max_completion_tokens": 99}']
    assert main(changed) == 0
    result = json.loads(capsys.readouterr().out)["mmhal"]
    assert result["metrics"]["score"] == 2
    assert result["lists"]["unjudged"] == []
    assert result["config"]["judge"]["request"]["max_completion_tokens"] == 99
    assert (tmp_path / "run" / "mmhal" / "items.jsonl").read_bytes() == kept
