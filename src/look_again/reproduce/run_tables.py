"""The tables of a report as text, for the page and as Markdown: own figures, intervals, and the paper's beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from look_again.evaluation.result_tables import ResultTable, as_markdown

PAPER = "paper: "
"""Columns that begin with this hold the paper's figures."""
PREFACE = "Intervals and differences are of exact answers, 95%. The paper's figures are of other models and data."


def report_table(table: Mapping[str, Any]) -> ResultTable:
    """One table of `build_report`, cell by cell; "-" where nothing was measured."""
    papers = list(dict.fromkeys(name for row in table["rows"] for name in row["paper"]))
    against = [f"against {table['against']}"] if table["against"] else []
    columns = (
        "",
        *table["metrics"],
        "95%",
        *against,
        "runs × items",
        *(f"{PAPER}{name}" for name in papers),
    )
    rows = [
        (
            row["name"],
            *map(number, row["values"].values()),
            _bounds(row["interval"]),
            *([_difference(row["against"])] if against else []),
            f"{row['runs']} × {row['items']}",
            *(f"{row['paper'][name]:g}" if name in row["paper"] else "-" for name in papers),
        )
        for row in table["rows"]
    ]
    return ResultTable(table["title"], columns, rows)


def tables_as_markdown(report: Mapping[str, Any]) -> str:
    """All tables of a report, each with what it can and cannot say."""
    parts = [f"{as_markdown([report_table(table)], [])}\n{table['says']}" for table in report["tables"]]
    return "\n\n".join([f"{report['plan']}. {PREFACE}", *parts]) + "\n"


def number(value: Any) -> str:
    """Counts as they are, other figures to three decimals; "-" for None."""
    if value is None:
        return "-"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:.3f}" if isinstance(value, float) and not value.is_integer() else f"{value:g}"


def _difference(found: Mapping[str, Any] | None) -> str:
    return f"{found['difference']:+.3f} {_bounds(found['interval'], sign=True)}" if found else "-"


def _bounds(found: Sequence[float] | None, *, sign: bool = False) -> str:
    form = "+.3f" if sign else ".3f"
    return "-" if found is None else f"({', '.join(format(bound, form) for bound in found)})"
