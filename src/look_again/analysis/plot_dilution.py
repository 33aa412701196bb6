"""The figure of `analyze dilution`, drawn from its JSON; nothing is measured here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from look_again.analysis.canvas import MAP_COLOURS, encode_png, new_figure

WITH, WITHOUT = "#1f5fbf", "#c2571a"
ORIGINAL, REINSERTED = "#4c9be8", "#12805c"
GREY = "#777777"
LEGEND_ROOM = 1.6  # of the values' range, so that a legend covers none of them
LEAST_ANSWERS = 0.2  # share of the answers that a drawn mean needs: the tail of a few long ones is left to the JSON


def draw_dilution(result: Mapping[str, Any]) -> bytes:
    """PNG of `analyze dilution`: share, attention, the first look, the bound, layers, and lists where there are any."""
    rows = 4 if "lists" in result else 3
    figure, axes = new_figure(rows, 2, (11.0, 3.0 * rows))
    means = "mean and 95% interval of " if result["answers"] > 1 else ""
    answers = f"{result['answers']} answer" + "s" * (result["answers"] > 1)
    figure.suptitle(f"{result['settings']['model']}: {means}{answers}", fontsize=11)
    _draw_share(axes[0][0], result)
    _draw_attention(axes[0][1], result)
    _draw_look(axes[1][0], result["around_first_look"])
    _draw_bound(axes[1][1], result)
    _draw_layers(figure, axes[2], result)
    if "lists" in result:
        _draw_lists(axes[3][0], result["lists"], "hallucinated", "hallucinated, % of listed objects")
        _draw_lists(axes[3][1], result["lists"], "recall", "recalled, % of objects in the picture")
    return encode_png(figure)


def _draw_share(axis: Any, result: Mapping[str, Any]) -> None:
    least = _least(result)
    _line(axis, result["with"]["share"], WITH, "with re-insertion (theorem 3.2)", least)
    _line(axis, result["without"]["share"], WITHOUT, "same text, nothing put back (theorem 3.1)", least)
    for key in ("with", "without"):
        _line(axis, result[key]["bound_share"], "black", None, least, style=":", band=False)
    axis.plot([], [], "k:", label="by formula, delimiters not counted")
    _label(axis, "Visual share r: bounds I(y; c | x) / H(y | x, c)", "tokens generated", "visual share, % of all slots")


def _draw_attention(axis: Any, result: Mapping[str, Any]) -> None:
    least = _least(result)
    _line(axis, result["with"]["visual"], WITH, "all visual tokens, with re-insertion", least)
    _line(axis, result["with"]["original"], ORIGINAL, "of it: on the prompt's", least, style="--", band=False)
    _line(axis, result["with"]["reinserted"], REINSERTED, "of it: on re-inserted ones", least, style="--", band=False)
    _line(axis, result["without"]["visual"], WITHOUT, "visual tokens, nothing put back", least)
    _label(axis, "Attention on visual tokens, mean of all layers", "tokens generated", "attention, %")


def _draw_look(axis: Any, around: Mapping[str, Any]) -> None:
    _line(axis, around["with"]["visual"], WITH, "all visual tokens, with re-insertion")
    _line(axis, around["with"]["original"], ORIGINAL, "of it: on the prompt's", style="--", band=False)
    _line(axis, around["with"]["reinserted"], REINSERTED, "of it: on re-inserted ones", style="--", band=False)
    _line(axis, around["without"]["visual"], WITHOUT, "visual tokens, nothing put back")
    axis.axvline(-0.5, color=GREY, linewidth=0.8)
    _label(
        axis,
        "Attention around the first look again",
        "tokens generated after the first <REFLECTION>",
        "attention, %",
        place="upper left",
    )


def _draw_bound(axis: Any, result: Mapping[str, Any]) -> None:
    least = _least(result)
    for key, colour, name in (("with", WITH, "with re-insertion"), ("without", WITHOUT, "nothing put back")):
        _line(axis, result[key]["bound_nats"], colour, name, least, scale=1.0)
    _label(axis, "Bound r · H(y | x, c) on I(y; c | x), the model's own H", "tokens generated", "nats per token")


def _draw_layers(figure: Any, axes: Sequence[Any], result: Mapping[str, Any]) -> None:
    kept = sum(n >= _least(result) for n in result["with"]["visual"]["n"])
    tables = {key: [[_scaled(v) for v in layer[:kept]] for layer in result[key]["per_layer"]] for key in LAYER_TITLES}
    top = max(v for table in tables.values() for layer in table for v in layer if not math.isnan(v))
    shown = None
    for axis, (key, title) in zip(axes, LAYER_TITLES.items(), strict=True):
        extent = (0.5, kept * result["tokens_per_point"] + 0.5, len(tables[key]) - 0.5, -0.5)
        style = {"aspect": "auto", "cmap": MAP_COLOURS, "interpolation": "nearest"}
        shown = axis.imshow(tables[key], vmin=0, vmax=top, extent=extent, **style)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("tokens generated")
        axis.set_ylabel("layer")
        axis.yaxis.get_major_locator().set_params(integer=True)
    figure.colorbar(shown, ax=axes, label="attention on visual tokens, %", pad=0.01)


LAYER_TITLES = {"with": "Per layer, with re-insertion", "without": "Per layer, same text, nothing put back"}


def _draw_lists(axis: Any, lists: Mapping[str, Any], value: str, label: str) -> None:
    for (tag, own), colour in zip(lists.items(), (ORIGINAL, REINSERTED), strict=False):
        bins = [part for part in own["bins"] if part[value] is not None]
        x, y = [part["tokens"] for part in bins], [100 * part[value] for part in bins]
        gaps = [[abs(100 * part[f"{value}_interval"][i] - y[j]) for j, part in enumerate(bins)] for i in (0, 1)]
        axis.errorbar(x, y, yerr=gaps, color=colour, marker="o", capsize=3, linewidth=1.2, label=f"list in {tag}")
    low, high = (axis.dataLim.y0, axis.dataLim.y1) if math.isfinite(axis.dataLim.y0) else (0.0, 100.0)
    room = (LEGEND_ROOM - 1) * max(high - low, 1.0)
    axis.set_ylim(*((low - 1, high + room) if value == "hallucinated" else (low - room, high + 1)))
    title, place = ("Hallucination", "upper left") if value == "hallucinated" else ("Recall", "lower left")
    x_label = "tokens generated up to the list's end"
    _label(axis, f"{title} against generated length", x_label, label, zero=False, place=place)


def _line(
    axis: Any,
    curve: Mapping[str, Any],
    colour: str,
    label: str | None,
    least: float = 1,
    *,
    style: str = "-",
    band: bool = True,
    scale: float = 100.0,
) -> None:
    """A curve, in percent unless `scale` says otherwise, with its interval; points of few answers are left out."""
    kept = [i for i, n in enumerate(curve["n"]) if n >= least]
    x = [curve["x"][i] for i in kept]
    mean, low, high = ([_scaled(curve[key][i], scale) for i in kept] for key in ("mean", "low", "high"))
    axis.plot(x, mean, style, color=colour, label=label, linewidth=1.0 if style == ":" else 1.5)
    if band:
        axis.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)


def _scaled(value: float | None, scale: float = 100.0) -> float:
    return float("nan") if value is None else scale * value


def _least(result: Mapping[str, Any]) -> float:
    return max(1.0, LEAST_ANSWERS * result["answers"])


def _label(axis: Any, title: str, x: str, y: str, *, zero: bool = True, place: str = "upper right") -> None:
    axis.set_title(title, fontsize=10)
    axis.set_xlabel(x)
    axis.set_ylabel(y)
    if zero:
        top = axis.dataLim.y1
        axis.set_ylim(0, LEGEND_ROOM * top if math.isfinite(top) and top > 0 else 1.0)
    axis.grid(alpha=0.25)
    axis.legend(fontsize=7.5, framealpha=0.9, loc=place)
