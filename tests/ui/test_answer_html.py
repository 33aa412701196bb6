"""An answer as HTML: words escaped, tokens and sections numbered as the analysis numbers them, looks in their place."""

from __future__ import annotations

import re
from html import unescape

from look_again.analysis.token_sections import section_names, sections_of_tokens
from look_again.core.generate import Token
from look_again.serving.backend import Started
from look_again.text.grammar import parse
from look_again.ui.answer_html import AnswerDisplay, answer_html, conclude, conclusions_html, progress
from tests.ui.ui_answers import ANSWER, GRID, TOKENIZER, build_events, build_transcript, encode

HOSTILE = '<img src=x onerror="window.hit=1"><script>window.hit=2</script>${window.hit=3}{{constructor}}'
SHOWN = AnswerDisplay("pictures/abc", (300, 200))


def html_of(text: str, mode: str = "route", rows: tuple[int, ...] = (0, 4, 5)) -> str:
    return answer_html(build_transcript(build_events(text, rows, mode), mode), SHOWN)


def tokens_in(html: str) -> dict[int, str]:
    return {
        int(number): unescape(text) for number, text in re.findall(r'<span data-t="(\d+)">(.*?)</span>', html, re.S)
    }


def test_a_models_words_are_text():
    """Words of the model (and so of a picture that tells it what to say) never become markup or a template."""
    html = html_of(ANSWER.replace(" a3 red ball", HOSTILE))
    assert "<script" not in html
    assert "<img src=x" not in html
    assert "${" not in html
    assert "{{" not in html
    assert HOSTILE in "".join(tokens_in(html).values())


def test_a_picture_address_and_a_message_are_text():
    transcript = build_transcript([Started(20, 6)])
    transcript.fail(HOSTILE)
    html = answer_html(transcript, AnswerDisplay('"><script>'))
    assert "<script" not in html
    assert "window.hit=1" in html


def test_every_word_is_the_token_that_wrote_it():
    ends, text = [], ""
    for token_id in encode(ANSWER):
        text += TOKENIZER.decode([token_id])
        ends.append(len(text))
    shown = tokens_in(html_of(ANSWER))
    written = {i: ANSWER[start:end] for i, (start, end) in enumerate(zip([0, *ends], ends, strict=False))}
    assert shown
    assert all(written[i].endswith(piece) for i, piece in shown.items())
    assert [i for i in written if i not in shown] == [i for i, piece in written.items() if piece[0] == "<"]


def test_cards_have_the_analysis_numbers():
    """Text outside of all sections is counted last, wherever it stands."""
    text = "before" + ANSWER.replace("</CAPTION>", "</CAPTION>between<REFLECTION></REFLECTION>")
    html = html_of(text)
    cards = re.findall(r'<section class="la-section la-(\w+)" data-section="(\d+)"', html)
    named = [section.tag.lower() for _, section in section_names(parse(text))]
    by_number = {int(number): tag for tag, number in cards}
    names, _ = sections_of_tokens(parse(text), build_transcript(build_events(text)).texts.ends)
    assert [by_number[i] for i in range(len(named))] == named
    assert by_number[len(named)] == "outside"
    assert len(names) == len(named) + 1


def test_looks_stand_before_their_reflection():
    html = html_of(ANSWER.replace("<CAPTION>", "<REFLECTION> hm</REFLECTION><CAPTION>"))
    order = re.findall(r'class="(?:la-section )?la-(look|summary|caption|reasoning|reflection|conclusion)"', html)
    assert order == ["summary", "look", "reflection", "caption", "reasoning", "look", "reflection", "conclusion"]
    assert "3 of 6 visual tokens put back" in html
    assert 'd="M1 0h2v1h-2zM0 1h1v1h-1z"' in html  # patches 1, 2 and 3 of 2 x 3 were left out


def test_a_look_is_shown_before_its_tag_is_written():
    events = build_events(ANSWER)
    cut = next(i for i, event in enumerate(events) if hasattr(event, "reflection")) + 1
    assert answer_html(build_transcript(events[:cut]), SHOWN).count("looks again") == 1
    assert answer_html(build_transcript(events[: cut + 1]), SHOWN).count("looks again") == 1


def test_text_only_says_that_nothing_was_put_back():
    html = html_of(ANSWER, "text", ())
    assert "text-only reflection puts nothing back" in html
    assert "looks again" not in html


def test_half_a_tag_is_held_back_while_it_may_become_one():
    spelled = [Started(20, 6), *(Token(0, token) for token in encode("<SUMMARY> a</SUMMARY>"))]
    pieces = [Token(0, token) for token in TOKENIZER("<REFL", add_special_tokens=False)["input_ids"]]
    running = build_transcript([*spelled, *pieces])
    assert "REFL" not in answer_html(running, SHOWN)
    running.stop()
    assert "REFL" in answer_html(running, SHOWN)


def test_only_a_kept_answer_can_be_scrubbed():
    transcript = build_transcript(build_events(ANSWER))
    assert "la-range" not in answer_html(transcript, SHOWN)
    transcript.key = 'k"y'
    html = answer_html(transcript, SHOWN)
    assert "la-range" in html
    assert 'data-key="k&quot;y"' in html
    assert f'data-rows="{GRID[1]}" data-columns="{GRID[2]}"' in html
    assert "la-range" not in answer_html(transcript, AnswerDisplay())  # without a picture


def test_progress_in_words():
    assert progress(build_transcript([])) == "waiting for its turn"
    assert progress(build_transcript(build_events(ANSWER)[:3])) == "2 tokens"
    assert "put back" in progress(build_transcript(build_events(ANSWER)))


def test_the_conclusion_stands_beside_the_modes_name():
    """It was found below everything else."""
    html = html_of(ANSWER)
    head = html[html.index("<header") : html.index("</header>")]
    assert ">ROUTE<" in head
    assert ">1</p>" in head
    running = build_transcript(build_events(ANSWER)[:4])
    assert conclude(running) == "…"
    assert conclude(build_transcript(build_events("<SUMMARY> a"))) == "no conclusion"


def test_conclusions_of_all_modes_are_links_to_their_answers():
    hostile = ANSWER.replace("<CONCLUSION> 1", f"<CONCLUSION> {HOSTILE}")
    shown = [
        build_transcript(build_events(text, mode=mode), mode) for text, mode in ((ANSWER, "copy"), (hostile, "route"))
    ]
    html = conclusions_html(shown)
    assert re.findall(r'href="#la-column-(\w+)"', html) == ["copy", "route"]
    assert "<script" not in html
    assert "<img" not in html
    assert conclusions_html([]) == ""
