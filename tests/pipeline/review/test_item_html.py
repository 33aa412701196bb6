"""What reviewers see: sections, problems and verdicts in words; and nothing that a row says becomes HTML."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from PIL import Image

from look_again.pipeline.ledger.ledger import Ledger
from look_again.pipeline.review.item_html import (
    badges_css,
    chooser_html,
    done_html,
    header_html,
    images_html,
    keys_html,
    left_html,
    question_html,
    right_html,
)
from look_again.pipeline.review.response_text import blocks, escape, explain, grammar_html, sections_html
from look_again.pipeline.review.session import PageState, Progress, ReviewSession
from look_again.text.grammar import parse
from tests.pipeline.review.review_runs import PEOPLE, prepare, rows_of

HOSTILE = "<script>alert(1)</script><img src=x onerror='alert(2)'>${alert(3)}{{constructor}}\"&"


class Tags(HTMLParser):
    """The tags and attributes of a piece of HTML, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def state(tmp_path, response):
    with Ledger(tmp_path) as ledger:
        prepare(ledger, response, before=response.replace(">4<", ">3<"))
        session = ReviewSession(ledger, PEOPLE)
        yield session.next("ann")


def test_sections_are_named_and_coloured_in_order(response):
    found = re.findall(r'class="la-section la-(\w+)"><h4>(\w+)', sections_html(response))
    assert found == [(tag.lower(), tag) for tag in ("SUMMARY", "CAPTION", "REASONING", "REFLECTION", "CONCLUSION")]
    assert "empty" in sections_html(response)  # the bare reflection


def test_a_broken_response_is_shown_whole():
    """Text outside, a tag inside a section and a section without an end must all be there to be seen."""
    text = "hello <SUMMARY>a <CAPTION>b</SUMMARY> and <REASONING>c"
    found = [(block.tag, block.text, block.closed) for block in blocks(text)]
    assert found == [
        (None, "hello ", False),
        ("SUMMARY", "a <CAPTION>b", True),
        (None, " and ", False),
        ("REASONING", "c", False),
    ]
    assert "never closed" in sections_html(text)
    assert "a &lt;CAPTION&gt;b" in sections_html(text)


@pytest.mark.parametrize("text", ["", "   ", None])
def test_no_response(text):
    assert "no response" in sections_html(text)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("</CAPTION>", ""), "Line 1: <CAPTION> is never closed by </CAPTION>."),
        (("<CONCLUSION>4</CONCLUSION>", ""), "There is no <CONCLUSION> section."),
        (("<REFLECTION></REFLECTION>", ""), "There is no <REFLECTION> section; one at least is needed."),
        (("<REASONING>", "\n\nwell, now <REASONING>"), "Line 3: there is text outside of the sections: “well, now”."),
        ((">r<", "> <"), "Line 1: <REASONING> is empty."),
        ((">s<", ">s<REFLECTION>x</REFLECTION><"), "Line 1: <REFLECTION> is opened inside of another section."),
        ((">4<", ">4</SUMMARY><"), "Line 1: </SUMMARY> closes nothing."),
        (("</CONCLUSION>", "</CONCLUSION>\n<CONCLUSION>5</CONCLUSION>"), "Line 2: <CONCLUSION> comes a second time."),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(response, change, said):
    text = response.replace(*change)
    assert said in [explain(problem, text) for problem in parse(text).problems]
    assert "✗ The grammar is broken." in grammar_html(text)
    assert escape(said) in grammar_html(text)


def test_what_follows_from_one_mistake_is_counted_and_not_listed(response):
    said = grammar_html(response.replace("</CAPTION>", ""))
    assert said.count("<li>") == 2
    assert "And 6 more, which may follow from this." in said
    five = grammar_html(response + "<SUMMARY>s</SUMMARY>" * 5)
    assert five.count("<li>") == 5
    assert "And 1 more, which may follow from these." in five


def test_sections_in_the_wrong_order_are_told_the_order(response):
    text = response.replace("<SUMMARY>s</SUMMARY>", "") + "<SUMMARY>s</SUMMARY>"
    (said,) = [explain(problem, text) for problem in parse(text).problems]
    assert said.startswith("Line 1: <SUMMARY> stands in the wrong place; the order is SUMMARY, CAPTION")


