"""HTML reports: one file each, with its style and plots inside, nothing fetched and nothing run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from look_again.evaluation.comparison import mean_interval, paired_scores, subset_members
from look_again.evaluation.lengths import METRICS, against_length
from look_again.evaluation.plots import Point, against, histogram, interval_plot
from look_again.evaluation.result_tables import (
    ResultTable,
    control_tables,
    difference_tables,
    interval,
    left_out_tables,
    number,
    run_tables,
)

EXAMPLES = 40
SHOWN_CHARACTERS = 400
TROUBLE = {
    "bad_rows": "rows left out",
    "errors": "items that could not be asked",
    "unjudged": "answers that were not judged, and what the judge said",
}
STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #222; background: #fff; margin: 2rem auto; max-width: 72rem;
  padding: 0 1rem }
table { border-collapse: collapse; margin: .5rem 0 1.5rem; display: block; overflow-x: auto }
th, td { padding: .2rem .7rem; border-bottom: 1px solid #ddd; text-align: right; vertical-align: top;
  white-space: pre-line }
th:first-child, td:first-child, .text td { text-align: left }
caption, h2 { text-align: left; font-weight: 600; margin-top: 1.5rem }
pre { white-space: pre-wrap; font-size: 13px } svg { max-width: 100%; height: auto }
"""


def run_page(result: Mapping[str, Any]) -> str:
    """Of one run: figures, subsets with intervals, lengths, what went wrong, the worst answers, the configuration."""
    sampled = [item["tokens"]["sampled"] for item in result["items"] if "sampled" in item["tokens"]]
    parts = [_table(table) for table in run_tables(result)]
    if points := subset_points(result):
        parts.append(_figure(interval_plot(points, label=f"{result['paired']} (mean, 95%)")))
    if sampled:
        parts.append(_figure(histogram(sampled, label="tokens sampled")))
    parts += _length_parts(against_length(result["items"]))
    notes = [(name, text) for name, text in result["notes"].items()]
    parts += [_table(ResultTable("how it was scored", ("", ""), notes), text=True)] if notes else []
    parts += [_table(table, text=True) for table in trouble_tables(result)]
    parts.append(_details("configuration", json.dumps(result["config"], indent=1, ensure_ascii=False)))
    return page(f"{result['benchmark']} - LookAgain", parts)


def _length_parts(groups: Sequence[Mapping[str, Any]]) -> list[str]:
    """Hallucination and recall against generated length (figure 1), as a table and drawn."""
    if not groups:
        return []
    rows = [
        (
            f"{group['tokens_from']} to {group['tokens_to']}",
            *(f"{number(group[name][0])} {interval(group[name][1])}" for name in METRICS),
            str(group["n"]),
        )
        for group in groups
    ]
    table = ResultTable("all that was said, against generated length", ("tokens", *METRICS, "answers"), rows)
    series = {
        name: [(group["tokens"], *group[name]) for group in groups if group[name][1] is not None] for name in METRICS
    }
    return [
        _table(table),
        _figure(against(series, x_label="tokens generated (mean of the group)", y_label="share, 95%")),
    ]


def controls_page(summary: Mapping[str, Any]) -> str:
    """Of a run with controls: one table per benchmark, plots of the differences, then every subset."""
    parts = [_table(table) for table in control_tables(summary)]
    for part in summary["benchmarks"].values():
        for comparison in part["against"].values():
            parts += _comparison_parts(comparison)
    return page("controls - LookAgain", parts)


def comparison_page(comparisons: Sequence[Mapping[str, Any]], left_out: Mapping[str, Sequence[str]]) -> str:
    """Of comparisons, one per benchmark, and of those left out: benchmark -> the runs that lack it."""
    parts = [part for one in comparisons for part in _comparison_parts(one)]
    return page("comparison - LookAgain", [*parts, *(_table(table, text=True) for table in left_out_tables(left_out))])


def _comparison_parts(comparison: Mapping[str, Any]) -> list[str]:
    whole, *subsets = difference_tables(comparison)
    points = [
        (row["run"], row["difference"], tuple(row["interval"]))
        for row in comparison["differences"]
        if row["subset"] is None and row["interval"]
    ]
    label = f"{comparison['score']}: difference from {comparison['baseline']} (95%)"
    figure = [_figure(interval_plot(points, label=label, zero=True))] if points else []
    return [_table(whole), *figure, *map(_table, subsets)]


def subset_points(result: Mapping[str, Any]) -> list[Point]:
    """Mean of the paired score with its interval: of the whole and of each subset."""
    values = paired_scores(result, result["paired"])
    parts = {"all": range(len(values)), **subset_members(result)}
    points: list[Point] = []
    for name, members in parts.items():
        known = [value for index in members if (value := values[index]) is not None]
        if bounds := mean_interval(known):
            points.append((f"{name} ({len(known)})", sum(known) / len(known), bounds))
    return points


def trouble_tables(result: Mapping[str, Any]) -> list[ResultTable]:
    """Rows left out, items not asked or not judged, and answers that scored nothing or could not be read."""
    lists = result["lists"]
    tables = [
        ResultTable(title, ("id", "why"), [(line["id"], line["reason"]) for line in lists[name][:EXAMPLES]])
        for name, title in TROUBLE.items()
        if lists[name]
    ]
    poor = [item for item in result["items"] if item["unparsed"] or item["strict"] == 0][:EXAMPLES]
    rows = [
        (item["id"], _short(item["prompt"]), _short(item["reference"]), _short(item["extracted"]), _short(_said(item)))
        for item in poor
    ]
    columns = ("id", "prompt", "reference", "read", "said")
    return (
        [*tables, ResultTable(f"the first {len(rows)} answers that are wrong or unread", columns, rows)]
        if rows
        else tables
    )


def _said(item: Mapping[str, Any]) -> str:
    return str(item["text"] if item["conclusion"] is None else item["conclusion"])


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]} …"


def page(title: str, parts: Sequence[str]) -> str:
    """A whole HTML document."""
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
    body = "\n".join(parts)
    return f"<!doctype html>\n<html lang=en><head>{head}<style>{STYLE}</style></head>\n<body>{body}</body></html>\n"


def _table(table: ResultTable, *, text: bool = False) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in table.columns)
    rows = "\n".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    kind = ' class="text"' if text else ""
    return f"<h2>{escape(table.title)}</h2>\n<table{kind}><tr>{head}</tr>\n{rows}</table>"


def _figure(svg: str) -> str:
    return f"<figure>{svg}</figure>"


def _details(title: str, text: str) -> str:
    return f"<details><summary>{escape(title)}</summary><pre>{escape(text)}</pre></details>"
