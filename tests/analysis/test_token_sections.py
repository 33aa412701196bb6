"""Which section a token belongs to, by the text that it adds."""

from __future__ import annotations

import pytest

from look_again.analysis.token_sections import OUTSIDE, sections_of_tokens, token_ends
from look_again.text.chat import decode_text
from look_again.text.grammar import parse


def owners(tokenizer, text: str, *, extra: list[int] | None = None) -> tuple[list[str], list[str]]:
    """The sections' names, and per token the name of its own ("" for none)."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"] + (extra or [])
    names, found = sections_of_tokens(parse(text), token_ends(tokenizer, ids))
    return names, [names[i] if i >= 0 else "" for i in found]


@pytest.mark.parametrize("text", ["plain words", "naïve café 😀 end", "日本語<SUMMARY>é</SUMMARY>"])
def test_ends_are_those_of_decoding_everything(tokenizer, text):
    """Would catch a character spread over several tokens counted twice or never."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    ends = token_ends(tokenizer, ids)
    assert ends[-1] == len(decode_text(tokenizer, ids)) == len(text)
    for i, end in enumerate(ends):
        so_far = decode_text(tokenizer, ids[: i + 1]).rstrip("\ufffd")
        assert end == len(so_far) or not text.isascii()
    assert ends == sorted(ends)


def test_tags_belong_to_their_section_and_reflections_are_numbered(tokenizer):
    """Would catch a closing tag given to the next section, and two reflections in one panel."""
    text = "<CAPTION>a</CAPTION><REFLECTION></REFLECTION><REFLECTION>b</REFLECTION>"
    names, found = owners(tokenizer, text)
    assert names == ["CAPTION", "REFLECTION 1", "REFLECTION 2"]
    assert found == ["CAPTION"] * 3 + ["REFLECTION 1"] * 2 + ["REFLECTION 2"] * 3


def test_a_single_reflection_has_no_number_and_a_cut_off_section_counts(tokenizer):
    names, found = owners(tokenizer, "<REFLECTION>b</REFLECTION><CONCLUSION>four")
    assert names == ["REFLECTION", "CONCLUSION"]
    assert set(found[3:]) == {"CONCLUSION"}


def test_text_outside_and_tokens_without_text(tokenizer):
    """Would catch the end of turn, which adds no text, shown as a section of its own; and free text lost."""
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert owners(tokenizer, "<SUMMARY>a</SUMMARY>", extra=[end])[1][-1] == ""
    names, found = owners(tokenizer, "four", extra=[end])
    assert names == [OUTSIDE]
    assert set(found[:-1]) == {OUTSIDE}


def test_tags_spelled_in_pieces(tokenizer):
    """Would catch sections found by tag tokens only: untrained models spell them."""
    text = "<SUMMARY>go</SUMMARY>"
    ids = [i for character in text for i in tokenizer(character, add_special_tokens=False)["input_ids"]]
    names, found = sections_of_tokens(parse(text), token_ends(tokenizer, ids))
    assert (names, set(found)) == (["SUMMARY"], {0})
