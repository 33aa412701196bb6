"""A study's result as tables of text, for a terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from look_again.evaluation.result_tables import ResultTable
from look_again.study.settings import split_arm


def study_tables(result: Mapping[str, Any]) -> list[ResultTable]:
    """Shares of every arm by distance, then paired differences from text-only with their intervals, for each score."""
    return [table for score in result["scores"] for table in (_shares(result, score), _gaps(result, score))]


def study_words(result: Mapping[str, Any]) -> list[str]:
    """Which differences so many rows find, answers that went wrong, and what the study cannot tell."""
    told = [_wrong(result, "errors", "Not answered"), _wrong(result, "cut_off", "Cut off before their end")]
    return [result["power"], *filter(None, told), *(f"Cannot tell: {limit}." for limit in result["cannot_tell"])]


def _wrong(result: Mapping[str, Any], key: str, title: str) -> str:
    """The cells with such answers, "" where there are none; of several models together."""
    models = len(result["models"])
    cells = [
        f"{cell['arm']} at {cell['length']}: {cell[key]} of {models * cell['n']}"
        for cell in result["cells"]
        if cell[key]
    ]
    return f"{title}, by arm and length: {'; '.join(cells)}." if cells else ""


def _shares(result: Mapping[str, Any], score: str) -> ResultTable:
    lengths, columns = _distances(result)
    rows = []
    for arm in result["settings"]["arms"]:
        cells = {cell["length"]: cell for cell in result["cells"] if cell["arm"] == arm}
        count = str(next(iter(cells.values()))["n"]) if cells else ""
        rows.append((arm, count, *(f"{cells[n][score]:.2f}" if n in cells else "" for n in lengths)))
    return ResultTable(f"{score}, by tokens between image and reflection", columns, rows)


def _gaps(result: Mapping[str, Any], score: str) -> ResultTable:
    lengths, columns = _distances(result)
    rows = []
    for arm in result["settings"]["arms"]:
        gaps = {
            gap["length"]: gap
            for gap in result["differences"]
            if (split_arm(gap["base_arm"])[0], gap["arm"], gap["score"]) == ("text", arm, score)
        }
        if gaps:
            count = str(next(iter(gaps.values()))["n"])
            rows.append((arm, count, *(_gap(gaps.get(n)) for n in lengths)))
    return ResultTable(f"{score}, less text-only", columns, rows)


def _distances(result: Mapping[str, Any]) -> tuple[list[int], tuple[str, ...]]:
    """Lengths of work, and the columns of a table: the tokens that really lay between."""
    lengths = [row["length"] for row in result["distance"]]
    return lengths, ("", "n", *(str(round(row["mean"])) for row in result["distance"]))


def _gap(gap: Mapping[str, Any] | None) -> str:
    if gap is None:
        return ""
    if gap["interval"] is None:
        return f"{gap['difference']:+.2f}"
    low, high = gap["interval"]
    return f"{gap['difference']:+.2f} ({low:+.2f} to {high:+.2f})"
