"""The benchmark of BRPO measures what it says, on few answers."""

from __future__ import annotations

import json

import pytest

from look_again.bench.brpo_costs import MATHEMATICS, PLAIN, call_rewards, make_answers
from look_again.commands.main import main
from look_again.tabletop.tiny import build_tokenizer
from look_again.text.tags import tag_ids


def test_the_command_reports_every_figure(capsys, monkeypatch):
    monkeypatch.setattr("look_again.bench.rollout_costs.PAIRS", 1)
    monkeypatch.setattr("look_again.bench.brpo_costs.TOKENS", 40)
    argv = ["bench", "brpo", "--answers", "30", "--repeats", "1", "--mathematics", "2", "--steps", "1"]
    assert main([*argv, "--questions", "1", "--group", "2", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    rates = result["rates"]
    assert rates["rewards_per_second"] == pytest.approx(3 * rates["answers_per_second"])
    assert rates["mathematics_per_second"] < rates["rewards_per_second"]
    assert sum(result["share_of_step"].values()) == pytest.approx(1)
    assert result["ratios"]["refill_over_batch"] > 0
    assert rates["sampled_answers_per_second"] > 0
    assert 0 < result["rollout_tokens"]["shortest"] <= result["rollout_tokens"]["longest"] <= 40
    assert list(result["share_of_step"]) == ["generation", "scoring", "loss"]


@pytest.mark.parametrize("kinds", [PLAIN, MATHEMATICS])
def test_answers_are_right_and_all_different(kinds):
    """Timing rewards on answers that fail at the first check, or on one answer out of a cache."""
    ids = tag_ids(build_tokenizer())
    answers = make_answers(12, kinds, 0, ids)
    assert len(set(answers.completions)) == 12
    assert {len(row) for row in answers.completion_ids} == {300}
    formats, accuracies, balances = call_rewards(answers, ids)()
    assert set(formats) == set(accuracies) == set(balances) == {1.0}
