"""How the review page looks, on a laptop and on a phone, light and dark: what has to be in sight is, and readable.

With LOOK_AGAIN_FIGURES=docs/figures the pictures of the documentation are made anew.
"""

from __future__ import annotations

from functools import partial

import pytest
from playwright.sync_api import expect

from tests.browser.reviewing import Reviewer
from tests.browser.windows import PHONE


@pytest.fixture
def reviewer(window):
    return partial(window, kind=Reviewer)


def to_a_rewritten_row(one: Reviewer) -> None:
    while "before it was rewritten" not in one.page.inner_text("#la-columns"):
        one.press("a")
        assert one.row(), "no row was rewritten"


@pytest.mark.parametrize(("scheme", "figure"), [("light", "review-row"), ("dark", "review-dark")])
def test_a_laptop_shows_picture_and_answer_together(review, reviewer, scheme, figure):
    ann = reviewer(review().of("ann"), scheme=scheme)
    to_a_rewritten_row(ann)
    ann.figure(figure)
    for part in (".la-pictures img", ".la-reference", ".la-summary", ".la-conclusion", "#la-accept", ".la-keys"):
        assert ann.within(part), part
    assert not ann.scrolls_sideways()
    assert ann.faint() == []
    dark = sum(map(int, ann.page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g)")[:3])) < 384
    assert dark == (scheme == "dark")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_refused_edit_is_explained_beside_the_picture(review, reviewer, scheme):
    ann = reviewer(review().of("ann"), scheme=scheme)
    ann.press("e")
    ann.editor.fill(ann.editor.input_value().replace("</CAPTION>", ""))
    ann.see("never closed by")
    ann.press("Control+Enter")
    ann.see("the edited response breaks the grammar")
    if scheme == "light":
        ann.figure("review-refused")
    for part in (".la-pictures img", "#la-editor", ".la-check", "#la-save"):
        assert ann.within(part), part
    assert not ann.scrolls_sideways()
    assert ann.faint() == []


def test_a_phone_scrolls_one_way_only(review, reviewer):
    """By touch alone: a decision, an edit that is left, and back."""
    ann = reviewer(review().of("ann"), size=PHONE, has_touch=True, is_mobile=True)
    to_a_rewritten_row(ann)
    ann.figure("review-phone")
    for part in (".la-pictures img", ".la-reference", ".la-summary", "#la-accept", "#la-reject", "#la-undo"):
        assert ann.within(part), part
    assert not ann.scrolls_sideways()
    ann.click("edit")
    expect(ann.editor).to_be_visible()
    assert ann.within("#la-save")
    assert not ann.scrolls_sideways()
    ann.click("leave")
    first = ann.row()
    ann.click("reject")
    ann.see(f"{first}: rejected")


def test_a_long_row_starts_at_its_top(review, reviewer):
    """Whoever scrolled down to decide must not meet the next row's end first."""
    ann = reviewer(review().of("ann"), size={"width": 900, "height": 420})
    ann.row()
    ann.page.evaluate("scrollTo(0, document.body.scrollHeight)")
    assert ann.page.evaluate("scrollY") > 0
    ann.press("a")
    assert ann.page.evaluate("scrollY") == 0


def test_the_ends_are_plain(review, reviewer):
    server = review()
    reviewer(server.url).see("Who is reviewing?")
    ann = reviewer(server.of("ann"))
    while ann.row():
        ann.press("a")
    ann.see("Your share is done")
    assert ann.faint() == []
