"""The page of `look-again ui` in a real Chromium, with the shipped model: ask, watch, compare, scrub, on any screen.

With LOOK_AGAIN_FIGURES=docs/figures the pictures of the documentation are made anew.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, expect

from tests.browser.asking import Asker
from tests.browser.windows import PATIENCE_S, PHONE, Server, chromium

HOSTILE = '<img src=x onerror="window.hit=1"><script>window.hit=2</script>${window.hit=3}{{constructor}} How many?'
GROWTH = """mode => {
  window.grown = [];
  new MutationObserver(() => {
    const count = document.querySelectorAll(`#la-${mode} [data-t]`).length;
    if (!count) window.grown = [];  // another answer's turn
    else if (window.grown.at(-1) !== count) window.grown.push(count);
  }).observe(document.body, {subtree: true, childList: true, characterData: true});
}"""
INK = """canvas => canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data
  .reduce((sum, value, place) => sum + (place % 4 === 3 && value > 0 ? 1 : 0), 0)"""


def test_an_answer_streams_and_shows_what_it_looked_at(asker):
    """Text grows in steps; afterwards every word, section and layer has its own heat."""
    ann = asker()
    ann.choose(0)
    ann.page.evaluate(GROWTH, "copy")
    ann.ask()
    grown = ann.page.evaluate("window.grown")
    assert grown == sorted(grown)
    assert len(grown) >= 5
    for mode, back in (("text", 0), ("copy", 36), ("route", 18)):
        looks = ann.part(mode, "button.la-look").all_inner_texts()
        assert bool(looks) == bool(back)
        assert all(f"{back} of 36 visual tokens put back" in look for look in looks)
    assert ann.reading("route").startswith("REFLECTION")
    assert ann.part("route", ".la-heat").evaluate(INK) > 0
    words = ann.part("route", ".la-caption [data-t]")
    words.nth(0).hover()
    first = ann.reading("route")
    words.nth(2).hover()
    assert first.startswith(f"“{words.nth(0).inner_text().strip()}” · token ")
    assert ann.reading("route") != first
    ann.page.mouse.move(5, 5)
    assert ann.reading("route").startswith("REFLECTION")
    ann.part("route", ".la-summary h4 button").click()
    assert ann.reading("route").startswith("SUMMARY · mean of its ")


def test_scrubbing_by_key_and_by_mouse(asker):
    ann = asker()
    ann.ask(1, modes="COPY")
    slider = ann.part("copy", ".la-range")
    slider.focus()
    ann.page.keyboard.press("Home")
    ann.page.keyboard.press("ArrowRight")
    ann.page.keyboard.press("ArrowRight")
    assert "token 3 of " in ann.reading("copy")
    box = slider.bounding_box()
    ann.page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 10)
    half = int(re.search(r"token (\d+) of", ann.reading("copy"))[1])
    ann.page.mouse.click(box["x"] + box["width"] * 0.9, box["y"] + 10)
    ann.page.mouse.move(5, 5)
    assert int(re.search(r"token (\d+) of", ann.reading("copy"))[1]) > half > 3
    before = ann.reading("copy")
    ann.part("copy", ".la-layer").select_option("3")
    expect(ann.part("copy", ".la-reading")).not_to_have_text(before, timeout=PATIENCE_S * 1000)
    assert ann.part("copy", ".la-layer option").count() == 7


def test_a_look_shows_which_patches_were_put_back(asker):
    ann = asker()
    ann.ask(0, modes="ROUTE")
    veil = ann.part("route", ".la-picture .la-veil path")
    assert veil.get_attribute("d") == ""
    look = ann.part("route", "button.la-look").first
    look.click()
    assert veil.get_attribute("d") == look.locator("path").get_attribute("d") != ""
    assert ann.part("route", ".la-hot").count() == 0
    look.click()
    assert veil.get_attribute("d") == ""


def test_modes_are_switched_for_the_same_question(asker):
    ann = asker()
    ann.ask(2, modes="COPY")
    key = ann.key("copy")
    assert ann.part("copy", ".la-alone").count() == 1
    ann.page.get_by_label("ROUTE", exact=True).check()
    ann.measured("route")
    assert ann.key("copy") == key  # not asked a second time
    assert ann.part("copy", ".la-alone").count() == 0
    ann.page.get_by_label("COPY", exact=True).uncheck()
    expect(ann.part("copy", ".la-answer")).to_have_count(0, timeout=PATIENCE_S * 1000)
    assert ann.part("route", ".la-answer").is_visible()


def test_dragging_routes_slider_asks_again(asker):
    ann = asker()
    ann.ask(0, modes="COPY ROUTE")
    keys = ann.key("copy"), ann.key("route")
    box = ann.page.locator("#la-keep input[type=range]").bounding_box()
    ann.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    ann.page.mouse.down()
    ann.page.mouse.move(box["x"] + box["width"] * 0.15, box["y"] + box["height"] / 2, steps=4)
    ann.page.mouse.up()
    number = ann.page.locator("#la-keep input[type=number]")
    expect(number).not_to_have_value("50", timeout=PATIENCE_S * 1000)
    keep = int(number.input_value())
    assert 0 < keep < 40
    rows = -(-keep * 36 // 100)
    expect(ann.part("route", "button.la-look").first).to_contain_text(f"{rows} of 36", timeout=PATIENCE_S * 1000)
    ann.measured("route")
    assert ann.key("copy") == keys[0]
    assert ann.key("route") != keys[1]


def test_stop_ends_the_generation(endless, asker):
    """Of a model that never ends by itself, so that nothing else can have ended the answer."""
    ann = asker(endless.url)
    ann.choose(0)
    ann.page.click("#la-more button")
    ann.page.get_by_label("Tokens at most", exact=True).fill("3000")
    ann.page.keyboard.press("Tab")
    ann.page.click("#la-ask")
    ann.page.wait_for_selector("#la-copy [data-t]")
    expect(ann.page.locator("#la-stop")).to_be_enabled(timeout=PATIENCE_S * 1000)
    ann.page.click("#la-stop")
    ann.page.wait_for_selector("#la-copy .la-stopped")
    count = ann.part("copy", "[data-t]").count()
    expect(ann.page.locator("#la-stop")).to_be_disabled(timeout=PATIENCE_S * 1000)
    ann.page.wait_for_timeout(1500)
    assert ann.part("copy", "[data-t]").count() == count
    assert "stopped" in ann.part("copy", ".la-progress").inner_text()
    assert ann.page.locator("#la-stop").inner_text() == "Stop"
    ann.page.wait_for_selector("#la-copy .la-hot")  # what came can be looked at all the same


def test_bad_pictures_and_questions_are_explained(asker, tmp_path: Path):
    ann = asker()
    ann.rest()
    ann.page.fill("#la-question textarea", "")
    ann.page.click("#la-ask")
    ann.see("The question is empty: write one, or choose an example.")
    (tmp_path / "a.png").write_bytes(b"this is no picture")
    ann.take_away_the_picture()
    ann.page.locator("#la-picture input[type=file]").set_input_files(tmp_path / "a.png")
    ann.page.fill("#la-question textarea", "What is this?")
    ann.page.wait_for_timeout(2000)
    ann.page.click("#la-ask")
    ann.see("The picture is not an image in a format read here")
    assert str(tmp_path) not in ann.page.inner_text("body")


def test_an_uploaded_picture_of_any_shape(asker, tmp_path: Path):
    Image.new("RGB", (600, 200), "navy").save(tmp_path / "wide.jpg")
    ann = asker()
    ann.upload(tmp_path / "wide.jpg")
    ann.page.fill("#la-question textarea", "How many balls are there? Answer briefly.")
    ann.ask(modes="ROUTE")
    box = ann.part("route", ".la-picture").bounding_box()
    assert box["width"] / box["height"] == pytest.approx(3, rel=0.05)


def test_a_webcam_can_be_asked_about(browser: Browser, server: Server):
    """With Chromium's own camera that is none."""
    flags = ["--no-sandbox", "--disable-gpu", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    other = browser.browser_type.launch(executable_path=chromium(), args=flags)
    try:
        ann = Asker(other, server.url)
        ann.context.grant_permissions(["camera"])
        ann.take_away_the_picture()
        ann.page.get_by_label("Capture from camera").click()
        ann.page.locator("#la-picture").get_by_title("grant webcam access").click()
        ann.page.wait_for_function("document.querySelector('#la-picture video')?.videoWidth > 0")  # it is on
        ann.page.locator("#la-picture").get_by_label("capture photo").click()
        ann.page.wait_for_selector("#la-picture img")
        ann.page.fill("#la-question textarea", "How many balls are there? Answer briefly.")
        ann.ask(modes="COPY")
        assert ann.faults == []
    finally:
        other.close()


def test_a_question_cannot_bring_a_script_with_it(asker):
    ann = asker()
    ann.choose(3)
    ann.page.fill("#la-question textarea", HOSTILE)
    ann.ask(modes="Text COPY")
    ann.part("copy", ".la-code summary").click()
    code = ann.part("copy", ".la-snippet pre").first.inner_text()
    assert HOSTILE in code
    assert ann.page.locator("img[src=x]").count() == 0
    assert ann.page.evaluate("window.hit") is None


def test_code_is_copied(asker):
    ann = asker()
    ann.context.grant_permissions(["clipboard-read", "clipboard-write"])
    ann.ask(1, modes="ROUTE")
    ann.part("route", ".la-code summary").click()
    ann.part("route", ".la-copy").nth(0).click()
    expect(ann.part("route", ".la-copy").nth(0)).to_have_text("copied")
    copied = ann.page.evaluate("navigator.clipboard.readText()")
    assert 'mode="route"' in copied or "mode='route', keep=50" in copied


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_laptop_shows_all_modes_beside_each_other(asker, scheme):
    ann = asker(scheme=scheme)
    ann.rest()
    assert ann.faint() == []
    ann.ask(5)
    ann.page.mouse.move(5, 5)
    ann.part("copy", ".la-caption [data-t]").nth(0).hover()
    ann.figure(f"ui-{'laptop' if scheme == 'light' else 'dark'}")
    for part in ("#la-ask", "#la-text .la-picture", "#la-copy .la-scrub", "#la-route .la-summary", "#la-keep"):
        assert ann.within(part), part
    tops = {ann.part(mode, ".la-picture").bounding_box()["y"] for mode in ("text", "copy", "route")}
    assert len(tops) == 1
    assert not ann.scrolls_sideways()
    assert ann.faint() == []


def test_one_mode_alone_has_its_picture_beside_its_words(asker):
    ann = asker()
    ann.ask(0, modes="ROUTE")
    ann.part("route", ".la-caption [data-t]").nth(0).click()
    ann.figure("ui-heat")
    image, words = (ann.part("route", part).bounding_box() for part in (".la-picture", ".la-response"))
    assert image["x"] + image["width"] < words["x"]
    assert not ann.scrolls_sideways()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_keeps_the_picture_in_sight(asker, scheme):
    """Answers stand below each other, nothing scrolls sideways, and whoever taps a word sees its heat."""
    ann = asker(size=PHONE, scheme=scheme, has_touch=True, is_mobile=True)
    ann.ask(0)
    assert not ann.scrolls_sideways()
    tops = [ann.part(mode, ".la-picture").bounding_box()["y"] for mode in ("text", "copy", "route")]
    assert tops == sorted(tops)
    assert tops[1] > tops[0] + 300
    ann.part("route", ".la-reflection").last.scroll_into_view_if_needed()
    ann.part("route", ".la-reflection").last.locator("[data-t]").nth(1).tap()
    expect(ann.part("route", ".la-reading")).to_contain_text(re.compile(r"token \d+ of"))
    assert ann.within("#la-route .la-picture")
    if scheme == "light":
        ann.figure("ui-phone")
    assert not ann.scrolls_sideways()
    assert ann.faint() == []


def test_light_and_dark_are_switched_by_hand(asker):
    ann = asker()
    ann.ask(1, modes="COPY")
    before = ann.page.evaluate("getComputedStyle(document.body).backgroundColor")
    ann.page.click(".la-theme")
    ann.page.wait_for_timeout(1000)  # colours change slowly
    assert ann.page.evaluate("getComputedStyle(document.body).backgroundColor") != before
    assert ann.part("copy", ".la-heat").evaluate(INK) > 0
    assert ann.faint() == []
