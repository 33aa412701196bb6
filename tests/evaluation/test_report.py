"""Reports: whole pages that fetch nothing, show what went wrong, and survive hostile answers."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import pytest

from look_again.evaluation.plots import histogram, interval_plot
from look_again.evaluation.report import run_page
from look_again.evaluation.result_tables import ResultTable, interval, number, p_value, print_tables, run_tables
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
