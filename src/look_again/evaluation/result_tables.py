"""Results as tables of text, which terminals and HTML pages show alike.

A difference never stands without its interval.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from look_again.evaluation.subjects import describe_settings
from look_again.scoring.statistics import detectable_difference

MIN_DISCORDANT = 0.1  # share of items that two runs are taken to differ on at least

LONGEST_FIGURE = 30  # characters of a line; longer cells are texts


@dataclass(frozen=True)
class ResultTable:
    """A titled table of text; the first column names, the others are figures."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def number(value: Any, *, sign: bool = False) -> str:
    """Counts as they are, other figures to three decimals; "-" for None."""
    if value is None:
        return "-"
    if isinstance(value, int):
        return str(value)
    return f"{value:+.3f}" if sign else f"{value:.3f}"


def interval(bounds: Sequence[float] | None, *, sign: bool = False) -> str:
    """ "[0.911, 0.964]"; "too few" for None."""
    return "too few" if bounds is None else f"[{', '.join(number(float(bound), sign=sign) for bound in bounds)}]"


def p_value(p: float | None) -> str:
    return "-" if p is None else "p < 0.001" if p < 0.001 else f"p {p:.3f}"


def run_tables(result: Mapping[str, Any]) -> list[ResultTable]:
    """Of one run: its metrics, subsets, and what went wrong."""
    primary = result["primary"]
    title = f"{result['benchmark']}: {describe_settings(result['config']['subject'])}"
    metrics = [(f"{name} *" if name == primary else name, number(v)) for name, v in result["metrics"].items()]
    lengths = [(f"{kind} tokens per answer", number(v)) for kind, v in result["tokens_per_answer"].items()]
    further = [(name, value) for name, value in result["counts"].items() if name not in result["metrics"]]
    counts = [(name.replace("_", " "), number(value)) for name, value in further]
    power = [("difference that so many items show", number(shown))] if (shown := _detectable(result)) else []
    tables = [ResultTable(title, ("", "value"), [*metrics, *counts, *lengths, *power])]
    if subsets := result["subsets"]:
        names = list(dict.fromkeys(name for part in subsets.values() for name in part))
        rows = [(subset, *(number(part.get(name)) for name in names)) for subset, part in subsets.items()]
        tables.append(ResultTable("subsets", ("", *names), rows))
    return tables


def _detectable(result: Mapping[str, Any]) -> float | None:
    """The smallest difference from another run that as many items show at 5% in four comparisons of five.

    The runs are taken to differ on as many items as independent ones of this share of points do, at least on a tenth.
    None where points are not 0 or 1.
    """
    points = [item["official"] for item in result["items"] if item["official"] is not None]
    if not points or not set(points) <= {0, 1}:
        return None
    share = sum(points) / len(points)
    return detectable_difference(len(points), max(MIN_DISCORDANT, 2 * share * (1 - share)))


def difference_tables(comparison: Mapping[str, Any]) -> list[ResultTable]:
    """Of a comparison: every run against the baseline, whole, then per subset."""
    base = comparison["baseline"]
    title = f"{comparison['benchmark']}: difference from {base} in {comparison['score']}, paired"
    columns = ("", base, "run", "difference\n[95%]", "higher\n/ lower", "test", "shows\nfrom", "items")
    rows = comparison["differences"]
    whole = [_difference_row(row["run"], row) for row in rows if row["subset"] is None]
    parts = [_difference_row(f"{row['subset']}\n{row['run']}", row) for row in rows if row["subset"] is not None]
    tables = [ResultTable(title, columns, whole)]
    if comparison["metrics"]:
        tables.append(_metrics_table(comparison))
    return [*tables, ResultTable(f"{title}, per subset", columns, parts)] if parts else tables


def _metrics_table(comparison: Mapping[str, Any]) -> ResultTable:
    base = comparison["baseline"]
    rows = [
        (
            f"{row['metric']}\n{row['run']}",
            number(row["base"]),
            number(row["other"]),
            f"{number(row['difference'], sign=True)}\n{interval(row['interval'], sign=True)}",
            number(row["units"]),
        )
        for row in comparison["metrics"]
    ]
    title = f"{comparison['benchmark']}: difference from {base} in metrics of the whole, paired"
    return ResultTable(title, ("", base, "run", "difference\n[95%]", "drawn"), rows)


def left_out_tables(left_out: Mapping[str, Sequence[str]]) -> list[ResultTable]:
    """Of a comparison: the benchmarks that not all runs have, each with the runs that lack it; none where all do."""
    rows = [(name, ", ".join(runs)) for name, runs in left_out.items()]
    return [ResultTable("left out, not run in all", ("", "missing in"), rows)] if rows else []


def _difference_row(name: str, row: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        name,
        number(row["base"]),
        number(row["other"]),
        f"{number(row['difference'], sign=True)}\n{interval(row['interval'], sign=True)}",
        f"{row['higher']}\n/ {row['lower']}",
        f"{p_value(row['p'])}\n{row['test'] or ''}",
        number(row.get("detectable")),
        number(row["n"]) + (f"\n{row['undefined']} undefined" if row["undefined"] else ""),
    )


