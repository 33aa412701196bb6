"""What each stage makes of good and bad replies: every bad one ends in a verdict that says why."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest

from look_again.clients.openai import Reply
from look_again.data.sample import Sample
from look_again.pipeline.endpoint_pool import EndpointDownError
from look_again.pipeline.engine import RowProblem, attempt
from look_again.pipeline.ledger.items import Outcome, WorkItem
from look_again.pipeline.stages import cold_start, distil, rewrite, verify
from look_again.pipeline.stages.chat_stage import UnusableReplyError, is_refusal, read_object, usable
from look_again.pipeline.stages.prompt_files import load_prompt
from look_again.text.grammar import parse

PLAIN = "<SUMMARY>s</SUMMARY>\n<CAPTION>c</CAPTION>\n<REASONING>r</REASONING>\n<CONCLUSION>4</CONCLUSION>"
LOOKED = PLAIN.replace("<CONCLUSION>", "<REFLECTION>I look: it holds.</REFLECTION>\n<CONCLUSION>")
ROW = Sample(id="r", question="How many?", reference="4", response=PLAIN, source="test")
ITEM = WorkItem(1, 0, ROW, {}, "i")
CORRECT = json.dumps({"answer": "correct", "reasoning": "correct", "reason": "fine"})
INCORRECT = json.dumps({"answer": "incorrect", "reasoning": "correct", "reason": "it is 4"})
PANEL = verify.JudgePanel(judges=("a", "b", "c", "d"))


class Chat:
    """Replies from a list per endpoint; the last for ever. An exception is raised."""

    def __init__(self, item: WorkItem, **replies) -> None:
        self.item, self.replies, self.asked = item, replies, []

    async def ask(self, endpoint, system, user, images=(), *, ask=0, prompt="", **options) -> Reply:
        self.asked.append((endpoint, user, ask))
        given = self.replies[endpoint]
        reply = given[min(ask, len(given) - 1)] if isinstance(given, list) else given
        if isinstance(reply, Exception):
            raise reply
        return reply if isinstance(reply, Reply) else Reply(reply)


def made(stage, item: WorkItem, **replies) -> tuple[Outcome, Chat]:
    chat = Chat(item, **replies)
    return asyncio.run(attempt(stage, item, chat)), chat


TEACH = cold_start.stage("t", load_prompt("cold_start"))


def test_a_teacher_puts_in_one_reflection():
    outcome, chat = made(TEACH, ITEM, t=LOOKED)
    assert outcome == Outcome(output={"response": LOOKED})
    assert "How many?" in chat.asked[0][1]
    assert PLAIN in chat.asked[0][1]


def test_the_row_keeps_its_own_text(response):
    """A teacher that lays out the sections differently must not change the row's characters."""
    rearranged = LOOKED.replace("\n", "\n\n").replace("<CAPTION>c", "<CAPTION> c ")
    outcome, _ = made(TEACH, ITEM, t=rearranged)
    assert outcome.output["response"] == LOOKED


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (LOOKED.replace("<CAPTION>c", "<CAPTION>cc"), "the teacher changed CAPTION"),
        (LOOKED.replace(">4<", ">5<"), "the teacher changed CONCLUSION"),
        (PLAIN, "missing REFLECTION"),
        (PLAIN.replace("<REASONING>", "<REFLECTION>x</REFLECTION><REASONING>"), "the sections SUMMARY, CAPTION, REFL"),
        (LOOKED.replace("<REFL", "<REFLECTION>x</REFLECTION><REFL"), "REFLECTION, REFLECTION"),
        (LOOKED.replace("I look: it holds.", " "), "reflection is empty"),
        (LOOKED.replace("I look", "**I look**"), "no plain prose"),
        ("Sure! " + LOOKED, "text-outside"),
        ("", "an empty answer"),
        ("I'm sorry, but I can't assist with that.", "a refusal"),
        (Reply(LOOKED, "length"), "cut off"),
        (Reply("", "content_filter"), "a refusal"),
    ],
)
def test_a_teacher_that_does_something_else_is_asked_again_and_then_given_up(reply, reason):
    outcome, chat = made(TEACH, ITEM, t=reply)
    assert outcome.status == "bad"
    assert reason in str(outcome.reason)
    assert len(chat.asked) == 3
    outcome, _ = made(TEACH, ITEM, t=[reply, LOOKED])
    assert outcome.status == "ok"


@pytest.mark.parametrize(
    ("given", "reason"),
    [(None, "no response"), (" ", "no response"), (LOOKED, "a reflection already"), ("four", "text-outside")],
)
def test_rows_that_no_reflection_can_be_put_into_are_not_asked_about(given, reason):
    outcome, chat = made(TEACH, replace(ITEM, row=replace(ROW, response=given)), t=LOOKED)
    assert reason in str(outcome.reason)
    assert chat.asked == []


def test_distilling_takes_answers_as_they_are_and_drops_empty_ones():
    stage = distil.stage("m", load_prompt("distil"))
    assert made(stage, ITEM, m=LOOKED)[0].output == {"response": LOOKED, "format": "", "right": True}
    broken = made(stage, ITEM, m=LOOKED.replace("</CAPTION>", ""))[0]
    assert broken.status == "ok"
    assert broken.output["format"] != ""
    assert "empty" in str(made(stage, ITEM, m=" ")[0].reason)
    assert "refusal" in str(made(stage, ITEM, m="I cannot help with that.")[0].reason)


def checked(item: WorkItem = ITEM, panel=PANEL, **replies) -> Outcome:
    given = dict.fromkeys(panel.judges, CORRECT) | replies
    return made(
        verify.stage(panel, load_prompt("verify"), "distil"), replace(item, output={"response": LOOKED}), **given
    )[0]


