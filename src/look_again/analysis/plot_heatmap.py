"""The figure of `analyze heatmap`, drawn from its JSON; nothing is measured here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from look_again.analysis.canvas import encode_png, name_model, new_figure
from look_again.style import LIGHT, Theme, styled

MAP_NAMES = {"both": "original + re-inserted", "original": "original rows", "reinserted": "re-inserted rows"}
SINK_MARKS = {"prompt": ("×", "x", "prompt sink"), "constant": ("○", "o", "constant sink")}
MAP_OPACITY = 0.75
FAINT = 0.35  # how far the image under a map goes towards the ground


def draw_heatmap(result: Mapping[str, Any], image: Image.Image, theme: Theme = LIGHT) -> bytes:
    """PNG of `analyze heatmap`: a column per section, rows for all, original and re-inserted visual tokens.

    Colours are relative to an even share of what a panel's tokens pay to the image; that total is in its title. A place
    that gets less than an even share has no colour.
    """
    with styled(theme):
        return _draw(result, image, theme)


def _draw(result: Mapping[str, Any], image: Image.Image, theme: Theme) -> bytes:
    panels = [result["prompt"], *result["sections"]]
    figure, axes = new_figure(len(MAP_NAMES), len(panels) + 1, (1.75 * (len(panels) + 1) + 0.9, 6.4))
    top = scale_end(panels, result["sinks"])
    ground = Image.new("L", image.size, 255 if theme is LIGHT else 0)
    grey = Image.blend(image.convert("L"), ground, FAINT)
    for row, (key, name) in enumerate(MAP_NAMES.items()):
        _draw_first(axes[row][0], image, name, first=row == 0)
        for axis, panel in zip(axes[row][1:], panels, strict=True):
            _draw_panel(axis, grey, panel, key, top, theme)
            if panel["attention"][key]:
                _mark_sinks(axis, result, image, theme)
            head = f"{panel['name']}\n{panel['tokens']} tokens\n" if row == 0 else ""
            colour = theme.sections.get(panel["name"].split()[0], theme.ink) if row == 0 else theme.muted
            axis.set_title(head + _total(panel, key), fontsize=9, loc="center", color=colour)
    _colours(figure, axes, top, result, theme)
    sinks = result["sinks"]
    counts = ", ".join(f"{len(sinks[kind])} {name}s ({mark})" for kind, (mark, _, name) in SINK_MARKS.items())
    figure.suptitle(
        f"{_seen(result)}\n{name_model(result['settings']['model'])}; {counts}", fontsize=11.5, x=0.01, ha="left"
    )
    return encode_png(figure, image)


def _seen(result: Mapping[str, Any]) -> str:
    """What the figure shows, as its title: which section looked hardest at the image."""
    totals = [(part["attention"]["both"] or 0.0, part["name"]) for part in result["sections"]]
    if not totals:
        return "What the prompt looked at"
    most, name = max(totals)
    return f"{name} looked hardest at the image: {100 * most:.0f}% of its attention"


def _draw_first(axis: Any, image: Image.Image, name: str, *, first: bool) -> None:
    """The image itself, in the first row; below it only the rows' names."""
    axis.set(xticks=[], yticks=[], frame_on=first)
    axis.set_ylabel(name, fontsize=9)
    if first:
        axis.imshow(image)
        axis.set_title("image", fontsize=9, loc="center")


def _draw_panel(axis: Any, grey: Image.Image, panel: Mapping[str, Any], key: str, top: float, theme: Theme) -> None:
    shown = bool(panel["attention"][key])
    axis.set(xticks=[], yticks=[], frame_on=shown)
    if shown:
        extent = (0, grey.width, grey.height, 0)
        axis.imshow(grey, cmap="gray", vmin=0, vmax=255, extent=extent)
        style = {"cmap": theme.heat, "vmin": 0, "vmax": top, "alpha": MAP_OPACITY, "interpolation": "nearest"}
        axis.imshow(_without_less(_relative(panel["map"][key])), extent=extent, **style)


def _total(panel: Mapping[str, Any], key: str) -> str:
    total = panel["attention"][key]
    return f"{100 * total:.1f}% of attention" if total else "nothing put back yet"


def _relative(values: Sequence[Sequence[float]]) -> list[list[float]]:
    """A map in units of its even share; 0 everywhere where nothing was paid."""
    flat = [value for row in values for value in row]
    even = sum(flat) / len(flat)
    return [[value / even if even else 0.0 for value in row] for row in values]


def _without_less(values: Sequence[Sequence[float]]) -> list[list[float]]:
    """A map in even shares without what is below one, which is not drawn."""
    return [[value if value >= 1 else float("nan") for value in row] for row in values]


def _mark_sinks(axis: Any, result: Mapping[str, Any], image: Image.Image, theme: Theme) -> None:
    grid = result["grid"]
    for kind, (_, marker, _) in SINK_MARKS.items():
        x = [(column + 0.5) * image.width / grid["columns"] for _, column in result["sinks"][kind]]
        y = [(row + 0.5) * image.height / grid["rows"] for row, _ in result["sinks"][kind]]
        axis.plot(x, y, marker, color=theme.ink, fillstyle="none", markersize=7, markeredgewidth=1.2)


def _colours(figure: Any, axes: Any, top: float, result: Mapping[str, Any], theme: Theme) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    scale = ScalarMappable(Normalize(0, top), theme.heat)
    label = (
        "attention on a place, times an even share (below one not drawn)\n"
        f"(mean over tokens and heads, {_layer_name(result)})"
    )
    bar = figure.colorbar(scale, ax=axes, label=label, alpha=MAP_OPACITY, shrink=0.8, pad=0.01)
    if top > 1:
        bar.ax.set_ylim(1, top)


def scale_end(panels: Sequence[Mapping[str, Any]], sinks: Mapping[str, Any]) -> float:
    """End of the colour scale: the strongest place that is no sink, so that sinks do not wash out the rest."""
    marked = {tuple(place) for kind in SINK_MARKS for place in sinks[kind]}
    values = [
        value
        for panel in panels
        for key in MAP_NAMES
        for y, row in enumerate(_relative(panel["map"][key]))
        for x, value in enumerate(row)
        if (y, x) not in marked
    ]
    return max(1.0, *values) if values else 1.0


def _layer_name(result: Mapping[str, Any]) -> str:
    return "all layers" if result["layer"] == "mean" else f"layer {result['layer']}"
