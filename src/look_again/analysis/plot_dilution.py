"""The figure of `analyze dilution`, drawn from its JSON; nothing is measured here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from look_again.analysis.canvas import encode_png, name_model, new_figure
from look_again.style import LIGHT, MARKS, Theme, legend_below, styled

WITH, WITHOUT, REINSERTED, ORIGINAL = range(4)  # series of a theme
HEADROOM = 1.08  # of the values' range
LEAST_ANSWERS = 0.2  # share of the answers that a drawn mean needs: the tail of a few long ones is left to the JSON


def draw_dilution(result: Mapping[str, Any], theme: Theme = LIGHT) -> bytes:
    """PNG of `analyze dilution`: share, attention, the first look, the bound, layers, and lists where there are any."""
    rows = 4 if "lists" in result else 3
    with styled(theme):
        figure, axes = new_figure(rows, 2, (11.5, 3.9 * rows))
        means = "mean and 95% interval of " if result["answers"] > 1 else ""
        answers = f"{result['answers']} answer" + "s" * (result["answers"] > 1)
        figure.suptitle(
            f"{name_model(result['settings']['model'])}: {means}{answers}", fontsize=11.5, x=0.01, ha="left"
        )
        draw = _Dilution(result, theme)
        draw.share(axes[0][0])
        draw.attention(axes[0][1])
        draw.look(axes[1][0])
        draw.bound(axes[1][1])
        draw.layers(figure, axes[2])
        if "lists" in result:
            draw.lists(axes[3][0], "hallucinated", "hallucinated, % of listed objects")
            draw.lists(axes[3][1], "recall", "recalled, % of objects in the image")
        return encode_png(figure)


LAYER_TITLES = {"with": "Per layer, with re-insertion", "without": "Per layer, same text, nothing put back"}


class _Dilution:
    """The panels of one result in one theme."""

    def __init__(self, result: Mapping[str, Any], theme: Theme) -> None:
        self.result, self.theme, self.least = result, theme, max(1.0, LEAST_ANSWERS * result["answers"])

    def share(self, axis: Any) -> None:
        """The visual share, measured and by formula."""
        result = self.result
        self._line(axis, result["with"]["share"], WITH, "with re-insertion (theorem 3.2)")
        self._line(axis, result["without"]["share"], WITHOUT, "same text, nothing put back (theorem 3.1)")
        for key in ("with", "without"):
            self._line(axis, result[key]["bound_share"], None, None, style=":", band=False)
        axis.plot([], [], ":", color=self.theme.ink, label="by formula, delimiters not counted")
        title = f"Share of visual slots{self._after('share')}"
        self._label(axis, title, "tokens generated", "visual share r, % of all slots")

    def attention(self, axis: Any) -> None:
        """What tokens pay to the image, along the answer."""
        self._attention_lines(axis, self.result)
        title = f"Attention on the image{self._after('visual')}"
        self._label(axis, title, "tokens generated", "attention, %, mean of all layers")

    def look(self, axis: Any) -> None:
        """The same around the first look again."""
        self._attention_lines(axis, self.result["around_first_look"], least=1)
        axis.axvline(-0.5, color=self.theme.muted, linewidth=0.8)
        x_label = "tokens generated after the first <REFLECTION>"
        self._label(axis, "Attention on the image before and after the first look", x_label, "attention, %")

    def bound(self, axis: Any) -> None:
        """The bound of theorem 3.1 in nats."""
        for key, colour, name in (("with", WITH, "with re-insertion"), ("without", WITHOUT, "nothing put back")):
            self._line(axis, self.result[key]["bound_nats"], colour, name, scale=1.0)
        title = "Most that a token can owe to the image: r · H(y | x, c)"
        self._label(axis, title, "tokens generated", "nats per token, the model's own H")

    def layers(self, figure: Any, axes: Sequence[Any]) -> None:
        """Attention by layer, both readings on one scale."""
        result = self.result
        kept = sum(n >= self.least for n in result["with"]["visual"]["n"])
        tables = {
            key: [[_scaled(v) for v in layer[:kept]] for layer in result[key]["per_layer"]] for key in LAYER_TITLES
        }
        top = max(v for table in tables.values() for layer in table for v in layer if not math.isnan(v))
        shown = None
        for axis, (key, title) in zip(axes, LAYER_TITLES.items(), strict=True):
            extent = (0.5, kept * result["tokens_per_point"] + 0.5, len(tables[key]) - 0.5, -0.5)
            style = {"aspect": "auto", "cmap": self.theme.heat, "interpolation": "nearest"}
            shown = axis.imshow(tables[key], vmin=0, vmax=top, extent=extent, **style)
            axis.set(title=title, xlabel="tokens generated", ylabel="layer")
            axis.yaxis.get_major_locator().set_params(integer=True)
        figure.colorbar(shown, ax=axes, label="attention on visual tokens, %", pad=0.01)

    def lists(self, axis: Any, value: str, label: str) -> None:
        """What lists get wrong or recall, against where they end."""
        for i, (tag, own) in enumerate(self.result["lists"].items()):
            bins = [part for part in own["bins"] if part[value] is not None]
            x, y = [part["tokens"] for part in bins], [100 * part[value] for part in bins]
            gaps = [[abs(100 * part[f"{value}_interval"][i] - y[j]) for j, part in enumerate(bins)] for i in (0, 1)]
            colour = self.theme.sections.get(tag, self.theme.series[i])
            axis.errorbar(x, y, yerr=gaps, color=colour, marker=MARKS[i], capsize=3, label=f"list in {tag}")
        title = "Hallucination" if value == "hallucinated" else "Recall"
        x_label = "tokens generated up to the list's end"
        self._label(axis, f"{title} against generated length", x_label, label, zero=False)

    def _attention_lines(self, axis: Any, curves: Mapping[str, Any], least: float | None = None) -> None:
        own = curves["with"]
        self._line(axis, own["visual"], WITH, "all visual tokens, with re-insertion", least)
        self._line(axis, own["original"], ORIGINAL, "of it: on the prompt's", least, style="--", band=False)
        self._line(axis, own["reinserted"], REINSERTED, "of it: on re-inserted ones", least, style="-.", band=False)
        self._line(axis, curves["without"]["visual"], WITHOUT, "visual tokens, nothing put back", least)

    def _after(self, key: str) -> str:
        """What a figure was after the first look again, in both readings."""
        after = self.result["after_first_look"]
        values = [after[kind][key] for kind in ("with", "without")]
        if None in values:
            return ""
        return " after a look: {:.0f}%, without {:.0f}%".format(*(100 * value for value in values))

    def _line(
        self,
        axis: Any,
        curve: Mapping[str, Any],
        series: int | None,
        label: str | None,
        least: float | None = None,
        *,
        style: str = "-",
        band: bool = True,
        scale: float = 100.0,
    ) -> None:
        """A curve, in percent unless `scale` says otherwise, with its interval; points of few answers are left out."""
        colour = self.theme.ink if series is None else self.theme.series[series]
        kept = [i for i, n in enumerate(curve["n"]) if n >= (self.least if least is None else least)]
        x = [curve["x"][i] for i in kept]
        mean, low, high = ([_scaled(curve[key][i], scale) for i in kept] for key in ("mean", "low", "high"))
        axis.plot(x, mean, style, color=colour, label=label, linewidth=1.0 if style == ":" else 1.6)
        if band:
            axis.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)

    def _label(self, axis: Any, title: str, x: str, y: str, *, zero: bool = True) -> None:
        axis.set(title=title, xlabel=x, ylabel=y)
        if zero:
            top = axis.dataLim.y1
            axis.set_ylim(0, HEADROOM * top if math.isfinite(top) and top > 0 else 1.0)
        axis.grid()
        legend_below(axis)


def _scaled(value: float | None, scale: float = 100.0) -> float:
    return float("nan") if value is None else scale * value