@pytest.mark.parametrize(("objections", "flagged"), [(0, False), (1, False), (2, True), (4, True)])
def test_two_objections_flag(objections, flagged):
    outcome = checked(**dict.fromkeys(PANEL.judges[:objections], INCORRECT))
    assert (outcome.output["objections"], outcome.output["flagged"]) == (objections, flagged)
    assert outcome.output["verdicts"][0]["reason"] in ("it is 4", "fine")


def test_a_wrong_reasoning_is_an_objection_too():
    said = json.dumps({"answer": "correct", "reasoning": "Incorrect", "reason": ""})
    assert checked(a=f"```json\n{said}\n```", b=f"My verdict: {said}").output["flagged"]


def test_a_judge_without_json_abstains_and_the_rest_decide():
    outcome = checked(a="It is fine.", b='{"answer": "maybe", "reasoning": "correct"}', c=INCORRECT, d=INCORRECT)
    assert outcome.output["flagged"]
    abstained = {
        verdict["judge"]: verdict["abstains"] for verdict in outcome.output["verdicts"] if "abstains" in verdict
    }
    assert "not a JSON object" in abstained["a"]
    assert "'maybe'" in abstained["b"]


def test_too_few_verdicts_are_no_verdict():
    outcome = checked(**dict.fromkeys("abc", "no json"))
    assert (outcome.status, outcome.reason) == ("bad", "only 1 judges gave a verdict")


def test_a_judge_that_is_down_is_waited_for_or_not():
    down = EndpointDownError("a is down")
    assert checked(a=down).status == "waiting"
    going_on = replace(PANEL, on_down="go-on")
    outcome = checked(panel=going_on, a=down, b=INCORRECT, c=INCORRECT)
    assert outcome.output["flagged"]
    assert outcome.output["verdicts"][-1] == {"judge": "a", "abstains": "down: a is down"}
    assert checked(panel=replace(going_on, quorum=4), a=down).status == "waiting"


def test_broken_grammar_is_flagged_without_asking():
    stage = verify.stage(PANEL, load_prompt("verify"), "distil")
    outcome, chat = made(stage, replace(ITEM, output={"response": "four"}))
    assert outcome.output["flagged"]
    assert chat.asked == []


@pytest.mark.parametrize(
    "fields",
    [{"judges": ()}, {"judges": ("a", "a")}, {"threshold": 0}, {"threshold": 5}, {"on_down": "x"}, {"quorum": 1}],
)
def test_panels_that_cannot_be(fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        replace(PANEL, **fields)


FLAGGED = {
    "response": LOOKED.replace(">4<", ">5<"),
    "flagged": True,
    "format": "",
    "verdicts": [{"judge": "a", "answer": "incorrect", "reasoning": "correct", "reason": "it is 4"}],
}
REWRITE = rewrite.stage("w", load_prompt("rewrite"), "verify")


def test_only_what_is_flagged_is_rewritten():
    outcome, chat = made(REWRITE, replace(ITEM, output=FLAGGED | {"flagged": False}), w=LOOKED)
    assert (outcome.output["rewritten"], chat.asked) == (False, [])
    outcome, chat = made(REWRITE, replace(ITEM, output=FLAGGED), w=LOOKED)
    assert outcome.output == {"response": LOOKED, "right": True, "rewritten": True, "before": FLAGGED["response"]}
    assert "- it is 4" in chat.asked[0][1]


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (LOOKED.replace(">4<", ">6<"), "concludes '6', the reference is '4'"),
        (PLAIN, "missing REFLECTION"),
        ("", "empty"),
    ],
)
def test_a_rewrite_that_is_no_better_goes_no_further(reply, reason):
    outcome, _ = made(REWRITE, replace(ITEM, output=FLAGGED), w=reply)
    assert outcome.status == "bad"
    assert reason in str(outcome.reason)


def test_a_rewrite_without_a_reference_is_checked_by_grammar_alone():
    item = replace(ITEM, row=replace(ROW, reference=None), output=FLAGGED)
    outcome, chat = made(REWRITE, item, w=LOOKED)
    assert outcome.status == "ok"
    assert outcome.output["right"] is None
    assert "(none is known)" in chat.asked[0][1]


def test_refusals_are_told_from_answers():
    for text in (
        "I'm sorry, but I can't help with that.",
        "I cannot assist with this request.",
        "Sorry, I can’t identify",
    ):
        assert is_refusal(text)
    for text in (LOOKED, CORRECT, "I can see four balls.", "The sign says: I cannot help you." + LOOKED):
        assert not is_refusal(text)


def test_objects_are_found_in_replies():
    assert read_object('x {"a": {"b": 1}} y') == {"a": {"b": 1}}
    for text in ("", "{", "[1]", "{'a': 1}", "}{"):
        with pytest.raises(UnusableReplyError):
            read_object(text)
    assert usable(Reply(" x ")) == "x"


def test_a_users_prompt_takes_the_place_of_ours(tmp_path):
    path = tmp_path / "mine.md"
    path.write_text("## user\nJudge {{response}} for {{question}}")
    prompt = load_prompt("verify", path)
    assert prompt.fill({"question": "{{response}}", "response": "R"}) == ("", "Judge R for {{response}}")
    assert prompt.version != load_prompt("verify").version
    path.write_text("## user\n{{answer}}")
    with pytest.raises(ValueError, match="'answer'"):
        load_prompt("verify", path)
    path.write_text("nothing")
    with pytest.raises(ValueError, match="no part"):
        load_prompt("verify", path)


def test_the_shipped_prompts_have_all_their_fields():
    for name in ("cold_start", "verify", "rewrite"):
        assert "{{response}}" in load_prompt(name).user
    assert parse(LOOKED).well_formed
    with pytest.raises(RowProblem):
        cold_start.given("")
