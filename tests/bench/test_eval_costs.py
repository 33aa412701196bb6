"""The benchmark of evaluation measures what it says, on few items."""

from __future__ import annotations

import json

import pytest

from look_again.bench.eval_costs import TARGETS, EvalSettings, table
from look_again.bench.eval_items import CAPTION_WORDS, made
from look_again.commands.main import main
from look_again.evaluation.known_benchmarks import BENCHMARKS, benchmark


def test_the_command_reports_every_figure(capsys):
    """A benchmark that is not timed, or a ratio below 1, which would be reading before answering."""
    argv = ["bench", "eval", "--captions", "40", "--items", "6", "--answers", "1", "--tokens", "30", "--repeats", "1"]
    assert main([*argv, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(TARGETS) <= set(result)
    assert result["chair_captions_per_second"] > 100
    assert result["analysis_over_generation"] == max(result["analyses_over_generation"].values()) > 1
    assert list(result["scoring_seconds_per_item"]) == list(BENCHMARKS)
    assert all(seconds > 0 for seconds in result["scoring_seconds_per_item"].values())
    assert "mathvision" in table(result)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_replies_are_right_wrong_and_unreadable(name):
    """Timing a scorer on replies that it is done with at the first character."""
    items, replies = made(name, 36)
    found = benchmark(name).score(items, replies, lambda prompt: "Rating: 4")
    assert len(found.items) == len(items) > 8
    assert len({reply.text for reply in replies}) == len(replies)
    points = {score.official for score in found.items} | {score.strict for score in found.items}
    assert points >= ({4.0} if name == "mmhal" else {1.0} if name.startswith("tabletop") else {0.0, 1.0})


def test_captions_have_their_length_and_objects():
    items, replies = made("chair", 20)
    metrics = benchmark("chair").score(items, replies, None).metrics
    assert CAPTION_WORDS <= metrics["words"] < 1.2 * CAPTION_WORDS
    assert metrics["without_objects"] == metrics["empty"] == 0
    assert metrics["recall"] > 0


@pytest.mark.parametrize("fields", [{"captions": 0}, {"repeats": 0}, {"clock": "sun"}])
def test_settings_that_measure_nothing(fields):
    with pytest.raises(ValueError, match=r"at least 1|unknown clock"):
        EvalSettings(**fields)