def control_tables(summary: Mapping[str, Any]) -> list[ResultTable]:
    """Of a run with controls: per benchmark every arm with its paired differences, what the arms are, and which of
    them the items do not allow."""
    parts = summary["benchmarks"]
    missing = [(f"{name}: {arm}", why) for name, part in parts.items() for arm, why in part["not_possible"].items()]
    arms = {arm: facts["title"] for part in parts.values() for arm, facts in part["arms"].items()}
    legend = ResultTable("arms", ("", ""), list(arms.items()))
    left_out = [ResultTable("arms that are not possible", ("", "why"), missing)] if missing else []
    return [*(_arms_table(name, part) for name, part in parts.items()), legend, *left_out]


def _arms_table(name: str, part: Mapping[str, Any]) -> ResultTable:
    whole = {
        base: {row["run"]: row for row in comparison["differences"] if row["subset"] is None}
        for base, comparison in part["against"].items()
    }
    rows = []
    for arm, facts in part["arms"].items():
        differences = (_difference_cell(rows_of.get(arm)) for rows_of in whole.values())
        lengths = (number(facts["tokens_per_answer"].get(kind)) for kind in ("sampled", "reinserted"))
        score = f"{number(facts['mean'])}\n{interval(facts['interval'])}"
        rows.append([arm, score, *differences, number(facts["primary"]), *lengths, number(facts["counts"]["unparsed"])])
    rows += [[arm, "not possible", *("-" for _ in rows[0][2:])] for arm in part["not_possible"]]
    against = [f"less {base}\n[95%], p" for base in whole]
    columns = ["", f"{part['score']}\n[95%]", *against, part["primary"], "tokens", "rows\nput back", "unread"]
    n = next(iter(part["arms"].values()))["n"]
    return ResultTable(f"{name}: {n} items, paired", columns, rows)


def _difference_cell(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "-"
    return f"{number(row['difference'], sign=True)} {interval(row['interval'], sign=True)}\n{p_value(row['p'])}"


def unread_warning(result: Mapping[str, Any]) -> str | None:
    """A sentence where more than a tenth of a run's answers could not be read, else None."""
    unread, items = result["counts"]["unparsed"], result["counts"]["items"]
    if unread * 10 <= items:
        return None
    return (
        f"{unread} of {items} answers of {result['benchmark']} could not be read ({unread / items:.0%}): its "
        "figures say more of the answers' form than of their content"
    )


def print_tables(tables: Sequence[ResultTable]) -> None:
    """Show them on a terminal; a table that is wider than it stands there in parts, each with the first column."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    for result in (part for table in tables for part in fit_columns(table, console.width)):
        table = Table(title=Text(result.title), title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0))
        for index, column in enumerate(result.columns):
            whole = index > 0 and not _is_text([column, *(row[index] for row in result.rows)])
            table.add_column(Text(column), justify="right" if index else "left", overflow="fold", no_wrap=whole)
        for row in result.rows:
            table.add_row(*map(Text, row))  # Text: cells are never read as markup
        console.print(table)


def fit_columns(table: ResultTable, width: int) -> list[ResultTable]:
    """The table in as few parts as fit a terminal; the first column is in each. Figures stay whole, texts may wrap."""
    cells = [[column, *(row[index] for row in table.rows)] for index, column in enumerate(table.columns)]
    least = [_least_width(column, wraps=index == 0 or _is_text(column)) for index, column in enumerate(cells)]
    room = width - 2 - least[0]
    groups: list[list[int]] = [[]]
    for index in range(1, len(least)):
        if groups[-1] and sum(least[member] for member in groups[-1]) + least[index] > room:
            groups.append([])
        groups[-1].append(index)
    if len(groups) == 1:
        return [table]
    return [
        ResultTable(
            f"{table.title} ({number} of {len(groups)})",
            [table.columns[index] for index in (0, *group)],
            [[row[index] for index in (0, *group)] for row in table.rows],
        )
        for number, group in enumerate(groups, start=1)
    ]


def _is_text(column: Sequence[str]) -> bool:
    """Whether a column has sentences rather than figures."""
    return max(len(line) for cell in column for line in cell.split("\n")) > LONGEST_FIGURE


def _least_width(column: Sequence[str], *, wraps: bool) -> int:
    """Characters that a column takes at least, with the space around it."""
    parts = (part for cell in column for part in (cell.split() if wraps else cell.split("\n")))
    return max(map(len, parts), default=0) + 2


def as_markdown(tables: Sequence[ResultTable], words: Sequence[str]) -> str:
    """Tables as Markdown, the title in the first column's head, then lines of text."""
    lines = [line for table in tables for line in (*_markdown(table), "")]
    return "\n".join([*lines, *words])


def _markdown(table: ResultTable) -> Iterator[str]:
    first, *rows = ((table.title, *table.columns[1:]), *table.rows)
    yield _line(first)
    yield "|" + "---|" * len(first)
    yield from map(_line, rows)


def _line(cells: Sequence[str]) -> str:
    return "|" + "".join(f" {cell} |" if cell else " |" for cell in cells)
