"""What a run came to: `report.json`, read from the stages' own result files."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from look_again.evaluation.comparison import mean_interval, paired_difference
from look_again.reproduce.made import Prepared, versions
from look_again.reproduce.plan import ReproductionPlan, ResultRow, TablePlan

SHOWN_ANSWERS = 3
TIMES = ("seconds", "finished", "disk_mb")
"""Keys of `report.json` that differ between runs of one plan; `per_item_s` of timed tables is a time too."""


def build_report(plan: ReproductionPlan, stages: Mapping[str, Prepared], *, quick: bool) -> dict[str, Any]:
    """The report of what is made so far; what is not there yet is null."""
    return {
        "plan": plan.name,
        "about": plan.about,
        "quick": quick,
        "versions": versions(),
        "stages": [_stage(one) for one in stages.values()],
        "tables": [_table(table, stages) for table in plan.tables],
        "figures": [_figure(figure, stages) for figure in plan.figures],
        "answers": _answers(plan.answers, stages),
    }


def without_times(report: Mapping[str, Any]) -> dict[str, Any]:
    """The report without what measures time or is measured in it, and without the folder that it lies in."""
    stages = [{k: v for k, v in stage.items() if k not in (*TIMES, "commands", "log")} for stage in report["stages"]]
    figures = [{k: v for k, v in figure.items() if k != "path"} for figure in report["figures"]]
    tables = [
        {
            **table,
            "rows": [
                {**row, "values": {k: v for k, v in row["values"].items() if "second" not in k}}
                for row in table["rows"]
            ],
        }
        for table in report["tables"]
    ]
    return {**report, "stages": stages, "figures": figures, "tables": tables}


def _stage(prepared: Prepared) -> dict[str, Any]:
    stage, record = prepared.stage, prepared.record() or {}
    return {
        "name": stage.name,
        "step": stage.step,
        "about": stage.about,
        "key": prepared.key,
        "inputs": list(prepared.inputs),
        "done": bool(record),
        "facts": {name: read_value(place, prepared) for name, place in stage.facts.items()} if record else {},
        **{key: record.get(key) for key in ("seconds", "finished", "disk_mb", "commands")},
        "expected_minutes": stage.cost.minutes,
        "log": str(prepared.log),
    }


def read_value(place: str, prepared: Prepared) -> Any:
    """The value that `file.json#dotted.key` names below a stage's folder; None where there is none.

    `file.jsonl` counts lines; `file.jsonl#key` is the last line's value.
    """
    name, _, key = place.partition("#")
    path = prepared.out / name
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        return None
    if path.suffix == ".jsonl":
        lines = text.splitlines()
        return len(lines) if not key else pick(json.loads(lines[-1]), key)
    return pick(json.loads(text), key)


def pick(value: Any, key: str) -> Any:
    """The value at a dotted key of nested mappings; None where there is none."""
    for part in key.split(".") if key else ():
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    return value


def resolve(place: str, stages: Mapping[str, Prepared]) -> list[Path]:
    """The files that `{STAGE}/path` names, one per seed for `{STAGE-{seed}}/path`; undone stages have none."""
    named = re.match(r"\{(?P<stage>.+)\}/(?P<tail>[^{}]+)$", place)
    if named is None:
        return []
    wanted = re.compile(re.escape(named["stage"]).replace(re.escape("{seed}"), "[0-9]+"))
    done = [one for name, one in stages.items() if wanted.fullmatch(name) and one.record() is not None]
    return [path for one in done if (path := one.out / named["tail"]).is_file()]


def _table(table: TablePlan, stages: Mapping[str, Prepared]) -> dict[str, Any]:
    results = [_results(row, stages) for row in table.rows]
    base = next((found for row, found in zip(table.rows, results, strict=True) if row.name == table.against), [])
    rows = []
    for row, found in zip(table.rows, results, strict=True):
        values = {title: _mean([pick(result, key) for result in found]) for title, key in table.metrics.items()}
        rows.append(
            {
                "name": row.name,
                "runs": len(found),
                "items": len(found[0]["items"]) if found else 0,
                "values": values,
                "interval": _interval(found),
                "against": None if row.name == table.against else _difference(base, found),
                "paper": dict(row.paper),
            }
        )
    return {
        "title": table.title,
        "metrics": list(table.metrics),
        "against": table.against,
        "rows": rows,
        "says": table.says,
    }


def _results(row: ResultRow, stages: Mapping[str, Prepared]) -> list[dict[str, Any]]:
    return [json.loads(path.read_text(encoding="utf-8")) for path in resolve(row.result, stages)]


def _mean(values: Sequence[Any]) -> float | None:
    known = [float(value) for value in values if isinstance(value, int | float)]
    return sum(known) / len(known) if known else None


def item_scores(results: Sequence[Mapping[str, Any]]) -> list[float]:
    """Each item's strict score, its mean over runs."""
    columns = [[float(item["strict"] or 0) for item in result["items"]] for result in results]
    return [sum(scores) / len(scores) for scores in zip(*columns, strict=True)]


def _interval(results: Sequence[Mapping[str, Any]]) -> list[float] | None:
    found = mean_interval(item_scores(results)) if results else None
    return None if found is None else list(found)


def _difference(base: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Paired over items, of scores that are means over seeds; None unless both asked the same items."""
    if not base or not other or [i["id"] for i in base[0]["items"]] != [i["id"] for i in other[0]["items"]]:
        return None
    made = paired_difference(item_scores(base), item_scores(other))
    return {"difference": made.difference, "interval": made.interval and list(made.interval)}


def _figure(figure: Any, stages: Mapping[str, Prepared]) -> dict[str, Any]:
    found = resolve(figure.image, stages)
    return {"title": figure.title, "says": figure.says, "path": str(found[0]) if found else None}


def _answers(place: str | None, stages: Mapping[str, Prepared]) -> list[dict[str, Any]]:
    """The first answers that looked again, and further ones where those are too few."""
    found = resolve(place, stages) if place else []
    if not found:
        return []
    items = json.loads(found[0].read_text(encoding="utf-8"))["items"]
    chosen = sorted(items, key=lambda item: not item["looks"])[:SHOWN_ANSWERS]
    keys = ("id", "prompt", "reference", "text", "conclusion", "strict", "looks", "tokens")
    return [{key: item.get(key) for key in keys} for item in chosen]
