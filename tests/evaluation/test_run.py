"""A run and its folder: every item kept at once, resumed exactly, and refused when it is another run."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from look_again.data.sample import BadSample
from look_again.evaluation import known_benchmarks as table
from look_again.evaluation.benchmark import Benchmark, BenchmarkItem, DataLocation, ItemScore, Scores
from look_again.evaluation.run import digest_item, load_items, run_benchmark
from look_again.evaluation.run_folder import remembered, whole_lines
from look_again.evaluation.subjects import Output


def load(location: DataLocation) -> Iterator[BenchmarkItem | BadSample]:
    for index in range(location.limit or 6):
        if location.split == "with-bad" and index == 2:
            yield BadSample("q2", "the picture is missing")
        else:
            yield BenchmarkItem(
                id=f"q{index}", prompt=f"{index} + 1?", reference=index + 1, facts={"kind": "eo"[index % 2]}
            )


def score(items, replies, judge=None) -> Scores:
    scores = []
    for item, reply in zip(items, replies, strict=True):
        said = reply.final if judge is None else judge(f"what is {reply.final!r}")
        right = float(said == str(item.reference))
        scores.append(ItemScore(official=right, strict=right, extracted=said or None, unparsed=not said))
    accuracy = sum(s.official for s in scores) / len(scores)
    strict = sum(s.strict for s in scores) / len(scores)
    metrics = {"accuracy": accuracy, "strict_accuracy": strict}
    return Scores(items=scores, metrics=metrics, subsets={"kind/e": {}}, notes={"rule": "exact"})


FAKE = Benchmark(name="fake", hub="here", splits=("all", "with-bad"), load=load, score=score, primary="accuracy")
JUDGED = Benchmark(
    name="judged", hub="here", splits=("all",), load=load, score=score, primary="accuracy", needs_judge=True
)
PLACE = DataLocation(path="here", split="all")


class Fake:
    """Answers right but for item 3; `stop_after` answers it fails, as a lost endpoint would."""

    def __init__(self, stop_after: int | None = None, **settings) -> None:
        self.settings = {"model": "fake", **settings}
        self.stop_after = stop_after
        self.asked: list[str] = []

    def answers(self, items, done):
        for index, item in enumerate(items):
            if item.id in done:
                continue
            if len(self.asked) == self.stop_after:
                raise ConnectionError("gone")
            self.asked.append(item.id)
            text = "wrong" if index == 3 else str(index + 1)
            yield (
                index,
                Output(text=text, tokens={"sampled": index}, finish_reason="stop", seconds=0.5 * len(self.asked)),
            )


def without_times(result: dict) -> dict:
    return {name: value for name, value in result.items() if name != "timing"}


def test_a_result_holds_every_answer_and_its_score(tmp_path):
    result = run_benchmark(FAKE, DataLocation(path="here", split="with-bad"), Fake(), tmp_path / "run")
    assert result == json.loads((tmp_path / "run" / "result.json").read_text())
    assert [item["id"] for item in result["items"]] == ["q0", "q1", "q3", "q4", "q5"]
    assert [item["official"] for item in result["items"]] == [1.0, 1.0, 0.0, 0.0, 0.0]  # "with-bad" moves the index
    assert result["items"][1]["text"] == "2"
    assert result["counts"] == {"items": 5, "unparsed": 0, "errors": 0, "bad_rows": 1, "cut_off": 0}
    assert result["lists"]["bad_rows"] == [{"id": "q2", "reason": "the picture is missing"}]
    assert result["tokens_per_answer"] == {"sampled": 2.0}
    assert result["config"]["place"]["split"] == "with-bad"
    assert {"transformers", "math-verify"} <= result["config"]["versions"].keys()
    assert result["timing"]["answering_s"] == 0.5 * (1 + 2 + 3 + 4 + 5)


@pytest.mark.parametrize("stop_after", [0, 1, 4])
def test_an_interrupted_run_asks_the_rest_and_ends_equal(tmp_path, stop_after):
    """Would catch answers asked twice, lost, or put at another item's place."""
    whole = run_benchmark(FAKE, PLACE, Fake(), tmp_path / "whole")
    with pytest.raises(ConnectionError):
        run_benchmark(FAKE, PLACE, Fake(stop_after), tmp_path / "run")
    assert not (tmp_path / "run" / "result.json").exists()
    rest = Fake()
    resumed = run_benchmark(FAKE, PLACE, rest, tmp_path / "run")
    assert rest.asked == [f"q{index}" for index in range(stop_after, 6)]
    assert without_times(resumed) == without_times(whole)


@pytest.mark.parametrize("cut", [1, 7, 40])
def test_a_line_that_was_cut_off_is_asked_again(tmp_path, cut):
    """Would catch a crash on half a line, and a next line glued to it; the cut may fall inside a character."""
    whole = run_benchmark(FAKE, PLACE, Fake(), tmp_path / "whole")
    run_benchmark(FAKE, PLACE, Fake(), tmp_path / "run")
    path = tmp_path / "run" / "items.jsonl"
    path.write_bytes(path.read_bytes()[:-cut] + b"\xe2\x9f")
    rest = Fake()
    assert without_times(run_benchmark(FAKE, PLACE, rest, tmp_path / "run")) == without_times(whole)
    assert rest.asked == ["q5"]
    assert len(whole_lines(path)) == 6


def test_a_finished_run_is_scored_again_without_asking(tmp_path):
    first = run_benchmark(FAKE, PLACE, Fake(), tmp_path)
    nobody = Fake(stop_after=0)
    assert without_times(run_benchmark(FAKE, PLACE, nobody, tmp_path)) == without_times(first)


