"""The review page in a real Chromium: what people do with it, with keys, in two windows, over reloads and restarts.

pip install -e . -r browser/requirements.txt && python -m pytest browser

Without Chromium every test fails. With LOOKAGAIN_FIGURES=docs/figures the pictures of the documentation are made anew.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect, sync_playwright
from windows import LAPTOP, PATIENCE_S, Server, Window

from lookagain.cli import main
from lookagain.grammar import parse
from lookagain.pipeline.ledger import Ledger
from lookagain.pipeline.review import broken_links, decisions

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "pipeline"))

from review_runs import prepare, rows_of

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
ROWS = 12
RECIPE = f"""
flow: distilled
sources: [{{loader: tabletop, path: "3:{ROWS}", split: test}}]
endpoints:
  - {{name: model, base_url: "tabletop:?error=0.5", model: tabletop-model}}
  - {{name: judge-1, base_url: "tabletop:?error=0.1", model: tabletop-judge-1}}
  - {{name: judge-2, base_url: "tabletop:?error=0.1", model: tabletop-judge-2}}
  - {{name: judge-3, base_url: "tabletop:?error=0.1", model: tabletop-judge-3}}
  - {{name: judge-4, base_url: "tabletop:?error=0.1", model: tabletop-judge-4}}
  - {{name: writer, base_url: "tabletop:", model: tabletop-writer}}
