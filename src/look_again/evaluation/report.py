"""HTML reports: one file each, with its style, plots and small images inside, nothing fetched and nothing run.

Tables are sorted without a script: a hidden radio button per column, and rows that know their rank by each.
"""

from __future__ import annotations

import hashlib
import json
import re
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
    unread_warning,
)
from look_again.style import html_document

_FIGURE = re.compile(r"[+-]?\d+(\.\d+)?")
_SORTING = "\n".join(
    f".s{index}:checked ~ table td {{ order: var(--r{index}) }}\n"
    f"@media (max-width: 42rem) {{ .text td:nth-child({index + 1})::before {{ content: var(--l{index}) }} }}"
    for index in range(16)
)
EXAMPLES = 40
SHOWN_CHARACTERS = 400
TROUBLE = {
    "bad_rows": "rows left out",
    "errors": "items that could not be asked",
    "unjudged": "answers that were not judged, and what the judge said",
}
STYLE = """
table { margin: .5rem 0 1.5rem; display: grid; overflow-x: auto; width: fit-content; max-width: 100% }
tbody, tr { display: contents } th, td { white-space: pre-line } .text th, .text td { text-align: left }
th { order: -1 } th label { cursor: pointer } td img { max-width: 15rem; max-height: 15rem; display: block }
.sort { position: absolute; opacity: 0; pointer-events: none }
.sort:focus-visible ~ table { outline: 2px solid var(--accent) }
.warning { color: var(--bad); font-weight: 600 }
@media (max-width: 42rem) {
  .text { display: flex; flex-direction: column; width: auto } .text th { display: none }
  .text td { border: 0; padding: .1rem 0; overflow-wrap: anywhere }
  .text td::before { color: var(--soft) }
  .text td:first-child { border-top: 1px solid var(--line); margin-top: .8rem; padding-top: .5rem }
}
"""


def run_page(result: Mapping[str, Any], images: Mapping[str, Sequence[str]] | None = None) -> str:
    """Of one run: figures, subsets with intervals, lengths, what went wrong, the worst answers, the configuration.

    images: item id -> data URLs of its images, shown beside its answer.
    """
    sampled = [item["tokens"]["sampled"] for item in result["items"] if "sampled" in item["tokens"]]
    warning = unread_warning(result)
    parts = [f'<p class="warning">{escape(warning)}</p>'] if warning else []
    parts += [_table(table) for table in run_tables(result)]
    if points := subset_points(result):
        parts.append(_figure(interval_plot(points, label=f"{result['paired']} (mean, 95%)")))
    if sampled:
        parts.append(_figure(histogram(sampled, label="tokens sampled")))
    parts += _length_parts(against_length(result["items"]))
    notes = [(name, text) for name, text in result["notes"].items()]
    parts += [_table(ResultTable("how it was scored", ("", ""), notes), text=True)] if notes else []
    parts += [_table(table, text=True, images=images) for table in trouble_tables(result)]
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
    rows = [
        (item["id"], _short(item["prompt"]), _short(item["reference"]), _read(item), _short(_said(item)))
        for item in poor_items(result)
    ]
    columns = ("id", "prompt", "reference", "read", "said")
    return (
        [*tables, ResultTable(f"the first {len(rows)} answers that are wrong or unread", columns, rows)]
        if rows
        else tables
    )


def poor_items(result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The first items whose answer scored nothing or could not be read."""
    return [item for item in result["items"] if item["unparsed"] or item["strict"] == 0][:EXAMPLES]


def _read(item: Mapping[str, Any]) -> str:
    return "unread" if item["extracted"] is None else _short(item["extracted"])


def _said(item: Mapping[str, Any]) -> str:
    return str(item["text"] if item["conclusion"] is None else item["conclusion"])


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]} …"


def page(title: str, parts: Sequence[str]) -> str:
    """A whole HTML document."""
    return html_document(title, "\n".join(parts), STYLE + _SORTING)


def _table(table: ResultTable, *, text: bool = False, images: Mapping[str, Sequence[str]] | None = None) -> str:
    """A table whose column headings sort it; with the images of the items that its first column names."""
    names = [escape(column.replace("\n", " ")) for column in table.columns]
    ranks = [_ranks([row[index] for row in table.rows]) for index in range(len(names))]
    key = f"t{hashlib.sha256(repr(table).encode()).hexdigest()[:8]}"
    buttons, head, rows = "", "", []
    for index, (name, column) in enumerate(zip(names, table.columns, strict=True)):
        chosen = f'class="sort s{index}" name="{key}" id="{key}c{index}"'
        buttons += f'<input type="radio" {chosen} aria-label="sort by {name or "name"}">'
        head += f'<th><label for="{key}c{index}">{escape(column)}</label></th>'
    for at, row in enumerate(table.rows):
        places = ";".join(f"--r{index}:{rank[at]}" for index, rank in enumerate(ranks))
        rows.append(f'<tr style="{places}">{_cells(row, (images or {}).get(row[0], ()))}</tr>')
    kind = ' class="text"' if text else ""
    labels = "".join(f";--l{index}:{json.dumps(f'{name} ')}" for index, name in enumerate(table.columns) if text)
    layout = f'style="{escape(f"grid-template-columns:repeat({len(names)},auto){labels}")}"'
    body = f"<table{kind} tabindex=0 {layout}><tr>{head}</tr>\n" + "\n".join(rows) + "</table>"
    return f"<h2>{escape(table.title)}</h2>\n<div>{buttons}{body}</div>"


def _cells(row: Sequence[str], images: Sequence[str]) -> str:
    shown = "".join(f'<img src="{escape(url)}" alt="an image of {escape(row[0])}">' for url in images)
    return "".join(f"<td>{escape(cell)}{'' if index else shown}</td>" for index, cell in enumerate(row))


def _ranks(cells: Sequence[str]) -> list[int]:
    """The place of each cell when its column is sorted: figures from the highest on, texts by the alphabet."""

    def key(index: int) -> tuple[int, float, str]:
        found = _FIGURE.match(cells[index])
        return (0, -float(found[0]), "") if found else (1, 0.0, cells[index].casefold())

    ranks = [0] * len(cells)
    for rank, index in enumerate(sorted(range(len(cells)), key=key)):
        ranks[index] = rank
    return ranks


def _figure(svg: str) -> str:
    return f"<figure>{svg}</figure>"


def _details(title: str, text: str) -> str:
    return f"<details><summary>{escape(title)}</summary><pre>{escape(text)}</pre></details>"
