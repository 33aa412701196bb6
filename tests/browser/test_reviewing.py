"""The review page in a real Chromium: what people do with it, with keys, in two windows, over reloads and restarts.

pip install -e . -r tests/browser/requirements.txt && python -m pytest tests/browser

Without Chromium every test fails; $CHROMIUM may name it.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from playwright.sync_api import expect

from look_again.pipeline.ledger.ledger import Ledger
from look_again.pipeline.review.decisions import list_decisions
from look_again.text.grammar import parse
from tests.browser.reviewing import ROWS, Reviewer
from tests.browser.windows import LAPTOP, PATIENCE_S, PHONE
from tests.pipeline.review.review_runs import prepare, rows_of

WELL_FORMED = (
    "<SUMMARY>s</SUMMARY><CAPTION>c</CAPTION><REASONING>r</REASONING>"
    "<REFLECTION>again</REFLECTION><CONCLUSION>4</CONCLUSION>"
)
IN_A_HURRY = """() => {
  const key = () => document.dispatchEvent(new KeyboardEvent('keydown', {key: 'a', bubbles: true}));
  const turn = () => document.querySelector('[data-turn]').dataset.turn;
  const before = turn(), accept = document.querySelector('#la-accept');
  new MutationObserver((_, observer) => {
    if (turn() === before) return;
    observer.disconnect();
    key(); accept.click();
  }).observe(document, {subtree: true, childList: true, attributes: true});
  key(); key(); accept.click(); accept.click(); key();
}"""


@pytest.fixture
def reviewer(window):
    return partial(window, kind=Reviewer)


def test_rows_are_accepted_and_rejected_by_key(review, reviewer):
    server = review()
    ann = reviewer(server.of("ann"))
    first = ann.row()
    ann.see("What the judges said")
    ann.press("a")
    ann.see(f"{first}: accepted")
    second = ann.row()
    ann.page.keyboard.press("n")
    ann.page.keyboard.type("a note, read rarely")  # letters that are keys elsewhere
    ann.page.keyboard.press("Escape")
    ann.press("r")
    ann.see("2 of 6 decided")
    assert server.decided() == [("ann", "accept", first), ("ann", "reject", second)]
    with Ledger(server.run, create=False) as ledger:
        assert [decision.note for decision in list_decisions(ledger)] == ["", "a note, read rarely"]


def test_nothing_needs_a_mouse(review, reviewer):
    """From the choice of a name on: Tab, Enter and the keys that the buttons show."""
    server = review()
    ann = reviewer(server.url)
    ann.see("Who is reviewing?")
    for _ in range(5):
        ann.page.keyboard.press("Tab")
        if "ann" in ann.page.evaluate("document.activeElement.innerText"):
            break
    ann.page.keyboard.press("Enter")
    ann.row()
    badges = "name => getComputedStyle(document.querySelector('#la-' + name), '::after').content"
    shown = [ann.page.evaluate(badges, name).strip('"') for name in ("accept", "reject", "undo")]
    ann.press(*shown)
    assert [action for _, action, _ in server.decided()] == ["accept", "reject", "undo"]


def test_the_buttons_do_what_the_keys_do(review, reviewer):
    server = review("--reviewer", "bob")
    bob = reviewer(server.url)
    first = bob.row()
    bob.click("accept")
    bob.see(f"{first}: accepted")
    bob.click("undo")
    bob.see(f"{first}: the decision is taken back")
    assert [action for _, action, _ in server.decided()] == ["accept", "undo"]


def test_an_edit_that_breaks_the_grammar_is_refused_and_kept(review, reviewer):
    server = review()
    ann = reviewer(server.of("ann"))
    first = ann.row()
    ann.press("e")
    expect(ann.editor).to_be_focused()
    whole = ann.editor.input_value()
    broken = whole.replace("</CAPTION>", "")
    ann.editor.fill(broken)
    ann.see("<CAPTION> is never closed by </CAPTION>")  # the live check, before anything is saved
    ann.press("Control+Enter")
    ann.see("the edited response breaks the grammar: unclosed CAPTION")
    assert ann.editor.input_value() == broken
    assert ann.row() == first
    assert server.decided() == []
    ann.page.reload()
    ann.row()
    expect(ann.editor).to_have_value(broken, timeout=PATIENCE_S * 1000)
    fixed = whole.replace("<CONCLUSION>", "\n<CONCLUSION>")
    ann.editor.fill(fixed)
    ann.see("The grammar holds. Ctrl+Enter saves.")
    ann.press("Control+Enter")
    ann.see(f"{first}: edited")
    with Ledger(server.run, create=False) as ledger:
        assert [(d.action, d.response) for d in list_decisions(ledger)] == [("edit", fixed)]
    assert parse(fixed).well_formed


def test_the_editor_can_be_left_and_gone_on_with(review, reviewer):
    server = review()
    ann = reviewer(server.of("ann"))
    ann.press("e")
    ann.editor.press("Control+End")
    ann.page.keyboard.type(" aru")  # keys of the page are letters here
    ann.see("text outside of the sections: “aru”")
    ann.press("Escape")
    ann.see("your edit is not saved, but kept")
    expect(ann.editor).to_be_hidden()
    ann.press("e")
    assert ann.editor.input_value().endswith(" aru")
    ann.click("reset")
    ann.see("Nothing is changed yet.")
    assert parse(ann.editor.input_value()).well_formed
    assert server.decided() == []


def test_two_reviewers_at_once_never_share_a_row(review, reviewer):
    server = review()
    people = {name: reviewer(server.of(name)) for name in ("ann", "bob")}
    seen: dict[str, list[str]] = {name: [] for name in people}
    for _ in range(ROWS // 2):
        before = {name: one.state() for name, one in people.items()}
        for name, one in people.items():
            seen[name].append(one.row())
        for one in people.values():  # both, before either has an answer
            one.page.keyboard.press("a")
        for name, one in people.items():
            one.answered(before[name])
    for one in people.values():
        one.see("Your share is done")
    assert len(set(seen["ann"])) == len(set(seen["bob"])) == ROWS // 2
    assert not set(seen["ann"]) & set(seen["bob"])
    assert sorted(row for _, _, row in server.decided()) == sorted(seen["ann"] + seen["bob"])


def test_a_reload_and_a_killed_server_lose_nothing(review, reviewer):
    server = review()
    ann = reviewer(server.of("ann"))
    ann.press("a", "a")
    at = ann.row()
    ann.page.reload()
    assert ann.row() == at
    server.kill()
    server.start()
    ann.page.reload()
    assert ann.row() == at
    ann.see("2 of 6 decided")
    ann.press("a")
    assert len(server.decided()) == 3


def test_keys_and_clicks_in_a_hurry_decide_one_row(review, reviewer):
    """A held key, a double click, and a key at the very moment at which the next row appears."""
    server = review()
    ann = reviewer(server.of("ann"))
    before = ann.state()
    ann.page.evaluate(IN_A_HURRY)
    ann.answered(before)
    ann.page.wait_for_timeout(2000)
    assert [action for _, action, _ in server.decided()] == ["accept"]


def test_arrows_look_back_and_undo_takes_back(review, reviewer):
    server = review()
    ann = reviewer(server.of("ann"))
    first = ann.row()
    ann.press("a")
    second = ann.row()
    ann.press("ArrowLeft")
    assert ann.row() == first
    ann.see("accepted by ann on")
    ann.press("ArrowLeft")
    ann.see("this is your first row")
    ann.press("a")
    ann.see("is decided already: take that back first")
    ann.press("ArrowRight")
    assert ann.row() == second
    ann.press("u")
    assert ann.row() == first
    ann.press("r")
    assert [action for _, action, _ in server.decided()] == ["accept", "undo", "reject"]


def test_rows_cannot_bring_a_script_with_them(review, reviewer, tmp_path):
    """Question, options, response, verdicts and ids are text, whatever stands in them."""
    hostile = '<img src=x onerror="window.hit=1;alert(1)"><script>window.hit=2</script>${window.hit=3}{{constructor}}'
    rows = rows_of(2, question=hostile, options=(hostile, "b"), reference="A", source=hostile)
    with (
        Ledger(tmp_path / "hostile") as ledger,
        ThreadPoolExecutor(1) as aside,
    ):  # playwright's loop runs in this thread
        aside.submit(prepare, ledger, WELL_FORMED.replace(">c<", f">{hostile}<"), rows, before=hostile).result()
    server = review("--reviewer", "ann", run=tmp_path / "hostile")
    ann = reviewer(server.url)
    ann.row()
    assert ann.page.locator("#la-columns").inner_text().count(hostile) >= 4
    ann.press("e")
    ann.editor.fill(f"{hostile}{ann.editor.input_value()}")
    ann.see("text outside of the sections: “<img src=x")
    assert ann.page.evaluate("window.hit") is None


def test_a_password_decides_who_one_is(review, reviewer):
    server = review("--password-env", "REVIEW_SECRET", REVIEW_SECRET="correct horse")
    ann = reviewer(server.of("bob"))
    fields = ann.page.locator("input")
    for password in ("wrong horse", "correct horse"):
        fields.nth(0).fill("ann")
        fields.nth(1).fill(password)
        ann.page.get_by_role("button", name="Login").click()
        if password == "wrong horse":
            ann.see("Incorrect")
            assert ann.page.locator("[data-turn]").count() == 0
    ann.row()
    assert ann.page.locator(".la-who").inner_text() == "ann"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [LAPTOP, PHONE])
def test_there_are_no_barriers(review, reviewer, scheme, size):
    """By axe-core: the choice of a name, a row, and its editor."""
    server = review()
    ann = reviewer(server.url, size=size, scheme=scheme)
    ann.see("Who is reviewing?")
    assert ann.barriers() == []
    ann = reviewer(server.of("ann"), size=size, scheme=scheme)
    ann.row()
    assert ann.barriers() == []
    ann.press("e")
    ann.page.wait_for_selector("#la-editor textarea")
    assert ann.barriers() == []
