"""Reflection balance, 1 - |L / N - 100| / 100, on token ids laid out by hand.

Tags take the ids 1 to 10 in the grammar's order, so `<REFLECTION>` is 7 and `</REFLECTION>` 8; other ids are text.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from look_again.rl.rewards import BalanceReward, balance_reward
from look_again.text.grammar import TAG_TOKENS
from look_again.text.tags import MissingTagsError

TAGS = {tag: id for id, tag in enumerate(TAG_TOKENS, start=1)}
CAPTION, CAPTION_END, LOOK, LOOK_END = 3, 4, 7, 8
IMAGE = 90


def look(tokens: int) -> list[int]:
    return [LOOK, *[50] * tokens, LOOK_END]


@pytest.mark.parametrize(
    ("ids", "balance"),
    [
        (look(100), 1.0),
        (look(50), 0.5),
        (look(150), 0.5),
        (look(0), 0.0),  # the model just looks
        (look(200), 0.0),
        (look(250), -0.5),
        (look(300), -1.0),
        (look(1024), -1.0),  # -8.24, cut
        (look(60) + [50] * 7 + look(90), 0.75),  # mean 75
        (look(0) + look(0) + look(150), 0.5),  # mean 50: empty ones count as reflections
        (look(200) + look(0), 1.0),
        ([50] * 500 + look(100) + [50] * 500, 1.0),  # only what is inside counts
        ([LOOK, *[IMAGE] * 40, LOOK_END], 0.4),  # sampled image tokens are tokens
        # undefined in the paper: no reflection, or one that never closes
        ([], -1.0),
        ([50] * 100, -1.0),
        ([LOOK, *[50] * 100], -1.0),
        ([*look(100), LOOK, 50], -1.0),
        ([50] * 10 + [LOOK_END], -1.0),
        ([LOOK] * 10_000, -1.0),
        ([LOOK, CAPTION, *[50] * 50] * 200, -1.0),
        # nesting: the grammar's reflections and no others
        ([LOOK, *look(98), LOOK_END], 1.0),  # one of 98 tokens and the two tags in it
        ([CAPTION, *look(100), CAPTION_END], -1.0),
        ([CAPTION, *look(100), CAPTION_END, *look(40)], 0.4),
        ([CAPTION, LOOK, *[50] * 100, CAPTION_END], -1.0),  # closed with its section, as content of it
        ([LOOK, *[50] * 39, CAPTION, LOOK_END], 0.4),
        ([LOOK_END, *look(40), LOOK_END], 0.4),
    ],
)
def test_balance_on_token_ids(ids: list[int], balance: float) -> None:
    """Tokens counted outside the tags, twice or not at all; a hack of the tags that pays."""
    assert BalanceReward(TAGS)([""], completion_ids=[ids]) == [pytest.approx(balance)]


def test_settings() -> None:
    """A setting that does not arrive: the paper's unbounded form, another length, another value of the undefined."""
    rows = [look(1024), look(20), []]
    texts = [""] * 3
    assert BalanceReward(TAGS, floor=None)(texts, completion_ids=rows) == pytest.approx([-8.24, 0.2, -1.0])
    assert BalanceReward(TAGS, length=20, floor=0)(texts, completion_ids=rows) == pytest.approx([0.0, 1.0, -1.0])
    assert BalanceReward(TAGS, undefined=-3)(texts, completion_ids=rows) == pytest.approx([-1.0, 0.2, -3.0])


@pytest.mark.parametrize(
    "settings",
    [{"length": 0}, {"length": -100}, {"length": float("nan")}, {"floor": float("-inf")}, {"undefined": float("nan")}],
)
def test_bad_settings(settings: dict[str, float]) -> None:
    """A division by zero or a NaN that only shows in the loss."""
    with pytest.raises(ValueError, match=next(iter(settings))):
        BalanceReward(TAGS, **settings)


def test_ids_may_be_tensors() -> None:
    """Elements of a tensor do not look up as the numbers they are: no tag found, every balance the lowest."""
    assert BalanceReward(TAGS)([""], completion_ids=torch.tensor([look(50)])) == [0.5]


def test_tags_come_from_a_tokenizer_or_its_processor(tokenizer: Any) -> None:
    """Ids taken from another place than the tokenizer, or special tokens added while counting."""
    text = "<REFLECTION>Look: the ball is red.</REFLECTION>"
    inside = len(tokenizer.encode("Look: the ball is red.", add_special_tokens=False))
    ids = [tokenizer.encode(text, add_special_tokens=False)]
    for tags in (tokenizer, SimpleNamespace(tokenizer=tokenizer)):
        assert BalanceReward(tags)([text], completion_ids=ids) == [pytest.approx(inside / 100)]
        assert balance_reward([text], completion_ids=ids, processing_class=tags) == [pytest.approx(inside / 100)]
    assert balance_reward([text], completion_ids=ids, tokenizer=tokenizer) == [pytest.approx(inside / 100)]


def test_tags_that_cannot_be_used() -> None:
    """Reflections missed because a tag is not known, and the run goes on with the lowest reward for all."""
    without = {tag: id for tag, id in TAGS.items() if tag != "<CAPTION>"}
    with pytest.raises(ValueError, match=r"missing: \['<CAPTION>'\]"):
        BalanceReward(without)
    with pytest.raises(ValueError, match="an id of its own"):
        BalanceReward(TAGS | {"<CAPTION>": LOOK})
    with pytest.raises(ValueError, match="not int"):
        BalanceReward(7)
    with pytest.raises(MissingTagsError, match="<SUMMARY>"):
        BalanceReward(_bare_tokenizer())


def _bare_tokenizer() -> Any:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"u": 0}, unk_token="u")), unk_token="u")


def test_missing_ids() -> None:
    """Exact counting asked for and an estimate given instead; a row too few."""
    with pytest.raises(ValueError, match="completion_ids"):
        BalanceReward(TAGS)([""])
    with pytest.raises(ValueError, match="1 entries for 2 completions"):
        BalanceReward(TAGS)(["", ""], completion_ids=[[]])


def test_estimate_from_share_of_characters() -> None:
    """Tags or their characters counted as text of the reflection.

    24 characters outside the tags, 16 of them in the reflection, and 4 tags. Of 52 tokens 4 are the tags, so 2 tokens
    per character: 32 tokens, balance 0.32.
    """
    text = "<CAPTION>abcdefgh</CAPTION><REFLECTION>abcdefgh ijklmno</REFLECTION>"
    assert balance_reward([text], completion_ids=[[0] * 52]) == [pytest.approx(0.32)]
    assert BalanceReward()([text], completion_ids=[[0] * 52]) == [pytest.approx(0.32)]
    assert balance_reward([text], completion_ids=[[0] * 3]) == [0.0]  # spelled tags: never less than no tokens


def test_estimate_from_characters_alone() -> None:
    """Without ids: 200 characters are 50 tokens, balance 0.5; an open reflection and none stay the lowest."""
    closed = f"<REFLECTION>{'a' * 200}</REFLECTION>"
    completions = [closed, [{"role": "assistant", "content": closed}], f"<REFLECTION>{'a' * 400}", ""]
    assert balance_reward(completions) == [0.5, 0.5, -1.0, -1.0]
    assert balance_reward(["<REFLECTION>" * 10_000]) == [-1.0]
