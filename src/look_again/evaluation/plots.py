"""Plots of results as SVG text: no files, no fonts, no global state of the plotting library."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from look_again.extras import require
from look_again.style import LIGHT, MARKS, legend_below, styled

ACCENT = LIGHT.series[0]

Point = tuple[str, float, tuple[float, float]]
"""A label, a value and its interval."""


def interval_plot(points: Sequence[Point], *, label: str, zero: bool = False) -> str:
    """Values with their intervals, one line each from top to bottom; `zero` draws the line of no difference."""
    height = 0.7 + 0.3 * len(points)

    def draw(axes: Any) -> None:
        places = range(len(points))
        if zero:
            axes.axvline(0, color=LIGHT.muted, linewidth=1)
        for place, (_, value, (low, high)) in zip(places, points, strict=True):
            axes.plot([low, high], [place, place], color=ACCENT, linewidth=2)
            axes.plot([value], [place], "o", color=ACCENT, markersize=5)
        axes.set_yticks(list(places), [name for name, _, _ in points])
        axes.set_ylim(len(points) - 0.5, -0.5)
        axes.set_xlabel(label)

    return _svg(draw, height)


def against(series: Mapping[str, Sequence[tuple[float, float, Sequence[float]]]], *, x_label: str, y_label: str) -> str:
    """Lines of (x, value, interval) with their intervals, and a legend."""

    def draw(axes: Any) -> None:
        for colour, mark, (name, points) in zip(LIGHT.series, MARKS, series.items(), strict=False):
            x, y = [point[0] for point in points], [point[1] for point in points]
            gaps = [[abs(interval[end] - value) for _, value, interval in points] for end in (0, 1)]
            axes.errorbar(x, y, yerr=gaps, color=colour, marker=mark, capsize=3, label=name)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.grid()
        legend_below(axes)

    return _svg(draw, 3.8)


def histogram(values: Sequence[float], *, label: str, bins: int = 30) -> str:
    """How often a figure takes which values."""

    def draw(axes: Any) -> None:
        axes.hist(values, bins=bins, color=ACCENT)
        axes.set_xlabel(label)
        axes.set_ylabel("answers")

    return _svg(draw, 2.8)


def _svg(draw: Any, height: float) -> str:
    """A figure of 8 inches' width as an `<svg>` element."""
    require("matplotlib", extra="eval")
    from matplotlib.figure import Figure

    with styled():
        figure = Figure(figsize=(8, height), layout="constrained")
        draw(figure.add_subplot())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = buffer.getvalue()
    return text[text.index("<svg") :]
