"""The response grammar: hand-worked cases, then streaming and recognition against independent definitions."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from look_again.text.grammar import (
    TAG_TOKENS,
    TAGS,
    Problem,
    Section,
    StreamEvent,
    StreamParser,
    close_tag,
    open_tag,
    parse,
)

S = "<SUMMARY>plan</SUMMARY>"
C = "<CAPTION>a cat</CAPTION>"
R = "<REASONING>so</REASONING>"
LOOK = "<REFLECTION></REFLECTION>"
END = "<CONCLUSION>B</CONCLUSION>"


def kinds(text: str, **options: int) -> list[tuple[str, str | None]]:
    return [(problem.kind, problem.tag) for problem in parse(text, **options).problems]


def test_tag_tokens_are_open_then_close_in_tag_order() -> None:
    """A changed order would give saved vocabularies other ids for the same tag."""
    assert TAGS == ("SUMMARY", "CAPTION", "REASONING", "REFLECTION", "CONCLUSION")
    assert TAG_TOKENS[:4] == ("<SUMMARY>", "</SUMMARY>", "<CAPTION>", "</CAPTION>")
    assert len(TAG_TOKENS) == len(set(TAG_TOKENS)) == 10


@pytest.mark.parametrize("make", [open_tag, close_tag, parse(S).get])
def test_unknown_tag_is_named_in_the_error(make) -> None:
    """A misspelt section silently giving None or a token outside the vocabulary."""
    with pytest.raises(ValueError, match="'summary'"):
        make("summary")


@pytest.mark.parametrize(
    "text",
    [
        S + C + R + LOOK + END,
        f"\n{S}\n\n{C} {R}\t{LOOK}\n{END}\n",
        S + LOOK + C + R + END,
        S + C + LOOK + R + END,
        S + LOOK + LOOK + C + LOOK + R + LOOK + END,
        S + C + "<REASONING>1 < 2 > 0, <b>, </ SUMMARY>, <SUMMARY</REASONING>" + LOOK + END,
    ],
)  # fmt: skip
def test_well_formed(text: str) -> None:
    """A grammar stricter than the paper's: reflections between any sections, free whitespace, plain `<`."""
    response = parse(text)
    assert response.problems == ()
    assert response.well_formed
    assert response.conclusion == "B"


def test_spans_are_verbatim_and_texts_stripped() -> None:
    """Off-by-one spans, or an offset map built on stripped text."""
    text = "<SUMMARY> x \n</SUMMARY><REFLECTION> </REFLECTION>"
    response = parse(text)
    assert response.sections == (Section("SUMMARY", "x", 9, 13), Section("REFLECTION", "", 35, 36))
    assert text[9:13] == " x \n"
    assert response.reflections == [Section("REFLECTION", "", 35, 36)]
    assert response.get("SUMMARY") == Section("SUMMARY", "x", 9, 13)
    assert response.get("CAPTION") is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # one breach each
        (C + R + LOOK + END, [("missing", "SUMMARY")]),
        (S + C + R + END, [("missing", "REFLECTION")]),
        (S + C + R + LOOK, [("missing", "CONCLUSION")]),
        (S + S + C + R + LOOK + END, [("repeated", "SUMMARY")]),
        (S + C + R + LOOK + END + END, [("repeated", "CONCLUSION")]),
        (S + R + C + LOOK + END, [("out-of-order", "CAPTION")]),
        (LOOK + S + C + R + END, [("out-of-order", "REFLECTION")]),
        (LOOK + LOOK + S + C + R + END, [("out-of-order", "REFLECTION")] * 2),
        (S + C + R + LOOK + END + LOOK, [("out-of-order", "REFLECTION")]),
        (END + S + C + R + LOOK, [("out-of-order", tag) for tag in TAGS[:4]]),
        (S + "</CAPTION>" + C + R + LOOK + END, [("unopened", "CAPTION")]),
        ("hm " + S + C + R + LOOK + END, [("text-outside", None)]),
        (S + C + R + LOOK + END + "<|im_end|>", [("text-outside", None)]),
        (S + "a" + C + "b" + R + LOOK + END, [("text-outside", None)] * 2),
        (S + "\u200b" + C + R + LOOK + END, [("text-outside", None)]),
        ("<SUMMARY> \n</SUMMARY>" + C + R + LOOK + END, [("empty", "SUMMARY")]),
        (S + C + R + LOOK + "<CONCLUSION></CONCLUSION>", [("empty", "CONCLUSION")]),
        (S + C + f"<REASONING>so {LOOK}</REASONING>" + LOOK + END, [("nested", "REFLECTION")]),
        # a reflection inside the reasoning is no reflection
        (
            S + C + f"<REASONING>so {LOOK}</REASONING>" + END,
            [("nested", "REFLECTION"), ("missing", "REFLECTION")],
        ),
        # overlap: CAPTION is opened inside SUMMARY and closed after it
        (
            "<SUMMARY>a<CAPTION>b</SUMMARY></CAPTION>" + R + LOOK + END,
            [("nested", "CAPTION"), ("unclosed", "CAPTION"), ("unopened", "CAPTION"), ("missing", "CAPTION")],
        ),
        # truncated inside the conclusion: present, but not closed
        (S + C + R + LOOK + "<CONCLUSION>B</CONCL", [("unclosed", "CONCLUSION")]),
        ("", [("missing", tag) for tag in TAGS]),
    ],
)  # fmt: skip
def test_each_breach_is_reported_once_and_by_name(text: str, expected: list[tuple[str, str | None]]) -> None:
    """A reward or a data check that passes a malformed response, or names the wrong fault."""
    assert sorted(kinds(text)) == sorted(expected)
    assert not parse(text).well_formed


