"""The tiny model that ships in the package: it is the default of every command, and it really looks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import look_again
from look_again.commands.main import main
from look_again.core.reattention import Reattention
from look_again.loading import default_checkpoint
from look_again.tabletop.figures import EvalConfig, evaluate

TABLE = str(Path(__file__).parents[1] / "examples" / "table.png")
QUESTION = "Subtract all balls. How many objects are left? Answer briefly."


@pytest.fixture(scope="module")
def looker():
    return look_again.load(device="cpu")


def ask(capsys, *extra: str) -> dict:
    assert main(["ask", TABLE, QUESTION, "--json", *extra]) == 0
    return json.loads(capsys.readouterr().out)


def test_it_fits_in_the_package():
    assert sum(path.stat().st_size for path in default_checkpoint().iterdir()) < 16 * 2**20


def test_the_readmes_question_is_answered_with_a_look(capsys):
    result = ask(capsys)
    assert result["answer"] == "4"
    assert result["well_formed"]
    assert result["tokens"]["reinserted"] >= 36


def test_reasoning_without_end_still_ends_in_an_answer(capsys):
    """Would catch a bound that cuts the answer off instead of bringing it."""
    cut = ask(capsys, "--max-new-tokens", "40")
    assert (cut["answer"], cut["finish_reason"]) == (None, "length")
    bounded = ask(capsys, "--max-new-tokens", "100", "--max-reasoning-tokens", "20")
    assert bounded["answer"]
    assert bounded["finish_reason"] == "stop"
    assert bounded["tokens"]["forced"] > 0


@pytest.mark.parametrize(("mode", "unit"), [("copy", 36), ("vision", 36), ("route", 18)])
def test_reinserted_tokens_come_in_whole_looks(capsys, mode, unit):
    """36 visual tokens in the picture, half of them for route at its default of 50%."""
    result = ask(capsys, "--reattention", mode)
    assert [r["reinserted_tokens"] for r in result["reflections"]] == [unit] * len(result["reflections"])
    assert result["tokens"]["reinserted"] == unit * len(result["reflections"]) > 0


def test_route_at_the_ends_is_copy_and_text(capsys):
    copy, text = ask(capsys, "--reattention", "copy"), ask(capsys, "--reattention", "text")
    assert text["tokens"]["reinserted"] == text["tokens"]["forced"] == 0
    assert ask(capsys, "--reattention", "route", "--keep", "100")["response"] == copy["response"]
    assert ask(capsys, "--reattention", "route", "--keep", "0")["response"] == text["response"]


def test_it_answers_fresh_questions_and_looking_mends_mistakes(looker):
    """Floors below what the card says: a broken loop, cache, picture or chat format falls through them."""
    config = EvalConfig(n=60, seed=5)
    right = evaluate(looker, config, Reattention())
    wrong = evaluate(looker, config, Reattention(control="wrong-image"))
    assert right["accuracy"] > 0.85
    assert right["reflection"]["hallucinated"] < 0.05
    assert right["planted"]["share"] > 0.9
    assert wrong["planted"]["share"] < right["planted"]["share"]


def test_one_batch_or_many_give_the_same_figures(looker):
    one = evaluate(looker, EvalConfig(n=12, seed=6, batch=12, planted=False), Reattention(mode="route"))
    many = evaluate(looker, EvalConfig(n=12, seed=6, batch=5, planted=False), Reattention(mode="route"))
    assert {**one, "settings": None} == {**many, "settings": None}
