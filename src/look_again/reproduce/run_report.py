"""What a run came to: `report.json`, read from the stages' own result files."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from look_again.evaluation.comparison import mean_interval, paired_difference
from look_again.reproduce.made import Prepared, versions
from look_again.reproduce.plan import FigurePlan, ReproductionPlan, TablePlan
from look_again.reproduce.plan_file import SHOWN

SHOWN_ANSWERS = 3
TIMES = ("seconds", "finished", "disk_mb")
"""Keys of `report.json` that differ between runs of one plan; `per_item_s` of timed tables is a time too."""


def build_report(plan: ReproductionPlan, stages: Mapping[str, Prepared], *, quick: bool) -> dict[str, Any]:
    """The report of what is made so far; what is not there yet, or cannot be read, is null."""
    report = {
        "plan": plan.name,
        "about": plan.about,
        "quick": quick,
        "versions": versions(),
        "stages": [_stage(one) for one in stages.values()],
        "tables": [_table(table, stages) for table in plan.tables],
        "figures": [_figure(figure, stages) for figure in plan.figures],
        "answers": _answers(plan.answers, stages),
    }
    return dict(only_finite(report))


def only_finite(value: Any) -> Any:
    """A structure with null for the numbers that JSON has not."""
    if isinstance(value, Mapping):
        return {key: only_finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [only_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


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
        if path.suffix != ".jsonl":
            return pick(json.loads(text), key)
        lines = text.splitlines()
        if not key:
            return len(lines)
        return pick(json.loads(lines[-1]), key) if lines else None
    except (OSError, ValueError, RecursionError):
        return None


def pick(value: Any, key: str) -> Any:
    """The value at a dotted key of nested mappings; None where there is none."""
    for part in key.split(".") if key else ():
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    return value


def resolve(place: str, stages: Mapping[str, Prepared]) -> list[Path]:
    """The files that `{STAGE}/path` names, one per seed for `{STAGE-{seed}}/path`; undone stages have none."""
    named = SHOWN.fullmatch(place)
    if named is None:
        return []
    done = [one for one in stages.values() if one.stage.is_called(named["stage"]) and one.record() is not None]
    return [path for one in done if (path := one.out / named["tail"]).is_file()]


def read_results(place: str, stages: Mapping[str, Prepared]) -> list[dict[str, Any]]:
    """What `resolve` finds, as results of evaluations; what is none is left out."""
    found = []
    for path in resolve(place, stages):
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            continue
        if isinstance(result, dict) and _has_items(result.get("items")):
            found.append(result)
    return found


def _has_items(items: Any) -> bool:
    return isinstance(items, list) and all(isinstance(item, dict) and {"id", "strict"} <= set(item) for item in items)


def _table(table: TablePlan, stages: Mapping[str, Prepared]) -> dict[str, Any]:
    results = [read_results(row.result, stages) for row in table.rows]
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


def _mean(values: Sequence[Any]) -> float | None:
    known = [float(value) for value in values if isinstance(value, int | float) and math.isfinite(value)]
    return sum(known) / len(known) if known else None


def item_scores(results: Sequence[Mapping[str, Any]]) -> list[float] | None:
    """Each item's strict score, its mean over runs; None without runs, and for runs that asked different items."""
    asked = [[item["id"] for item in result["items"]] for result in results]
    if not asked or any(ids != asked[0] for ids in asked):
        return None
    columns = [[float(item["strict"] or 0) for item in result["items"]] for result in results]
    return [sum(scores) / len(scores) for scores in zip(*columns, strict=True)]


def _interval(results: Sequence[Mapping[str, Any]]) -> list[float] | None:
    scores = item_scores(results)
    found = mean_interval(scores) if scores else None
    return None if found is None else list(found)


def _difference(base: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Paired over items, of scores that are means over seeds; None unless all asked the same items."""
    if item_scores([*base, *other]) is None or not base or not other:
        return None
    made = paired_difference(item_scores(base) or (), item_scores(other) or ())
    return {"difference": made.difference, "interval": made.interval and list(made.interval)}


def _figure(figure: FigurePlan, stages: Mapping[str, Prepared]) -> dict[str, Any]:
    found = resolve(figure.image, stages)
    return {"title": figure.title, "says": figure.says, "path": str(found[0]) if found else None}


def _answers(place: str | None, stages: Mapping[str, Prepared]) -> list[dict[str, Any]]:
    """The first answers that looked again, and further ones where those are too few."""
    found = read_results(place, stages) if place else []
    items = [item for item in found[0]["items"] if _is_shown(item)] if found else []
    chosen = sorted(items, key=lambda item: not item["looks"])[:SHOWN_ANSWERS]
    keys = ("id", "prompt", "reference", "text", "conclusion", "strict", "looks", "tokens")
    return [{key: item.get(key) for key in keys} for item in chosen]


def _is_shown(item: Mapping[str, Any]) -> bool:
    """Whether an item has what the page says of an answer."""
    tokens = item["tokens"] if isinstance(item.get("tokens"), dict) else {}
    numbers = (item.get("looks"), tokens.get("visual"), tokens.get("reinserted"))
    texts = (item.get("prompt"), item.get("text"))
    return all(isinstance(text, str) for text in texts) and all(isinstance(number, int) for number in numbers)