def test_positions_are_those_of_the_offenders_and_problems_come_in_order() -> None:
    """Error messages of the data tools pointing at the wrong character."""
    assert parse(" x" + C + "</SUMMARY>" + "<SUMMARY></SUMMARY>").problems == (
        Problem("text-outside", None, 1),
        Problem("unopened", "SUMMARY", 26),
        Problem("out-of-order", "SUMMARY", 36),
        Problem("empty", "SUMMARY", 45),
        Problem("missing", "REASONING", 55),
        Problem("missing", "REFLECTION", 55),
        Problem("missing", "CONCLUSION", 55),
    )


def test_min_reflections() -> None:
    """A threshold that ignores its argument, or accepts a meaningless one."""
    assert kinds(S + C + R + END, min_reflections=0) == []
    assert kinds(S + C + R + LOOK + END, min_reflections=2) == [("missing", "REFLECTION")]
    with pytest.raises(ValueError, match="-1"):
        parse("", min_reflections=-1)


@pytest.mark.parametrize(
    ("text", "conclusion"),
    [
        (f"<REFLECTION>{END}</REFLECTION>", None),
        (f"<REFLECTION><REFLECTION></REFLECTION>{END}</REFLECTION>", None),
        (f"<REFLECTION>{END}</REFLECTION><CONCLUSION>C</CONCLUSION>", "C"),
        (f"<REASONING>{END}", None),
        ("<CONCLUSION>12", None),
        ("<CONCLUSION>1</CONCLUSION><CONCLUSION> 2 </CONCLUSION>", "2"),
        ("<CONCLUSION></CONCLUSION>", ""),
        ("<conclusion>B</conclusion>", None),
        ("<СONCLUSION>B</СONCLUSION>", None),  # a Cyrillic letter
        ("＜CONCLUSION＞B＜/CONCLUSION＞", None),  # full-width brackets
        ("<CONCLUSION >B</CONCLUSION>", None),
    ],
)
def test_which_conclusion_is_the_answer(text: str, conclusion: str | None) -> None:
    """Rewarding an answer that was only considered, cut off, or written with a tag that is none."""
    assert parse(text).conclusion == conclusion


def test_unclosed_section_is_kept_apart() -> None:
    """A truncated reflection counted as a reflection, or lost altogether."""
    response = parse("<SUMMARY>a</SUMMARY><REFLECTION> look <CAPTION>b")
    assert response.unclosed == Section("REFLECTION", "look <CAPTION>b", 32, 48)
    assert response.reflections == []
    assert parse(S).unclosed is None


def test_stream_events_by_hand() -> None:
    """Withholding more than a possible tag, missing a split tag, a nested tag opening a section."""
    parser = StreamParser()
    assert parser.feed("hi <SUM") == [StreamEvent("text", None, "hi ")]
    assert parser.feed("") == []
    assert parser.feed("MARY>1 < 2 <") == [
        StreamEvent("open", "SUMMARY"),
        StreamEvent("text", "SUMMARY", "1 < 2 "),
    ]
    assert parser.feed("b</SUMMAR<CAPTION") == [StreamEvent("text", "SUMMARY", "<b</SUMMAR")]
    assert parser.feed("></CAPTION></SUMMARY>!") == [
        StreamEvent("text", "SUMMARY", "<CAPTION>"),
        StreamEvent("text", "SUMMARY", "</CAPTION>"),
        StreamEvent("close", "SUMMARY"),
        StreamEvent("text", None, "!"),
    ]
    assert parser.feed("<REFLECTION>x</") == [
        StreamEvent("open", "REFLECTION"),
        StreamEvent("text", "REFLECTION", "x"),
    ]
    assert parser.flush() == [StreamEvent("text", "REFLECTION", "</")]
    assert parser.flush() == []
    assert parser.close() == parser.close()
    with pytest.raises(ValueError, match="after the end"):
        parser.feed("more")


WELL_FORMED = [token for tag in TAGS for token in (open_tag(tag), "x", close_tag(tag), " ")]
FRAGMENTS = st.sampled_from(
    [
        *TAG_TOKENS,
        "<",
        "</",
        ">",
        "/",
        "<SUMMARY",
        "<RE",
        "FLECTION>",
        "CONCLUSION>",
        " ",
        "\n",
        "x",
        "é",
        "<x>",
    ]
)
NOISE = st.lists(FRAGMENTS, max_size=40)


