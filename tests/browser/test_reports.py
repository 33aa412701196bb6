"""The pages that commands write - of runs, comparisons, analyses, a reproduction - as files in a real browser."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from look_again.commands.main import main
from tests.browser.windows import LAPTOP, PHONE, Window
from tests.reproduce.small_plan import write_small_plan

PAGES = ("evaluation", "comparison", "controls", "dilution", "heatmap", "reproduction")
SCREENS = pytest.mark.parametrize(
    ("size", "scheme"), [(LAPTOP, "light"), (LAPTOP, "dark"), (PHONE, "light"), (PHONE, "dark")]
)
Opened = Callable[..., Window]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One page of each kind, `NAME.html`: of runs of the shipped model, and of a small plan."""
    out = tmp_path_factory.mktemp("reports")
    asked = ("eval", "tabletop", "--n", "12", "--no-planted", "--device", "cpu")
    runs = [str(out / name) for name in ("right", "wrong")]
    for run, control in zip(runs, ([], ["--control", "wrong-image"]), strict=True):
        assert main([*asked, "--reattention", "copy", *control, "--out", run]) == 0
    assert main([*asked, "--controls", "--arms", "text,copy,wrong-image", "--out", str(out / "arms")]) == 0
    assert main(["compare", *runs, "--html", str(out / "comparison.html")]) == 0
    assert main(["analyze", "dilution", "--n", "4", "--out", str(out / "dilution")]) == 0
    image = str(Path(__file__).parents[2] / "examples" / "table.png")
    shown = ("--image", image, "--question", "How many red objects are there?")
    assert main(["analyze", "heatmap", *shown, "--out", str(out / "heatmap")]) == 0
    moved = {"evaluation": "wrong/*/report.html", "controls": "arms/controls.html"}
    moved |= {"dilution": "dilution/*.html", "heatmap": "heatmap/*.html"}
    for name, pattern in moved.items():
        (found,) = out.glob(pattern)
        found.rename(out / f"{name}.html")
    plan = str(write_small_plan(out / "plans"))
    assert main(["reproduce", "--plan", plan, "--out", str(out / "box")]) == 0
    (out / "box/report/index.html").rename(out / "reproduction.html")
    return out


@pytest.fixture
def opened(window: Callable[..., Window], written: Path) -> Opened:
    return lambda name, **options: window((written / f"{name}.html").as_uri(), **options)


@SCREENS
@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_read_by_anyone_anywhere(opened: Opened, name: str, size: dict, scheme: str) -> None:
    """Nothing that axe-core finds serious, no faint text, nothing wider than the window, nothing fetched."""
    page = opened(name, size=size, scheme=scheme)
    page.figure(f"report-{name}-{size['width']}-{scheme}")
    assert page.barriers() == []
    assert page.faint() == []
    assert not page.scrolls_sideways()


def test_tables_are_sorted_by_their_headings(opened: Opened) -> None:
    page = opened("evaluation").page
    table = page.locator("table:has(td img)")
    cells = table.locator("td:first-child")

    def order() -> list[str]:
        tops = [(cell.bounding_box() or {})["y"] for cell in cells.all()]
        return [name for _, name in sorted(zip(tops, cells.all_inner_texts(), strict=True))]

    before = order()
    assert len(before) > 1
    table.locator("th label").first.click()
    assert order() == sorted(before, key=str.casefold)
    table.locator("th label").nth(1).click()
    assert order() != sorted(before, key=str.casefold)


def test_wrong_answers_stand_beside_their_pictures(opened: Opened, written: Path) -> None:
    (result,) = (written / "wrong").glob("*/result.json")
    wrong = [item for item in json.loads(result.read_text())["items"] if not item["strict"]]
    page = opened("evaluation").page
    assert page.locator("td img").count() == len(wrong) > 1
