"""The study of distance: what a reflection mends, by the number of tokens between the image and it.

Every arm reads the same rows at every length. Reported are the share of planted mistakes that the reflection mends (of
a folder of rows: right answers), exact answers, and paired differences from text-only and COPY with 95% intervals.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from look_again.evaluation.run import versions
from look_again.evaluation.run_folder import RESULT, differing, write_json
from look_again.study.cells import Cell, check_study, find_rows, list_cells, load_once, run_cells, tokens_between
from look_again.study.paired import Points, share_difference, share_interval
from look_again.study.settings import PRIMARY_LENGTH, DistanceSettings

STUDY = "study.json"
BASES = ("text", "copy")
Results = Mapping[Cell, Mapping[str, Any]]


def run_distance(settings: DistanceSettings, out: Path) -> dict[str, Any]:
    """Run or resume the study in `out`; returns what `result.json` holds.

    ValueError as `check_study`, and for a folder of another study.
    """
    config = json.loads(json.dumps({"study": "distance"} | _lasting(settings, ("n", "n_other"))))
    path = out / STUDY
    if path.exists() and (changed := differing(json.loads(path.read_text(encoding="utf-8")), config)):
        raise ValueError(f"{out} holds another study ({'; '.join(changed)}); take another folder or remove it")
    fingerprints = check_study(settings)
    out.mkdir(parents=True, exist_ok=True)
    write_json(path, config)
    run_cells(settings, list_cells(settings), out)
    result = assemble(settings, fingerprints, out)
    write_json(out / RESULT, result)
    return result


def _lasting(settings: DistanceSettings, beside: Sequence[str] = ()) -> dict[str, Any]:
    """The settings that answers depend on, without those of `beside`."""
    return {name: value for name, value in asdict(settings).items() if name not in ("jobs", "quick", *beside)}


def assemble(settings: DistanceSettings, fingerprints: Sequence[str], out: Path) -> dict[str, Any]:
    """The JSON of a study from the cells that are finished."""
    cells = list_cells(settings)
    found = {cell: path for cell in cells if (path := cell.folder(out) / RESULT).exists()}
    results = {cell: json.loads(path.read_text(encoding="utf-8")) for cell, path in found.items()}
    scores = ("mended", "answers") if settings.rows is None else ("answers",)
    rows = [
        row for arm in settings.arms for length in settings.lengths for row in _cell(settings, results, arm, length)
    ]
    gaps = [
        row
        for base in BASES
        for arm in settings.arms
        for length in settings.lengths
        if arm != base
        for row in _differences(settings, results, base, arm, length, scores)
    ]
    return {
        "study": "distance",
        "complete": len(results) == len(cells),
        "quick": settings.quick,
        "settings": _lasting(settings),
        "models": [
            {"name": name or "the shipped model", "fingerprint": mark}
            for name, mark in zip(settings.models, fingerprints, strict=True)
        ],
        "distance": _distances(settings),
        "cells": rows,
        "differences": gaps,
        "ratios": _ratios(gaps),
        "power": power_statement(gaps),
        "cannot_tell": _limits(settings),
        "versions": versions(),
    }


def _items(settings: DistanceSettings, results: Results, arm: str, length: int) -> list[list[Mapping[str, Any]]]:
    """Per model, the items of an arm in the order of the rows, of the blocks that all models have finished."""
    made: list[list[Mapping[str, Any]]] = [[] for _ in settings.models]
    blocks = [cell for cell in list_cells(settings) if (cell.arm, cell.length, cell.model) == (arm, length, 0)]
    for block in blocks:
        cells = [replace(block, model=model) for model in range(len(settings.models))]
        if not all(cell in results for cell in cells):
            break
        for items, cell in zip(made, cells, strict=True):
            items += results[cell]["items"]
    return made


def _points(models: Sequence[Sequence[Mapping[str, Any]]], score: str, n: int | None = None) -> list[Points]:
    """One Points per model: mended of planted mistakes, or right answers; of the first n rows."""
    made = []
    for items in models:
        if score == "mended":
            facts = [item["score_facts"] for item in items[:n]]
            made.append(Points([f["mended"] for f in facts], [f["mistakes"] for f in facts]))
        else:
            made.append(Points([item["strict"] or 0.0 for item in items[:n]], [1] * len(items[:n])))
    return made


def _cell(settings: DistanceSettings, results: Results, arm: str, length: int) -> list[dict[str, Any]]:
    models = _items(settings, results, arm, length)
    if not models[0]:
        return []
    row: dict[str, Any] = {"arm": arm, "length": length, "n": len(models[0])}
    for score in ("mended", "answers") if settings.rows is None else ("answers",):
        points = _points(models, score)
        row[score] = sum(part.share for part in points) / len(points)
        row[f"{score}_interval"] = share_interval(points)
    row["cut_off"] = sum(item["finish_reason"] in ("length", "context") for items in models for item in items)
    row["errors"] = sum(item["error"] is not None for items in models for item in items)
    return [row]


def _differences(
    settings: DistanceSettings, results: Results, base: str, arm: str, length: int, scores: Sequence[str]
) -> list[dict[str, Any]]:
    ours, theirs = _items(settings, results, arm, length), _items(settings, results, base, length)
    n = min(len(ours[0]), len(theirs[0]))
    if n == 0:
        return []
    rows = []
    for score in scores:
        gap = share_difference(_points(theirs, score, n), _points(ours, score, n))
        rows.append({"base_arm": base, "arm": arm, "length": length, "score": score} | asdict(gap))
    return rows


def _distances(settings: DistanceSettings) -> list[dict[str, float]]:
    """Measured tokens between the image and the reflection, by the first model's tokenizer."""
    model, rows = load_once(settings.models[0]), []
    for length in settings.lengths:
        measured = [tokens_between(model, item) for item in find_rows(settings, length)]
        rows.append(
            {"length": length, "mean": sum(measured) / len(measured), "least": min(measured), "most": max(measured)}
        )
    return rows


def _ratios(gaps: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """COPY less text-only at the primary length (of both scores), with its interval."""
    found: dict[str, Any] = {}
    for gap in gaps:
        if (gap["base_arm"], gap["arm"], gap["length"]) == ("text", "copy", PRIMARY_LENGTH):
            name = f"copy_minus_text_at_{PRIMARY_LENGTH}" + ("" if gap["score"] == "mended" else f"_{gap['score']}")
            found |= {name: gap["difference"], f"{name}_interval": gap["interval"]}
    return found


def power_statement(gaps: Sequence[Mapping[str, Any]]) -> str:
    """What differences the cells that were run can find, in words."""
    sizes: dict[int, list[float]] = {}
    for gap in gaps:
        if gap["base_arm"] == "text" and gap["detectable"] is not None:
            sizes.setdefault(gap["n"], []).append(gap["detectable"])
    parts = [
        f"{n} rows find a true difference from text-only of {min(found):.2f} to {max(found):.2f}"
        for n, found in sorted(sizes.items(), reverse=True)
    ]
    return "; ".join(parts) + " (at 5%, four studies in five, by how these rows differ)" if parts else ""


def _limits(settings: DistanceSettings) -> list[str]:
    told = []
    if len(settings.models) == 1:
        told.append("one trained model: the intervals are over rows, and say nothing about other trainings")
    if settings.quick:
        told.append(f"--quick: {settings.n} rows per cell show large differences alone, and no work beyond 800 tokens")
    if settings.rows is None:
        told.append("a drawn world and a tiny model: nothing here says how large the effect is on photographs")
    return told
