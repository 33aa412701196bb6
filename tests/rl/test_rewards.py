"""The rewards on hand-worked completions, hacks included: what pays, what does not, and what stops a run."""

from __future__ import annotations

import importlib
import pickle
from typing import Any

import pytest

from look_again.rl.rewards import (
    AccuracyReward,
    BalanceReward,
    FormatReward,
    accuracy_reward,
    balance_reward,
    format_reward,
    reward_statistics,
)

HEAD = "<SUMMARY>s</SUMMARY><CAPTION>c</CAPTION><REASONING>r</REASONING>"
LOOK = "<REFLECTION>l</REFLECTION>"
END = "<CONCLUSION>B</CONCLUSION>"
GOOD = HEAD + LOOK + END
FULLWIDTH = str.maketrans("CONLUSI", "ＣＯＮＬＵＳＩ")


@pytest.mark.parametrize(
    ("completion", "well_formed", "right"),
    [
        # as it should be
        (GOOD, 1, 1),
        (GOOD + "\n", 1, 1),
        (" \n" + GOOD.replace("><", ">\n\n<"), 1, 1),
        (HEAD + LOOK + LOOK + "<CONCLUSION>\n (B) \n</CONCLUSION>", 1, 1),
        ("<SUMMARY>s</SUMMARY>" + LOOK + "<CAPTION>c</CAPTION><REASONING>r</REASONING>" + END, 1, 1),
        (HEAD + "<REFLECTION></REFLECTION>" + END, 1, 1),  # the paper lets a reflection be empty
        (HEAD + "<REFLECTION> \n </REFLECTION>" * 3 + END, 1, 1),  # only empty ones: the format holds, the balance is 0
        (HEAD + LOOK + "<CONCLUSION>The answer is B, since C is blue.</CONCLUSION>", 1, 1),
        # well formed and wrong
        (HEAD + LOOK + "<CONCLUSION>C</CONCLUSION>", 1, 0),
        (HEAD + LOOK + "<CONCLUSION>A or B</CONCLUSION>", 1, 0),
        (HEAD + LOOK + "<CONCLUSION>A, B, C, D</CONCLUSION>", 1, 0),
        (HEAD + LOOK + "<CONCLUSION>not B</CONCLUSION>", 1, 0),
        (HEAD.replace("r", "the answer is B") + LOOK + "<CONCLUSION>see above</CONCLUSION>", 1, 0),
        (HEAD + "<REFLECTION>B</REFLECTION><CONCLUSION>C</CONCLUSION>", 1, 0),
        (HEAD + LOOK + "<CONCLUSION>В</CONCLUSION>", 1, 0),  # a Cyrillic letter
        (HEAD + LOOK + "<CONCLUSION>Ｂ</CONCLUSION>", 1, 1),  # a full-width letter is read as the plain one
        # missing, empty, cut off
        ("", 0, 0),
        (" \n\t ", 0, 0),
        ("B", 0, 0),
        ("The answer is B. " * 400, 0, 0),
        (HEAD + END, 0, 1),  # no reflection
        (HEAD + LOOK, 0, 0),
        (GOOD[: -len("</CONCLUSION>")], 0, 0),
        (GOOD[:-1], 0, 0),
        (HEAD + LOOK + "<CONCLUSION></CONCLUSION>", 0, 0),
        (HEAD + LOOK + "<CONCLUSION> </CONCLUSION>", 0, 0),
        (GOOD.replace("<CAPTION>c", "<CAPTION>"), 0, 1),
        (HEAD + "<REFLECTION>B" + END, 0, 0),  # an open reflection swallows the conclusion
        (HEAD + "<REFLECTION>" + "B " * 3000, 0, 0),
        # order and repetition
        (LOOK + HEAD + END, 0, 1),
        (HEAD + END + LOOK, 0, 1),
        (END + HEAD + LOOK, 0, 1),
        (GOOD + END, 0, 1),
        (HEAD + LOOK + "".join(f"<CONCLUSION>{x}</CONCLUSION>" for x in "ABCD"), 0, 0),  # the last one counts
        (GOOD + GOOD, 0, 1),
        (HEAD + HEAD + LOOK + END, 0, 1),
        # nesting
        (HEAD + f"<REFLECTION>{END}</REFLECTION>", 0, 0),
        (HEAD + f"<REFLECTION>{END}</REFLECTION><CONCLUSION>C</CONCLUSION>", 0, 0),
        (HEAD + f"<REFLECTION>{LOOK}</REFLECTION>" + END, 0, 1),
        (HEAD.replace("r", LOOK) + END, 0, 1),
        (HEAD + LOOK + f"<CONCLUSION>C{END}</CONCLUSION>", 0, 0),
        (HEAD + LOOK + "<CONCLUSION><SUMMARY>B</SUMMARY></CONCLUSION>", 0, 1),  # tags are no part of the answer
        # tags that are none, or where none belongs
        (HEAD.replace("r", "ra<CAPTION>tor") + LOOK + END, 0, 1),  # a tag inside a word
        (GOOD.replace("CONCLUSION>", "conclusion>"), 0, 0),
        (GOOD.replace("<CONCLUSION>", "< CONCLUSION >"), 0, 0),
        (GOOD.translate(FULLWIDTH), 0, 0),
        (GOOD.replace("REFLECTION", "REFLЕCTION"), 0, 1),  # a Cyrillic letter
        (GOOD.replace("<", "＜"), 0, 0),
        (GOOD.replace("<CONCLUSION>", "<CONCLU\u200bSION>"), 0, 0),
        ("B " + GOOD, 0, 1),
        (GOOD + " B", 0, 1),
        ("<think>t</think>" + GOOD, 0, 1),
        ("</REFLECTION>" + GOOD, 0, 1),
        (GOOD.replace("r<", "<|image_pad|><|vision_end|><"), 1, 1),  # a sampled image token is text like any other
        ("<REFLECTION>" * 10_000, 0, 0),
        ("".join(f"<{tag}>" for tag in ["SUMMARY", "REFLECTION", "CONCLUSION"]) * 10_000, 0, 0),
        ("</CONCLUSION>" * 10_000, 0, 0),
    ],
)
def test_format_and_accuracy(completion: str, well_formed: int, right: int) -> None:
    """A response that breaks the grammar or hides its answer is paid, or a good one is not."""
    assert format_reward([completion]) == [float(well_formed)]
    assert accuracy_reward([completion], reference=["B"]) == [float(right)]