def test_the_check_says_whether_there_is_anything_to_save(response):
    assert "Ctrl+Enter saves." in grammar_html(response)
    assert "Nothing is changed yet." in grammar_html(response, changed=False)


def test_the_page_shows_verdicts_and_what_they_were_about(state):
    text = Tags(right_html(state)).text
    assert "Response rewritten" in text
    assert "What the judges said 1 objection flagged" in text
    assert "about the response before it was rewritten" in text
    assert "✗ answer incorrect ✓ reasoning correct" in text
    assert "it says <4> & not 5" in text
    assert "abstains" in text
    assert "The response before it was rewritten" in text


def test_an_open_editor_shows_what_will_be(state, response):
    draft = response.replace(">4<", ">5<")
    editing = replace(state, view=replace(state.view, draft=draft), editing=True)
    assert "As it will be" in right_html(editing)
    assert "<div>5</div>" in right_html(editing)


def test_the_top_line_says_who_how_far_and_what_happened(state):
    text = Tags(header_html(state)).text
    assert "ann" in text
    assert "0 of 3 decided" in text
    assert "row r0" in text
    refused = PageState("ann", Progress(3, 4), message="no <b>", refused=True)
    assert 'style="width:75%"' in header_html(refused)
    assert "✗ no &lt;b&gt;" in header_html(refused)


def test_the_end_of_a_share_and_an_empty_run_differ():
    assert "Your share is done" in done_html(PageState("ann", Progress(3, 3)))
    assert "Nothing to review" in right_html(PageState("ann", Progress(0, 0)))


def test_a_decision_is_shown_with_its_note(tmp_path, response):
    with Ledger(tmp_path) as ledger:
        prepare(ledger, response)
        session = ReviewSession(ledger, PEOPLE)
        after = session.act("ann", session.next("ann").seen, "reject", note="<b>blurred</b>")
        said = header_html(session.browse("ann", after.seen, -1))
    assert "<b>rejected</b> by ann" in said
    assert "&lt;b&gt;blurred&lt;/b&gt;" in said


def test_every_key_is_on_the_page():
    assert "n writes a note" in Tags(keys_html()).text
    for name, key in (("accept", "a"), ("reject", "r"), ("undo", "u"), ("later", "→"), ("save", "Ctrl Enter")):
        assert f'#la-{name}::after {{ content: "{key}" }}' in badges_css()


def test_options_are_lettered_and_the_reference_is_spelled_out():
    (row,) = rows_of(1, options=("red", "blue"), reference="B")
    assert "<b>B</b> (blue)" in question_html(row)
    (row,) = rows_of(1, options=("red", "blue"), reference="C")
    assert "<b>C</b></div>" in question_html(row)
    assert "none known" in question_html(rows_of(1)[0])


def test_pictures_are_inside_the_page_and_a_lost_one_says_so(tmp_path):
    shown = images_html([Image.new("RGB", (30, 30)), Image.new("RGB", (30, 40))])
    assert shown.count('src="data:image/png;base64,') == 2
    assert 'alt="picture 2 of 2"' in shown
    assert "picture 1 cannot be shown" in images_html([tmp_path / "<gone>.png"])
    assert "<gone>" not in images_html([tmp_path / "<gone>.png"])
    assert "no picture" in images_html([])


def test_nothing_that_a_row_says_becomes_html(tmp_path, response):
    """Also not by way of the page's templates, which replace ${…} and {{…}}."""
    text = response.replace(">c<", f">{HOSTILE}<") + HOSTILE
    row = rows_of(1, id=HOSTILE, question=HOSTILE, options=(HOSTILE,), reference=HOSTILE, source=HOSTILE)
    with Ledger(tmp_path) as ledger:
        prepare(ledger, text, row, before=HOSTILE)
        session = ReviewSession(ledger, (HOSTILE, "bob"))
        state = session.next(HOSTILE)
        pieces = [header_html(state), left_html(state), right_html(state), grammar_html(text)]
        pieces += [chooser_html([HOSTILE], {HOSTILE: HOSTILE}), header_html(session.act(HOSTILE, HOSTILE, HOSTILE))]
    for piece in pieces:
        assert not Tags(piece).tags & {"script", "img"}
        assert not {name for name in Tags(piece).attributes if name.startswith("on")}
        assert not set("{}$") & set(piece)
        assert "alert(1)" in piece  # it is shown, as text
