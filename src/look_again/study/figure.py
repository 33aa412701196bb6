"""The study's one figure: a share against the distance (or the tokens kept), every arm with its interval."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from look_again.extras import require
from look_again.study.designs import RANKED
from look_again.study.settings import split_arm
from look_again.style import styled

LINES = {  # arm -> label, colour, line
    "copy": ("COPY", "#1f5fa8", "-"),
    "copy-rotated": ("COPY, keys rotated", "#1f5fa8", ":"),
    "route-50": ("ROUTE 50%, relevance", "#4f9ad8", "-"),
    "route-50-both": ("ROUTE 50%, relevance x diversity", "#4f9ad8", "--"),
    "route-50-diversity": ("ROUTE 50%, diversity", "#4f9ad8", ":"),
    "random-rows": ("50% at random", "#7a7a7a", ":"),
    "user-turn-image": ("user turn with the image", "#2e8b57", "-"),
    "user-turn": ("user turn in words", "#2e8b57", "--"),
    "image-twice": ("image twice up front", "#8b5fbf", "-"),
    "text": ("text-only", "#c2571a", "-"),
    "wrong-image": ("another image's rows", "#222222", "--"),
    "blank-image": ("a blank image's rows", "#222222", ":"),
}


SELECTED = {
    "route": ("relevance", "#4f9ad8", "-"),
    "route-both": ("relevance x diversity", "#4f9ad8", "--"),
    "route-diversity": ("diversity", "#4f9ad8", ":"),
    "random": ("at random", "#7a7a7a", ":"),
}
MASK_LINES = {"global": "-", "mixed": "--", "local": ":"}
LABELS = {
    "mended": "planted mistakes mended",
    "answers": "right answers",
    "picture": "answers that follow the picture shown",
}


def study_figure(result: Mapping[str, Any]) -> str:
    """An SVG of a study's cells by its first score: over the distance, or over the share of visual tokens kept."""
    require("matplotlib", extra="eval")
    from matplotlib.figure import Figure

    score = result["scores"][0]
    with styled():
        figure = Figure(figsize=(8, 4.4), layout="constrained")
        axes = figure.add_subplot()
        if result["study"] == "selection":
            _draw_selection(axes, result["cells"], score)
        else:
            _draw_distance(axes, result, score)
        axes.set_ylim(0, 1)
        axes.set_ylabel(LABELS[score])
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _draw_distance(axes: Any, result: Mapping[str, Any], score: str) -> None:
    between = {row["length"]: row["mean"] for row in result["distance"]}
    known = [arm for arm in result["settings"]["arms"] if any(cell["arm"] == arm for cell in result["cells"])]
    drawn = sorted(known, key=lambda arm: [*LINES, arm].index(split_arm(arm)[0]) if split_arm(arm)[0] in LINES else 99)
    for place, arm in enumerate(drawn):
        cells = [cell for cell in result["cells"] if cell["arm"] == arm]
        _draw(axes, _line(arm), cells, between, score, place, len(drawn))
    axes.set_xscale("log")
    ticks = sorted(between.values())
    axes.set_xticks(ticks, [f"{tick:.0f}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("tokens between the image and the reflection")


def _draw_selection(axes: Any, cells: Sequence[Mapping[str, Any]], score: str) -> None:
    """Of the first length: a line for each ranking over the percentage that is kept, and level lines for other arms."""
    length = cells[0]["length"]
    shares: dict[str, list[tuple[int, Mapping[str, Any]]]] = {}
    for cell in (cell for cell in cells if cell["length"] == length):
        if (found := RANKED.fullmatch(cell["arm"])) is not None:
            shares.setdefault(found[1] + (found[3] or ""), []).append((int(found[2]), cell))
        else:
            label, colour, line = _line(cell["arm"])
            axes.axhline(cell[score], color=colour, linestyle=line, label=label)
    for place, (arm, points) in enumerate(shares.items()):
        between = {kept: kept for kept, _ in points}
        _draw(
            axes, SELECTED[arm], [{**cell, "length": kept} for kept, cell in points], between, score, place, len(shares)
        )
    most = max((kept for points in shares.values() for kept, _ in points), default=0)
    axes.set_xlim(0, 1.2 * (most or 100))
    axes.set_xlabel("visual tokens put back, per cent")


def _line(arm: str) -> tuple[str, str, str]:
    """Label, colour and line of an arm."""
    policy, mask = split_arm(arm)
    label, colour, line = LINES.get(policy, (policy, "#555555", "-"))
    return (f"{label}, {mask}", colour, MASK_LINES[mask]) if mask else (label, colour, line)


def _draw(
    axes: Any,
    drawn: tuple[str, str, str],
    cells: Sequence[Mapping[str, Any]],
    between: Mapping[int, float],
    score: str,
    place: int,
    arms: int,
) -> None:
    label, colour, line = drawn
    ordered = sorted(cells, key=lambda cell: cell["length"])
    shift = 1 + 0.012 * (place - arms / 2)  # so that intervals do not hide one another
    x, y = [between[cell["length"]] * shift for cell in ordered], [cell[score] for cell in ordered]
    ends = [cell[f"{score}_interval"] or (cell[score], cell[score]) for cell in ordered]
    gaps = [[abs(end[side] - value) for end, value in zip(ends, y, strict=True)] for side in (0, 1)]
    axes.errorbar(x, y, yerr=gaps, color=colour, linestyle=line, marker="o", markersize=3.5, capsize=2, label=label)
