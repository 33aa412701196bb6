"""The study's one figure: what is mended against distance, every arm with its interval."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from look_again.extras import require
from look_again.style import styled

LINES = {  # arm -> label, colour, line
    "copy": ("COPY", "#1f5fa8", "-"),
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


def distance_figure(result: Mapping[str, Any], score: str = "mended") -> str:
    """An SVG of a study's cells; arms in the order of LINES."""
    require("matplotlib", extra="eval")
    from matplotlib.figure import Figure

    between = {row["length"]: row["mean"] for row in result["distance"]}
    with styled():
        figure = Figure(figsize=(8, 4.4), layout="constrained")
        axes = figure.add_subplot()
        drawn = [arm for arm in LINES if any(cell["arm"] == arm for cell in result["cells"])]
        for place, arm in enumerate(drawn):
            _draw(
                axes, arm, [cell for cell in result["cells"] if cell["arm"] == arm], between, score, place, len(drawn)
            )
        axes.set_xscale("log")
        ticks = sorted(between.values())
        axes.set_xticks(ticks, [f"{tick:.0f}" for tick in ticks])
        axes.minorticks_off()
        axes.set_ylim(0, 1)
        axes.set_xlabel("tokens between the image and the reflection")
        axes.set_ylabel("planted mistakes mended" if score == "mended" else "right answers")
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _draw(
    axes: Any,
    arm: str,
    cells: Sequence[Mapping[str, Any]],
    between: Mapping[int, float],
    score: str,
    place: int,
    arms: int,
) -> None:
    label, colour, line = LINES[arm]
    ordered = sorted(cells, key=lambda cell: cell["length"])
    shift = 1 + 0.012 * (place - arms / 2)  # so that intervals do not hide one another
    x, y = [between[cell["length"]] * shift for cell in ordered], [cell[score] for cell in ordered]
    ends = [cell[f"{score}_interval"] or (cell[score], cell[score]) for cell in ordered]
    gaps = [[abs(end[side] - value) for end, value in zip(ends, y, strict=True)] for side in (0, 1)]
    axes.errorbar(x, y, yerr=gaps, color=colour, linestyle=line, marker="o", markersize=3.5, capsize=2, label=label)