def test_conversational_completions() -> None:
    """TRL's lists of messages, content blocks, and what a tool said, which the model did not write."""
    wrong, blocks = GOOD.replace("B", "C"), [{"type": "text", "text": HEAD}, {"type": "text", "text": LOOK + END}]
    completions = [
        [{"role": "assistant", "content": GOOD}],
        [{"role": "assistant", "content": blocks}],
        [{"role": "tool", "content": GOOD}, {"role": "assistant", "content": wrong}],
        [{"role": "assistant", "content": None}],
        [],
    ]
    assert format_reward(completions) == [1.0, 1.0, 1.0, 0.0, 0.0]
    assert accuracy_reward(completions, reference=["B"] * 5) == [1.0, 1.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("completion", [None, 3, [3], [{"role": "assistant", "content": 3}]])
def test_other_completions_are_refused(completion: Any) -> None:
    """A completion in an unknown form scored as an empty one."""
    with pytest.raises(ValueError, match=r"3|None"):
        format_reward([completion])


def test_min_reflections() -> None:
    """The number of reflections asked for not reaching the grammar."""
    completions = [HEAD + END, GOOD, HEAD + LOOK + LOOK + END]
    assert FormatReward(min_reflections=0)(completions) == [1.0, 1.0, 1.0]
    assert FormatReward(min_reflections=2)(completions) == [0.0, 0.0, 1.0]
    with pytest.raises(ValueError, match="-1"):
        FormatReward(min_reflections=-1)


def test_rewards_pickle_and_have_names(tokenizer: Any) -> None:
    """Asynchronous trainers send rewards to a child process, and name metrics after them."""
    ids = [tokenizer.encode(GOOD, add_special_tokens=False)]
    columns = {"key": ["B"], "completion_ids": ids}
    rewards = [FormatReward(2), AccuracyReward("key"), BalanceReward(tokenizer, length=1)]
    assert [reward([GOOD], **columns) for reward in rewards] == [[0.0], [1.0], [1.0]]
    copies = pickle.loads(pickle.dumps(rewards))
    assert [copy([GOOD], **columns) for copy in copies] == [[0.0], [1.0], [1.0]]
    assert [copy.__name__ for copy in copies] == ["format_reward", "accuracy_reward", "balance_reward"]


@pytest.mark.parametrize("name", ["format_reward", "accuracy_reward", "balance_reward"])
def test_dotted_paths(name: str) -> None:
    """A renamed function, on which other people's configurations rely; TRL's other arguments refused."""
    function = getattr(importlib.import_module("look_again.rl.rewards"), name)
    assert pickle.loads(pickle.dumps(function)) is function
    extra = {"trainer_state": None, "log_extra": print, "log_metric": print, "prompts": ["p"], "completion_ids": [[1]]}
    assert isinstance(function([GOOD], answer=["B"], **extra)[0], float)


def test_empty_batch() -> None:
    """Nothing to score broken by a look at the first completion."""
    assert format_reward([]) == accuracy_reward([], answer=[]) == balance_reward([]) == []


def test_statistics() -> None:
    """Logged numbers that disagree with the rewards, or a mean over no reflections."""
    text = HEAD + "<REFLECTION>12345678</REFLECTION><REFLECTION> </REFLECTION>" + END
    statistics = reward_statistics(text, reference="B")
    assert (statistics.reflections, statistics.empty_reflections) == (2, 1)
    assert statistics.reflection_tokens == (2.0, 0.25)  # four characters a token
    assert statistics.tokens_per_reflection == 1.125
    assert (statistics.well_formed, statistics.correct) == (True, True)
    nothing = reward_statistics([{"role": "assistant", "content": ""}])
    assert (nothing.reflections, nothing.tokens_per_reflection) == (0, None)
    assert (nothing.well_formed, nothing.correct) == (False, None)


def test_statistics_count_on_ids(tokenizer: Any) -> None:
    """Statistics that estimate although ids and tags are there."""
    text = HEAD + "<REFLECTION>look at it</REFLECTION>" + END
    inside = tokenizer.encode("look at it", add_special_tokens=False)
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert reward_statistics(text, completion_ids=ids, tags=tokenizer).reflection_tokens == (len(inside),)
