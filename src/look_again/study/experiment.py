"""A study end to end: its rows, every arm on the same items, and what comes of them.

Reported are shares of every arm by length (of planted mistakes that are mended, of right answers, of what answers
follow) and paired differences from text-only and COPY with 95% intervals.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from look_again.evaluation.run import versions
from look_again.evaluation.run_folder import RESULT, differing, write_json
from look_again.study.arm_models import load_once
from look_again.study.cells import Cell, check_study, find_rows, list_cells, run_cells, tokens_between
from look_again.study.paired import Points, share_difference, share_interval
from look_again.study.settings import BASES, PRIMARY_LENGTH, StudySettings, split_arm

STUDY = "study.json"
FEW_MODELS = 4  # of fewer an interval knows little of how trainings vary
GROWING = ("n", "n_other", "arms", "lengths")  # what a later run of a study may have more of: cells stand alone
Results = Mapping[Cell, Mapping[str, Any]]


def run_study(settings: StudySettings, out: Path) -> dict[str, Any]:
    """Run or resume the study in `out`; returns what `result.json` holds.

    ValueError as `check_study`, and for a folder of another study.
    """
    config = json.loads(json.dumps(_lasting(settings, GROWING)))
    path = out / STUDY
    if path.exists() and (changed := differing(json.loads(path.read_text(encoding="utf-8")), config)):
        raise ValueError(f"{out} holds another study ({'; '.join(changed)}); take another folder or remove it")
    fingerprints = check_study(settings, out)
    out.mkdir(parents=True, exist_ok=True)
    write_json(path, config)
    run_cells(settings, list_cells(settings), out)
    result = assemble(settings, fingerprints, out)
    write_json(out / RESULT, result)
    return result


def _lasting(settings: StudySettings, beside: Sequence[str] = ()) -> dict[str, Any]:
    """The settings that answers depend on, without those of `beside`."""
    return {name: value for name, value in asdict(settings).items() if name not in ("jobs", "quick", *beside)}


def assemble(settings: StudySettings, fingerprints: Sequence[str], out: Path) -> dict[str, Any]:
    """The JSON of a study from the cells that are finished."""
    cells = list_cells(settings)
    found = {cell: path for cell in cells if (path := cell.folder(out) / RESULT).exists()}
    results = {cell: json.loads(path.read_text(encoding="utf-8")) for cell, path in found.items()}
    rows = [
        row for arm in settings.arms for length in settings.lengths for row in _cell(settings, results, arm, length)
    ]
    gaps = [
        row
        for base in BASES
        for arm in settings.arms
        for length in settings.lengths
        if split_arm(arm)[0] != base
        for row in _differences(settings, results, base, arm, length)
    ]
    return {
        "study": settings.study,
        "title": settings.design.title,
        "scores": list(settings.scores),
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


def _items(settings: StudySettings, results: Results, arm: str, length: int) -> list[list[Mapping[str, Any]]]:
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
    """One Points per model, of the first n rows: mended of planted mistakes, or answers that are right or follow."""
    made = []
    for items in models:
        facts = [item["score_facts"] for item in items[:n]]
        if score == "mended":
            made.append(Points([f["mended"] for f in facts], [f["mistakes"] for f in facts]))
        elif score == "answers":
            made.append(Points([item["strict"] or 0.0 for item in items[:n]], [1] * len(facts)))
        else:
            made.append(Points([float(f["follows"] == score) for f in facts], [1] * len(facts)))
    return made


def _cell(settings: StudySettings, results: Results, arm: str, length: int) -> list[dict[str, Any]]:
    models = _items(settings, results, arm, length)
    if not models[0]:
        return []
    row: dict[str, Any] = {"arm": arm, "length": length, "n": len(models[0])}
    for score in settings.scores:
        points = _points(models, score)
        row[score] = sum(part.share for part in points) / len(points)
        row[f"{score}_interval"] = share_interval(points)
    row["cut_off"] = sum(item["finish_reason"] in ("length", "context") for items in models for item in items)
    row["errors"] = sum(item["error"] is not None for items in models for item in items)
    return [row]


def _differences(settings: StudySettings, results: Results, base: str, arm: str, length: int) -> list[dict[str, Any]]:
    base += arm.removeprefix(split_arm(arm)[0])  # under the same mask
    ours, theirs = _items(settings, results, arm, length), _items(settings, results, base, length)
    n = min(len(ours[0]), len(theirs[0]))
    if n == 0:
        return []
    rows = []
    for score in settings.scores:
        gap = share_difference(_points(theirs, score, n), _points(ours, score, n))
        rows.append({"base_arm": base, "arm": arm, "length": length, "score": score} | asdict(gap))
    return rows


def _distances(settings: StudySettings) -> list[dict[str, float]]:
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
        (base, mask), (arm, _) = split_arm(gap["base_arm"]), split_arm(gap["arm"])
        if (base, arm, gap["length"]) == ("text", "copy", PRIMARY_LENGTH):
            ends = ([] if gap["score"] == "mended" else [gap["score"]]) + ([mask] if mask else [])
            name = "_".join([f"copy_minus_text_at_{PRIMARY_LENGTH}", *ends])
            found |= {name: gap["difference"], f"{name}_interval": gap["interval"]}
    return found


def power_statement(gaps: Sequence[Mapping[str, Any]]) -> str:
    """What differences the cells that were run can find, in words."""
    sizes: dict[int, list[float]] = {}
    for gap in gaps:
        if split_arm(gap["base_arm"])[0] == "text" and gap["detectable"] is not None:
            sizes.setdefault(gap["n"], []).append(gap["detectable"])
    parts = [
        f"{n} rows find a true difference from text-only of {min(found):.2f} to {max(found):.2f}"
        for n, found in sorted(sizes.items(), reverse=True)
    ]
    return "; ".join(parts) + " (at 5%, four studies in five, by how these rows differ)" if parts else ""


def _limits(settings: StudySettings) -> list[str]:
    told = []
    if len(settings.models) == 1:
        told.append("one trained model: the intervals are over rows, and say nothing about other trainings")
    elif len(settings.models) < FEW_MODELS:
        told.append(
            f"{len(settings.models)} trained models: intervals over so few are too narrow where trainings vary (of 100 "
            "in simulations, 70 to 92 hold the truth instead of 95)"
        )
    if settings.quick:
        told.append(
            f"--quick: {settings.n} rows per cell show large differences alone, in some of the arms, and no work "
            "beyond 800 tokens"
        )
    if settings.rows is None:
        told.append("a drawn world and a tiny model: nothing here says how large the effect is on photographs")
    return [*told, *settings.design.limits]
