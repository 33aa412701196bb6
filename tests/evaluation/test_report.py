"""Reports: whole pages that fetch nothing, show what went wrong, and survive hostile answers."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import pytest

from look_again.commands.main import main
from look_again.evaluation.plots import histogram, interval_plot
from look_again.evaluation.report import _ranks, run_page
from look_again.evaluation.result_tables import (
    ResultTable,
    fit_columns,
    interval,
    number,
    p_value,
    print_tables,
    run_tables,
    unread_warning,
)
from look_again.extras import MissingExtraError

HOSTILE = "</td><script>alert(1)</script> [bold]$x$"


def result() -> dict:
    items = [
        {
            "id": f"q{i}",
            "prompt": "How many?",
            "facts": {"kind": "count"},
            "reference": "3",
            "text": HOSTILE,
            "conclusion": None,
            "extracted": None,
            "official": 0.0,
            "strict": float(i % 2),
            "unparsed": False,
            "score_facts": {},
            "tokens": {"sampled": 100 + i},
        }
        for i in range(12)
    ]
    return {
        "benchmark": "fake",
        "primary": "accuracy",
        "paired": "strict",
        "metrics": {"accuracy": 0.5, "recall": None},
        "subsets": {"kind/count": {"accuracy": 0.5}, "$odd$": {"share": 0.1}},
        "notes": {"rule": "exact"},
        "counts": {"items": 12, "unparsed": 0},
        "lists": {"errors": [{"id": "q9", "reason": HOSTILE}], "unjudged": [], "bad_rows": []},
        "tokens_per_answer": {"sampled": 105.5},
        "config": {"subject": {"model": HOSTILE}},
        "items": items,
    }


class Watcher(HTMLParser):
    """Collects what would be run or fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        fetches = [
            f"{k}={v}" for k, v in attributes if k in ("src", "href", "xlink:href") and not (v or "").startswith("#")
        ]
        runs = [k for k, _ in attributes if k.startswith("on")]
        self.found += [*([tag] if tag in ("script", "link", "img", "iframe") else []), *fetches, *runs]


def test_a_page_fetches_and_runs_nothing_whatever_a_model_says():
    """Would catch an answer that becomes markup, and a style or plot that lives elsewhere."""
    page = run_page(result())
    watcher = Watcher()
    watcher.feed(page)
    assert watcher.found == []
    assert not re.search(r"url\(\s*['\"]?http|@import", page)
    assert page.count("&lt;script&gt;alert(1)") > 6
    assert page.count("<svg") == 2
    assert all(text in page for text in ("could not be asked", "q9", "the first 6 answers", "exact", "accuracy *"))


def test_captions_are_shown_against_their_length():
    """Figure 1's counterpart: a table and a drawing where captions were judged, nothing elsewhere."""
    judged = result()
    for i, item in enumerate(judged["items"]):
        item["score_facts"] = {
            "whole_mentions": ["cat"] * 2,
            "whole_hallucinations": ["cat"] * (i % 2),
            "whole_found": 1,
            "whole_true": 2,
        }
    page = run_page(judged)
    assert page.count("<svg") == run_page(result()).count("<svg") + 1
    assert "all that was said, against generated length" in page
    assert "100 to 111" in page
    assert "0.250 [" in page


def test_plots_are_svg_with_their_labels_as_text():
    """Would catch labels read as formulas, and figures that differ from one run to the next."""
    points = [("wrong $image$ <b>", -0.5, (-0.6, -0.4)), ("text", 0.0, (-0.1, 0.1))]
    made = interval_plot(points, label="difference", zero=True)
    words = [element.text for element in ElementTree.fromstring(made).iter() if element.text]
    assert {"wrong $image$ <b>", "text", "difference"} <= set(words)
    assert made == interval_plot(points, label="difference", zero=True)
    assert "tokens" in histogram([1, 2, 3], label="tokens")