distil: {{model: model}}
panel: {{judges: [judge-1, judge-2, judge-3, judge-4]}}
writer: writer
reviewers: [ann, bob]
"""
WELL_FORMED = (
    "<SUMMARY>s</SUMMARY><CAPTION>c</CAPTION><REASONING>r</REASONING>"
    "<REFLECTION>again</REFLECTION><CONCLUSION>4</CONCLUSION>"
)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    found = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if found is None:
        pytest.fail(f"no Chromium on this machine (looked for {', '.join(CHROMIUM)}): apt-get install chromium")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def made_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on Tabletop whose rows wait for people; copied for each test."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "run.yaml").write_text(RECIPE)
    assert main(["data", "run", "--config", str(folder / "run.yaml"), "--run", str(folder / "run"), "--json"]) == 0
    return folder


@pytest.fixture
def serve(tmp_path: Path, made_run: Path) -> Iterator[Callable[..., Server]]:
    """Starts servers: of a copy of the run on Tabletop, or of another one. None may have met an error of its own."""
    servers: list[Server] = []

    def start(*arguments: str, run: Path | None = None, **environment: str) -> Server:
        if run is None:
            run = Path(shutil.copytree(made_run / "run", tmp_path / "run"))
            arguments = ("--config", str(made_run / "run.yaml"), *arguments)
        servers.append(Server(run, *arguments, **environment))
        return servers[-1]

    yield start
    for server in servers:
        server.kill()
        assert "Traceback" not in server.log.read_text(), server.log.read_text()


@pytest.fixture
def window(browser: Browser) -> Iterator[Callable[..., Window]]:
    """Opens windows; afterwards none of them may have a fault."""
    windows: list[Window] = []

    def opened(url: str, scheme: str = "light") -> Window:
        windows.append(Window(browser, url, scheme))
        return windows[-1]

    yield opened
    faults = [fault for one in windows for fault in one.faults]
    for one in windows:
        one.context.close()
    assert faults == []


def decided(run: Path) -> list[tuple[str, str, str]]:
    """Reviewer, action and row of every decision, in order; their chain of hashes is checked."""
    with Ledger(run, create=False) as ledger:
        assert broken_links(ledger) == []
        names = dict(ledger.read("SELECT n, id FROM rows"))
        return [(decision.reviewer, decision.action, names[decision.n]) for decision in decisions(ledger)]


def test_rows_are_accepted_and_rejected_by_key(serve, window):
    server = serve()
    ann = window(f"{server.url}/?reviewer=ann")
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
    assert decided(server.run) == [("ann", "accept", first), ("ann", "reject", second)]
    with Ledger(server.run, create=False) as ledger:
        assert [decision.note for decision in decisions(ledger)] == ["", "a note, read rarely"]


def test_the_buttons_do_what_the_keys_do(serve, window):
    server = serve("--reviewer", "bob")
    bob = window(server.url)
    first = bob.row()
    bob.page.click("#la-accept")
    bob.see(f"{first}: accepted")
    bob.page.click("#la-undo")
    bob.see(f"{first}: the decision is taken back")
    assert [action for _, action, _ in decided(server.run)] == ["accept", "undo"]


def test_an_edit_that_breaks_the_grammar_is_refused_and_kept(serve, window):
    server = serve()
    ann = window(f"{server.url}/?reviewer=ann")
    first = ann.row()
    ann.press("e")
    expect(ann.editor).to_be_focused()
    whole = ann.editor.input_value()
    broken = whole.replace("</CAPTION>", "")
    ann.editor.fill(broken)
    ann.see("<CAPTION> is never closed by </CAPTION>")  # the live check, before anything is saved
    ann.press("Control+Enter")
    ann.see("the edited response: ")
    assert ann.editor.input_value() == broken
    assert ann.row() == first
    assert decided(server.run) == []
    ann.figure("broken-edit")
    ann.page.reload()
    ann.row()
    expect(ann.editor).to_have_value(broken, timeout=PATIENCE_S * 1000)
    fixed = whole.replace("<CONCLUSION>", "\n<CONCLUSION>")
    ann.editor.fill(fixed)
    ann.see("The grammar holds. Ctrl+Enter saves.")
    ann.press("Control+Enter")
    ann.see(f"{first}: edited")
    with Ledger(server.run, create=False) as ledger:
        assert [(d.action, d.response) for d in decisions(ledger)] == [("edit", fixed)]
    assert parse(fixed).well_formed


def test_the_editor_can_be_left_and_gone_on_with(serve, window):
    server = serve()
    ann = window(f"{server.url}/?reviewer=ann")
    ann.press("e")
    ann.editor.press("End")
    ann.page.keyboard.type(" aru")  # keys of the page are letters here
    ann.see("text outside of the sections: “aru”")
    ann.press("Escape")
    ann.see("your edit is not saved, but kept")
    expect(ann.editor).to_be_hidden()
    ann.press("e")
    assert ann.editor.input_value().endswith(" aru")
    ann.page.click("#la-reset")
    ann.see("Nothing is changed yet.")
    assert parse(ann.editor.input_value()).well_formed
    assert decided(server.run) == []


def test_two_reviewers_at_once_never_share_a_row(serve, window):
    server = serve()
    people = {name: window(f"{server.url}/?reviewer={name}") for name in ("ann", "bob")}
    seen: dict[str, list[str]] = {name: [] for name in people}
    for _ in range(ROWS):
        for name, one in people.items():
            if row := one.row():
                seen[name].append(row)
        before = {name: one.turn() for name, one in people.items()}
        for one in people.values():  # both, before either has an answer
            if one.row():
                one.page.keyboard.press("a")
        for name, one in people.items():
            if one.row() and seen[name]:
                one.answered(before[name])
        if not any(one.row() for one in people.values()):
            break
    for one in people.values():
        one.see("Your share is done")
    assert len(seen["ann"]) == len(seen["bob"]) == ROWS // 2
    assert not set(seen["ann"]) & set(seen["bob"])
    assert sorted(row for _, _, row in decided(server.run)) == sorted(seen["ann"] + seen["bob"])


def test_a_reload_and_a_killed_server_lose_nothing(serve, window):
    server = serve()
    ann = window(f"{server.url}/?reviewer=ann")
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
    assert len(decided(server.run)) == 3


def test_a_key_held_or_pressed_twice_decides_one_row(serve, window):
    server = serve()
    ann = window(f"{server.url}/?reviewer=ann")
    before = ann.turn()
    for _ in range(4):
        ann.page.keyboard.press("a")
    ann.page.evaluate("document.querySelector('#la-accept').click()")
    ann.answered(before)
    ann.page.wait_for_timeout(2000)
    assert len([1 for _, action, _ in decided(server.run) if action == "accept"]) == 1


def test_arrows_look_back_and_undo_takes_back(serve, window):
    server = serve()
    ann = window(f"{server.url}/?reviewer=ann")
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
    assert [action for _, action, _ in decided(server.run)] == ["accept", "undo", "reject"]


def test_rows_cannot_bring_a_script_with_them(serve, window, tmp_path):
    """Question, options, response, verdicts and ids are text, whatever stands in them."""
    hostile = '<img src=x onerror="window.hit=1;alert(1)"><script>window.hit=2</script>${window.hit=3}{{constructor}}'
    rows = rows_of(2, question=hostile, options=(hostile, "b"), reference="A", source=hostile)
    with (
        Ledger(tmp_path / "hostile") as ledger,
        ThreadPoolExecutor(1) as aside,
    ):  # playwright's loop runs in this thread
        aside.submit(prepare, ledger, WELL_FORMED.replace(">c<", f">{hostile}<"), rows, before=hostile).result()
    server = serve("--reviewer", "ann", run=tmp_path / "hostile")
    ann = window(server.url)
    ann.row()
    assert ann.page.locator("#la-columns").inner_text().count(hostile) >= 4
    ann.press("e")
    ann.editor.fill(f"{hostile}{ann.editor.input_value()}")
    ann.see("text outside of the sections: “<img src=x")
    assert ann.page.evaluate("window.hit") is None


def test_a_password_decides_who_one_is(serve, window):
    server = serve("--password-env", "REVIEW_SECRET", REVIEW_SECRET="correct horse")
    ann = window(f"{server.url}/?reviewer=bob")
    fields = ann.page.locator("input")
    for password in ("wrong horse", "correct horse"):
        fields.nth(0).fill("ann")
        fields.nth(1).fill(password)
        ann.page.get_by_role("button", name="Login").click()
        if password == "wrong horse":
            ann.page.wait_for_timeout(1000)
            assert ann.page.locator("[data-turn]").count() == 0
    ann.row()
    assert ann.page.locator(".la-who").inner_text() == "ann"


def test_the_pages_of_the_documentation(serve, window):
    """Light and dark, at a laptop's width: nothing is cut off sideways, and the buttons are in sight."""
    server = serve()
    window(server.url).see("Who is reviewing?")
    ann = window(f"{server.url}/?reviewer=ann")
    dark = window(f"{server.url}/?reviewer=bob", "dark")
    for one in (ann, dark):
        while "before it was rewritten" not in one.page.inner_text("#la-columns"):
            one.press("a")
            assert one.row(), "no row was rewritten"
        assert one.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        box = one.page.locator("#la-accept").bounding_box()
        assert box["y"] + box["height"] <= LAPTOP["height"]
    ann.figure("light")
    dark.figure("dark")
    while ann.row():
        ann.press("a")
    ann.figure("done")
