"""A study's result as Markdown, for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from look_again.study.settings import split_arm


def study_table(result: Mapping[str, Any]) -> str:
    """Shares of every arm by distance, then paired differences from text-only with their intervals, then power."""
    lengths = [row["length"] for row in result["distance"]]
    between = {row["length"]: round(row["mean"]) for row in result["distance"]}
    scores = result["scores"]
    lines = []
    for score in scores:
        lines += [
            f"| {score}, by tokens between image and reflection | n |" + "".join(f" {between[n]} |" for n in lengths)
        ]
        lines += ["|---|---|" + "---|" * len(lengths)]
        for arm in result["settings"]["arms"]:
            cells = {cell["length"]: cell for cell in result["cells"] if cell["arm"] == arm}
            shown = [f" {cells[n][score]:.2f} |" if n in cells else " |" for n in lengths]
            count = next(iter(cells.values()))["n"] if cells else ""
            lines.append(f"| {arm} | {count} |" + "".join(shown))
        lines += ["", f"| {score}, less text-only | n |" + "".join(f" {between[n]} |" for n in lengths)]
        lines += ["|---|---|" + "---|" * len(lengths)]
        for arm in result["settings"]["arms"]:
            gaps = {
                gap["length"]: gap
                for gap in result["differences"]
                if (split_arm(gap["base_arm"])[0], gap["arm"], gap["score"]) == ("text", arm, score)
            }
            if gaps:
                count = next(iter(gaps.values()))["n"]
                lines.append(f"| {arm} | {count} |" + "".join(_gap(gaps.get(n)) for n in lengths))
        lines.append("")
    return "\n".join([*lines, result["power"], *(f"Cannot tell: {limit}." for limit in result["cannot_tell"])])


def _gap(gap: Mapping[str, Any] | None) -> str:
    if gap is None:
        return " |"
    if gap["interval"] is None:
        return f" {gap['difference']:+.2f} |"
    low, high = gap["interval"]
    return f" {gap['difference']:+.2f} ({low:+.2f} to {high:+.2f}) |"