@st.composite
def nearly_well_formed(draw: st.DrawFn) -> list[str]:
    """A correct response with up to three tokens dropped, doubled or exchanged."""
    tokens = list(WELL_FORMED)
    for _ in range(draw(st.integers(0, 3))):
        i, j = draw(st.integers(0, len(tokens) - 1)), draw(st.integers(0, len(tokens) - 1))
        edit = draw(st.sampled_from(["drop", "double", "swap", "add"]))
        if edit == "swap":
            tokens[i], tokens[j] = tokens[j], tokens[i]
        else:
            tokens[i : i + 1] = {"drop": [], "double": [tokens[i]] * 2, "add": [LOOK, tokens[i]]}[edit]
    return tokens


TEXTS = st.one_of(NOISE, nearly_well_formed()).map("".join)


def recogniser() -> re.Pattern[str]:
    """The grammar a second time, as one regular expression (slow, and without names for what is wrong)."""
    any_tag = "|".join(TAG_TOKENS)
    content = rf"(?:(?!{any_tag})[\s\S])*"
    look = rf"(?:<REFLECTION>{content}</REFLECTION>\s*)*"
    fixed = [rf"<{t}>\s*(?!{any_tag})\S{content}</{t}>\s*" for t in TAGS if t != "REFLECTION"]
    return re.compile(r"\s*" + look.join(fixed))


RECOGNISER = recogniser()


@settings(deadline=None)
@given(TEXTS)
def test_well_formed_is_what_the_regular_expression_accepts(text: str) -> None:
    """Any disagreement between the state machine and the grammar as written down in the paper."""
    assert parse(text, min_reflections=0).well_formed == bool(RECOGNISER.fullmatch(text))


@settings(deadline=None)
@given(TEXTS, st.lists(st.integers(0, 400), max_size=12), st.booleans())
def test_any_chunking_equals_the_whole(text: str, cuts: list[int], by_character: bool) -> None:
    """A tag split at some character read as text, and any other dependence on where the chunks end."""
    borders = range(len(text) + 1) if by_character else sorted({0, len(text), *(c for c in cuts if c < len(text))})
    parser = StreamParser()
    events = [e for a, b in pairwise(borders) for e in parser.feed(text[a:b])]
    events += parser.flush()
    response = parser.close()
    assert response == parse(text)
    written = {"open": open_tag, "close": close_tag}
    assert "".join(written[e.kind](e.tag) if e.tag and e.kind != "text" else e.text for e in events) == text
    closed, rest = section_texts(events)
    assert closed == [text[section.start : section.end] for section in response.sections]
    assert response.unclosed is None or rest == text[response.unclosed.start :]


def section_texts(events: list[StreamEvent]) -> tuple[list[str], str]:
    """Text events of each closed section, concatenated, and those after the last tag that counted."""
    texts, current = [], ""
    for event in events:
        if event.kind == "close":
            texts.append(current)
        current = current + event.text if event.kind == "text" else ""
    return texts, current


@settings(deadline=None)
@given(TEXTS)
def test_spans_slice_back_and_never_overlap(text: str) -> None:
    """Spans that include a tag, overlap, or do not belong to the text."""
    end = 0
    for section in parse(text).sections:
        opening, closing = open_tag(section.tag), close_tag(section.tag)
        assert section.start - len(opening) >= end
        end = section.end + len(closing)
        assert text[section.start - len(opening) : end].startswith(opening)
        assert text[section.end : end] == closing
        assert text[section.start : section.end].strip() == section.text


@settings(deadline=None)
@given(NOISE.map("".join))
def test_nothing_but_a_possible_tag_is_withheld(text: str) -> None:
    """A stream that stalls: the characters not yet given out must be the beginning of a tag."""
    parser = StreamParser()
    given_out = sum(
        len(event.text) if event.kind == "text" else len((open_tag if event.kind == "open" else close_tag)(event.tag))
        for event in parser.feed(text)
    )
    withheld = text[given_out:]
    assert withheld == "" or any(t.startswith(withheld) and t != withheld for t in TAG_TOKENS)


@pytest.mark.parametrize(
    "text",
    [
        "<" * 1_000_000,
        "</CONCLUSIO" * 50_000,
        "<SUMMARY>" * 30_000 + "</CAPTION>" * 30_000,
        "<SUMMARY>" * 30_000 + "</SUMMARY>" * 30_000,
        "<REFLECTION></REFLECTION>" * 15_000,
        "x</SUMMARY>" * 30_000,
    ],
    ids=["brackets", "half tags", "never closed", "deep", "many sections", "stray tags"],
)
def test_hostile_input_is_one_pass(text: str) -> None:
    """Work per tag that grows with what is open or already read: quadratic here takes minutes to hours."""
    assert not parse(text).well_formed


def test_hostile_stream_holds_back_a_bounded_prefix() -> None:
    """A buffer that is searched again from its start with every character."""
    parser = StreamParser()
    events = [event for _ in range(20_000) for event in parser.feed("<")]
    assert sum(len(event.text) for event in events) == 19_999
    assert parser.flush() == [StreamEvent("text", None, "<")]