def test_items_with_an_error_are_counted_and_asked_again(tmp_path):
    """Would catch a failed item that is dropped, or that stays failed for ever."""

    class Failing(Fake):
        def answers(self, items, done):
            for index, output in super().answers(items, done):
                yield index, Output(error="no picture") if index == 1 else output

    result = run_benchmark(FAKE, PLACE, Failing(), tmp_path)
    assert (result["counts"]["errors"], result["counts"]["unparsed"]) == (1, 0)
    assert result["lists"]["errors"] == [{"id": "q1", "reason": "no picture"}]
    assert result["metrics"] == {"accuracy": 4 / 5, "strict_accuracy": 4 / 6}
    assert result["tokens_per_answer"] == {"sampled": (0 + 2 + 3 + 4 + 5) / 5}
    again = Fake()
    assert run_benchmark(FAKE, PLACE, again, tmp_path)["counts"]["errors"] == 0
    assert again.asked == ["q1"]


def test_another_run_in_the_same_folder_is_refused_by_name(tmp_path):
    """Would catch answers of two models, or of two sets of items, in one result."""
    run_benchmark(FAKE, PLACE, Fake(), tmp_path)
    for place, subject, named in (
        (PLACE, Fake(mode="text"), "subject.mode was None, now 'text'"),
        (DataLocation(path="here", split="all", limit=3), Fake(), "place.limit was None, now 3"),
    ):
        with pytest.raises(ValueError, match=named):
            run_benchmark(FAKE, place, subject, tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(ValueError, match=r"without config\.json"):
        run_benchmark(FAKE, PLACE, Fake(), tmp_path)


def test_no_items_and_repeated_ids_are_refused():
    empty = Benchmark(
        name="e", hub="", splits=("all",), load=lambda p: iter([BadSample("x", "torn")]), score=score, primary=""
    )
    with pytest.raises(ValueError, match="no items of e, 1 bad rows; x: torn"):
        load_items(empty, PLACE)
    twice = Benchmark(name="t", hub="", splits=("all",), load=lambda p: [*load(p), *load(p)], score=score, primary="")
    with pytest.raises(ValueError, match="6 ids repeat, the first is 'q0'"):
        load_items(twice, PLACE)
    with pytest.raises(ValueError, match="known: all, with-bad"):
        load_items(FAKE, DataLocation(path="here", split="some"))


def test_the_digest_tells_items_apart():
    item = BenchmarkItem(id="a", prompt="p", reference=1)
    others = [
        BenchmarkItem(id="b", prompt="p", reference=1),
        BenchmarkItem(id="a", prompt="q", reference=1),
        BenchmarkItem(id="a", prompt="p", reference=2),
        BenchmarkItem(id="a", prompt="p", reference=1, images=(b"x",)),
    ]
    assert len({digest_item(one) for one in [item, *others]}) == 5
    assert digest_item(BenchmarkItem(id="a", prompt="p", reference=1, facts={"kind": "e"})) == digest_item(item)


def test_a_judges_replies_are_paid_for_once(tmp_path):
    """Would catch a resumed run that judges again, and a retry that is given the first reply again."""
    calls = []

    def judge(prompt: str) -> str:
        calls.append(prompt)
        return f"reply {len(calls)}"

    ask = remembered(judge, tmp_path / "judge.jsonl")
    assert [ask("a"), ask("a"), ask("b")] == ["reply 1", "reply 2", "reply 3"]
    again = remembered(judge, tmp_path / "judge.jsonl")
    assert [again("a"), again("b"), again("a"), again("a")] == ["reply 1", "reply 3", "reply 2", "reply 4"]
    assert calls == ["a", "a", "b", "a"]


def test_another_judge_may_follow_one_that_never_replied(tmp_path):
    """Would catch answers that are lost to a judge's refusal: the judge's fields are part of the configuration."""

    class Named:
        def __init__(self, model, reply=None):
            self.settings, self.reply = {"model": model}, reply

        def __call__(self, prompt):
            if self.reply is None:
                raise ValueError("the judge refuses")
            return self.reply

    with pytest.raises(ValueError, match="judge refuses"):
        run_benchmark(JUDGED, PLACE, Fake(), tmp_path, judge=Named("a"))
    nobody = Fake(stop_after=0)
    result = run_benchmark(JUDGED, PLACE, nobody, tmp_path, judge=Named("b", "1"))
    assert result["config"]["judge"] == json.loads((tmp_path / "config.json").read_text())["judge"] == {"model": "b"}
    with pytest.raises(ValueError, match=r"judge\.model was 'b', now 'c'"):
        run_benchmark(JUDGED, PLACE, nobody, tmp_path, judge=Named("c", "1"))


def test_a_judged_benchmark_needs_its_judge(tmp_path):
    with pytest.raises(ValueError, match="--judge-url"):
        run_benchmark(JUDGED, PLACE, Fake(), tmp_path)
    result = run_benchmark(JUDGED, PLACE, Fake(), tmp_path, judge=lambda prompt: "1")
    assert result["metrics"]["accuracy"] == 1 / 6
    assert result["config"]["judge"] == "a function"


# --- names


def test_unknown_names_list_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown benchmark 'pop'; known: tabletop, .*pope"):
        table.benchmark("pop")


@pytest.mark.parametrize("name", list(table.BENCHMARKS))
def test_every_name_is_that_of_its_benchmark(name):
    """Would catch a run whose folder and JSON are named otherwise than what was asked for."""
    found = table.benchmark(name)
    assert found.name == name
    assert found.splits