def test_a_missing_plotting_library_is_named(monkeypatch):
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "matplotlib" else real(name, *a))
    with pytest.raises(MissingExtraError, match=r"look-again-vlm\[eval\]"):
        histogram([1.0], label="x")


def test_figures_as_text():
    assert [number(v) for v in (None, 3, 0.12345)] == ["-", "3", "0.123"]
    assert number(0.5, sign=True) == "+0.500"
    assert interval((-0.1, 0.25), sign=True) == "[-0.100, +0.250]"
    assert interval(None) == "too few"
    assert [p_value(p) for p in (None, 0.0004, 0.04)] == ["-", "p < 0.001", "p 0.040"]


def test_tables_are_printed_as_they_are(capsys):
    """Would catch square brackets of an interval or an answer taken for markup."""
    print_tables([ResultTable("title [x]", ("", "a"), [("[bold]row", "[0.1, 0.2]")]), *run_tables(result())])
    shown = capsys.readouterr().out
    assert "[bold]row" in shown
    assert "[0.1, 0.2]" in shown
    assert "accuracy *" in shown


def test_images_stand_beside_wrong_answers_and_unread_is_said():
    """Would catch a report that names images without showing any, and "null" for an answer that could not be read."""
    page = run_page(result(), {"q0": ["data:image/jpeg;base64,AAAA"], "q1": ["data:image/jpeg;base64,BBBB"]})
    assert page.count('<img src="data:image/jpeg;base64,AAAA" alt="an image of q0">') == 1
    assert "BBBB" not in page  # its answer is right
    assert page.count(">unread<") == 6
    assert ">null<" not in page


def test_every_column_sorts_its_table():
    """Figures from the highest on, texts by the alphabet, by radio buttons and ranks: nothing is run."""
    assert _ranks(["0.5", "0.25 [0, 1]", "1", "-", "-0.1"]) == [1, 2, 0, 4, 3]
    assert _ranks(["b", "A", "c"]) == [1, 0, 2]
    page = run_page(result())
    assert page.count('class="sort s0"') == page.count("<table")
    assert re.search(r'<tr style="--r0:\d+;--r1:\d+">', page)
    assert ".s1:checked ~ table td { order: var(--r1) }" in page


def test_more_than_a_tenth_unread_is_a_warning():
    assert unread_warning(result()) is None
    few, many = result(), result()
    few["counts"] = {"items": 100, "unparsed": 10}
    many["counts"] = {"items": 100, "unparsed": 11}
    assert unread_warning(few) is None
    assert unread_warning(many).startswith("11 of 100 answers of fake could not be read (11%)")
    assert '<p class="warning">11 of 100' in run_page(many)
    assert 'class="warning"' not in run_page(few)


def test_a_wide_table_stands_in_parts_and_no_figure_is_broken(capsys, monkeypatch):
    """Would catch figures folded over two lines on a terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    columns = ("", *(f"strict_hallucination_{i}" for i in range(7)))
    table = ResultTable("subsets", columns, [("question_type/adversarial", *("0.123456789",) * 7)])
    print_tables([table])
    shown = capsys.readouterr().out
    assert all(len(line) <= 80 for line in shown.splitlines())
    assert shown.count("0.123456789") == 7
    assert all(column in shown for column in columns)
    assert "subsets (1 of 4)" in shown
    assert [len(part.columns) - 1 for part in fit_columns(table, 80)] == [2, 2, 2, 1]
    assert fit_columns(table, 400) == [table]


def test_the_command_shows_images_of_wrong_answers_and_warns(tmp_path, capsys):
    """Would catch a report without the images that its answers are about."""
    argv = ["eval", "tabletop", "--n", "2", "--no-planted", "--max-new-tokens", "8", "--out", str(tmp_path)]
    assert main(argv) == 0
    assert "warning: 2 of 2 answers of tabletop could not be read (100%)" in capsys.readouterr().err
    page = (tmp_path / "tabletop" / "report.html").read_text()
    assert page.count('<img src="data:image/jpeg;base64,') == 2
    assert 'alt="an image of tabletop-test-0-0"' in page
