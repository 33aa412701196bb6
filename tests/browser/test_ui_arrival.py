"""The page of `look-again ui` on arrival: a finished answer, its conclusion in view, for eyes, keys and ears."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.browser.asking import MODES
from tests.browser.windows import LAPTOP, PATIENCE_S, PHONE

SCREENS = pytest.mark.parametrize(
    ("size", "scheme"), [(LAPTOP, "light"), (LAPTOP, "dark"), (PHONE, "light"), (PHONE, "dark")]
)


def test_a_finished_answer_is_there_on_arrival(asker):
    """What the model knows, what to ask, and its answers to the question that stands in the form."""
    ann = asker()
    ann.rest()
    assert ann.part("copy", ".la-done.la-hot").count() == 1
    conclusions = [ann.part(mode, ".la-verdict").inner_text() for mode in MODES]
    assert all(word not in ("", "…") for word in conclusions)
    written = ann.part("copy", ".la-conclusion").last.inner_text()
    assert conclusions[1].splitlines()[-1] in written
    assert ann.page.locator("#la-question textarea").input_value() != ""
    ann.see("looks at the picture again before it concludes")
    ann.see("How many red objects are there?")
    ann.part("copy", ".la-caption [data-t]").nth(0).hover()
    assert "token" in ann.reading("copy")
    assert not ann.scrolls_sideways()


def test_a_phone_arrives_at_an_answer_and_its_heat(asker):
    ann = asker(size=PHONE, has_touch=True, is_mobile=True)
    ann.rest()
    picture = ann.part("text", ".la-picture").bounding_box()
    assert picture["y"] + picture["height"] / 2 < PHONE["height"]
    assert not ann.scrolls_sideways()


def test_conclusions_stay_in_view_beside_their_modes(asker):
    ann = asker()
    ann.ask(5)
    for place in (0, 400, 100_000):
        ann.page.evaluate("place => window.scrollTo(0, place)", place)
        ann.page.wait_for_timeout(300)
        for mode in MODES:
            assert ann.within(f"#la-{mode} .la-verdict"), (mode, place)


def test_conclusions_stay_in_view_on_a_phone(asker):
    """In a bar at the lower edge, from which each leads to its answer."""
    ann = asker(size=PHONE, has_touch=True, is_mobile=True)
    ann.ask(5)
    assert ann.page.locator(".la-verdicts a").all_inner_texts()[0].startswith("Text")
    for place in (0, 700, 100_000):
        ann.page.evaluate("place => window.scrollTo(0, place)", place)
        ann.page.wait_for_timeout(300)
        assert ann.within(".la-verdicts"), place
    ann.page.evaluate("window.scrollTo(0, 0)")
    ann.page.locator(".la-verdicts a[data-mode=route]").tap()
    ann.page.wait_for_timeout(500)
    assert ann.within("#la-route h3")


def test_a_model_of_anything_is_asked_nothing_unbidden(endless, asker):
    ann = asker(endless.url)
    ann.rest()
    ann.see("press Ask")
    assert ann.page.locator(".la-answer").count() == 0
    assert ann.page.locator("#la-question textarea").input_value() != ""
    ann.page.locator("#la-question textarea").press("End")
    assert ann.barriers() == []


@SCREENS
def test_there_are_no_barriers(asker, size, scheme):
    """By axe-core, at rest and asked."""
    ann = asker(size=size, scheme=scheme)
    ann.rest()
    assert ann.barriers() == []
    ann.ask(2)
    ann.page.click("#la-more button")
    ann.part("copy", ".la-code summary").click()
    assert ann.barriers() == []


def test_everything_is_done_by_key_and_said_to_listeners(asker):
    """Choose a scene, ask, move along the words and open a section, without a mouse."""
    ann = asker()
    ann.rest()
    ann.page.locator(".la-scene").nth(2).focus()
    ann.page.keyboard.press("Enter")
    title = ann.page.locator(".la-scene").nth(2).get_attribute("title")
    expect(ann.page.locator("#la-question textarea")).to_have_value(
        f"{title} Think at length.", timeout=PATIENCE_S * 1000
    )
    ann.page.locator("#la-question textarea").focus()
    for _ in range(8):
        if ann.page.evaluate("document.activeElement.id") == "la-ask":
            break
        ann.page.keyboard.press("Tab")
    assert ann.page.evaluate("document.activeElement.id") == "la-ask"
    before = ann.key("copy")
    ann.page.keyboard.press("Enter")
    ann.measured("copy", before)
    said = ann.page.locator(".la-live")
    expect(said).to_contain_text("COPY concludes: ", timeout=PATIENCE_S * 1000)
    ann.part("copy", ".la-range").focus()
    ann.page.keyboard.press("Home")
    ann.page.keyboard.press("ArrowRight")
    heard = ann.part("copy", ".la-range").get_attribute("aria-valuetext")
    assert "token 2 of " in heard
    assert "most at row " in heard
    ann.part("copy", ".la-title-button").first.focus()
    ann.page.keyboard.press("Enter")
    expect(said).to_contain_text("SUMMARY · mean of its ", timeout=PATIENCE_S * 1000)
    look = ann.part("copy", "button.la-look").first
    look.focus()
    ann.page.keyboard.press("Enter")
    assert look.get_attribute("aria-pressed") == "true"
    expect(said).to_contain_text("looks again", timeout=PATIENCE_S * 1000)
