"""Tabletop's endpoint tells the truth in four roles, errs as often as it is told to, and always the same way."""

from __future__ import annotations

import json

import pytest

from look_again.clients.openai import chat_messages
from look_again.data.encoded_images import sendable
from look_again.pipeline.stages.cold_start import with_reflection
from look_again.pipeline.stages.prompt_files import load_prompt
from look_again.tabletop.answering import COMMON_FAULTS, FAULTY_ATTEMPTS, Conduct, respond
from look_again.tabletop.endpoint import parse_conduct
from look_again.tabletop.loader import tabletop_samples
from look_again.tabletop.samples import make_sample
from look_again.text.grammar import parse

RIGHT = Conduct()
WRONG = Conduct(error_rate=1.0)


def body(index: int, role: str, prompt: str | None = None, **fields: str) -> dict:
    (row,) = tabletop_samples("test", 2, [index])
    given = {"question": row.question, "reference": row.reference or "", "objections": "", **fields}
    user = load_prompt(prompt).fill(given)[1] if prompt else row.question
    return {"model": f"tabletop-{role}", "messages": chat_messages("", user, [sendable(row.images[0])])}


def text(request: dict, conduct: Conduct = RIGHT, attempt: int = 0) -> str:
    served = respond(request, attempt, conduct)
    assert served.status == 200, served.body
    return served.body["choices"][0]["message"]["content"]


def verdict(index: int, response: str, conduct: Conduct = RIGHT) -> dict:
    return json.loads(text(body(index, "judge-1", "verify", response=response), conduct))


@pytest.mark.parametrize("index", range(6))
def test_the_model_and_the_writer_answer_from_the_truth(index):
    truth = make_sample("test", 2, index).answer
    for role, prompt in (("model", None), ("writer", "rewrite")):
        request = body(index, role, prompt, response="<CONCLUSION>x</CONCLUSION>")
        right, wrong = parse(text(request)), parse(text(request, WRONG))
        assert right.well_formed
        assert wrong.well_formed
        assert right.conclusion == truth
        assert wrong.conclusion != truth


@pytest.mark.parametrize("index", range(6))
def test_the_teacher_adds_one_reflection_that_holds(index):
    made = make_sample("test", 2, index, reflections=0)
    request = body(index, "teacher", "cold_start", response=made.written.text)
    taught = with_reflection(made.written.text, text(request))
    assert len(parse(taught).reflections) == 1
    assert verdict(index, taught) | {"reason": ""} == {"answer": "correct", "reasoning": "correct", "reason": ""}
    assert text(request, WRONG) != text(request)


def test_judges_see_wrong_answers_and_wrong_evidence():
    row = make_sample("test", 2, 3, reflections=1, error_rate=0.0)
    assert verdict(3, row.written.text)["answer"] == "correct"
    wrong = row.written.text.replace(f"<CONCLUSION> {row.answer}", "<CONCLUSION> 9")
    assert verdict(3, wrong)["answer"] == "incorrect"
    assert verdict(3, wrong, WRONG)["answer"] == "correct"
    place = row.scene.things[0].place
    free = next(p for p in ("a1", "a2", "a3", "f6") if p not in {thing.place for thing in row.scene.things})
    moved = row.written.text.replace(f" {place} ", f" {free} ")
    assert verdict(3, moved)["reasoning"] == "incorrect"


def test_errors_come_at_the_rate_and_differ_between_judges():
    conduct = Conduct(error_rate=0.25)
    wrong = {name: set() for name in ("judge-1", "judge-2")}
    for index in range(60):
        row = make_sample("test", 2, index, reflections=1, error_rate=0.0)
        for name in wrong:
            said = json.loads(text(body(index, name, "verify", response=row.written.text), conduct))
            wrong[name] |= {index} if said["answer"] == "incorrect" else set()
    assert all(6 <= len(indices) <= 26 for indices in wrong.values())
    assert wrong["judge-1"] != wrong["judge-2"]


def test_a_reply_is_a_function_of_the_request():
    conduct = Conduct(error_rate=0.5, faults=dict.fromkeys(COMMON_FAULTS, 0.15))
    for index in range(10):
        request = body(index, "model")
        assert respond(request, 0, conduct) == respond(json.loads(json.dumps(request)), 0, conduct)


def test_faults_of_transport_pass_and_never_change_the_reply():
    """A run that was killed asks with other attempt numbers, and must get the same replies."""
    conduct = Conduct(faults=dict.fromkeys(COMMON_FAULTS, 0.15), retry_after_s=2.0)
    kinds = set()
    for index in range(25):
        served = [respond(body(index, "model"), attempt, conduct) for attempt in range(FAULTY_ATTEMPTS + 2)]
        finished = {json.dumps(s.body) for s in served if s.status == 200 and isinstance(s.body, dict)}
        assert len(finished) == 1
        assert served[-1].status == 200
        kinds |= {s.status for s in served} | {"stall" for s in served if s.delay_s} | {type(s.body) for s in served}
        kinds |= {s.body["choices"][0]["finish_reason"] for s in served if s.status == 200 and isinstance(s.body, dict)}
    assert kinds >= {200, 429, 500, "stall", str, "length", "stop"}


@pytest.mark.parametrize(
    ("fault", "seen"), [("empty", ""), ("refusal", "I'm sorry, but I can't help with that."), ("not-asked", "Here is")]
)
def test_faults_of_replies(fault, seen):
    assert text(body(0, "model"), Conduct(faults={fault: 1.0})).startswith(seen)


@pytest.mark.parametrize(
    "change", [{"model": "gpt"}, {"messages": []}, {"messages": [{"role": "user", "content": "no picture"}]}]
)
def test_what_it_cannot_answer_is_refused(change):
    assert respond(body(0, "model") | change, 0, RIGHT).status == 400


def test_conduct_from_a_url():
    assert parse_conduct("tabletop:?error=0.1&429=0.05&stall_s=2&seed=7") == Conduct(
        error_rate=0.1, faults={"429": 0.05}, stall_s=2.0, seed=7
    )
    with pytest.raises(ValueError, match="mood"):
        parse_conduct("tabletop:?mood=0.1")
    with pytest.raises(ValueError, match="shares"):
        Conduct(error_rate=1.5)
    with pytest.raises(ValueError, match="unknown faults"):
        Conduct(faults={"sloth": 0.1})
