"""A report's tables as Markdown, worked out by hand."""

from __future__ import annotations

from look_again.reproduce.run_tables import tables_as_markdown

ROWS = [
    {
        "name": "base",
        "runs": 1,
        "items": 100,
        "values": {"exact": 0.5, "tokens": 40.0},
        "interval": [0.4, 0.6],
        "against": None,
        "paper": {"MMMU": 58.6},
    },
    {
        "name": "COPY",
        "runs": 2,
        "items": 100,
        "values": {"exact": 0.75, "tokens": None},
        "interval": None,
        "against": {"difference": 0.25, "interval": [0.1, 0.4]},
        "paper": {},
    },
]


def test_tables_by_hand() -> None:
    """Would catch a column of the paper's in the place of another, and a figure where nothing was measured."""
    tables = [{"title": "Table 1", "metrics": ["exact", "tokens"], "against": "base", "rows": ROWS, "says": "Little."}]
    assert tables_as_markdown({"plan": "Plan", "tables": tables}).splitlines() == [
        "Plan. Intervals and differences are of exact answers, 95%. The paper's figures are of other models and data.",
        "",
        "| Table 1 | exact | tokens | 95% | against base | runs × items | paper: MMMU |",
        "|---|---|---|---|---|---|---|",
        "| base | 0.500 | 40 | (0.400, 0.600) | - | 1 × 100 | 58.6 |",
        "| COPY | 0.750 | - | - | +0.250 (+0.100, +0.400) | 2 × 100 | - |",
        "",
        "Little.",
    ]


def test_a_report_without_tables_is_a_line() -> None:
    assert len(tables_as_markdown({"plan": "Plan", "tables": []}).splitlines()) == 1
