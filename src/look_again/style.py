"""How figures and written pages look: one style for all of them, light and dark, told apart without colour vision.

Series take their colours in order and differ in brightness and marks as well; sections of a response have the colours
that they have on the pages. Titles stand at the left and say what is seen; legends stand below the axis and cover
nothing. Needs matplotlib (extra `eval`) where a figure is drawn; importing this needs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from typing import Any

from look_again.extras import require

LEGEND_DROP_POINTS = 34  # from an axis to its legend, past the tick labels and the axis label


@dataclass(frozen=True)
class Theme:
    """Colours of a figure. surface: behind everything. ink, muted, grid: text, lesser text, lines of the grid.

    series: one after the other, each told from the others without colour vision. sections: by tag. heat: the name of a
    sequential colour map whose brightness runs one way.
    """

    name: str
    surface: str
    ink: str
    muted: str
    grid: str
    series: tuple[str, ...]
    heat: str
    sections: Mapping[str, str] = field(default_factory=dict)


LIGHT = Theme(
    name="light",
    surface="#ffffff",
    ink="#22252a",
    muted="#6b7077",
    grid="#d9dce1",
    series=("#0b5fa5", "#c9540a", "#0a8f6c", "#8f4a9e"),
    heat="YlOrRd",
    sections={
        "SUMMARY": "#3b82f6",
        "CAPTION": "#10966e",
        "REASONING": "#d97706",
        "REFLECTION": "#9333ea",
        "CONCLUSION": "#dc265a",
    },
)
DARK = Theme(
    name="dark",
    surface="#14161a",
    ink="#e8eaed",
    muted="#a3a8b0",
    grid="#3a3f47",
    series=("#6ab4f5", "#ff9a52", "#3fcf9f", "#d79be6"),
    heat="inferno",
    sections={
        "SUMMARY": "#7cb0ff",
        "CAPTION": "#35c796",
        "REASONING": "#f2a33c",
        "REFLECTION": "#c08bff",
        "CONCLUSION": "#ff7096",
    },
)
THEMES = {theme.name: theme for theme in (LIGHT, DARK)}
MARKS = ("o", "s", "^", "D")  # of the series, in their order
LINES = ("-", "--", "-.", ":")


def _colours(theme: Theme) -> str:
    return f"--ink: {theme.ink}; --soft: {theme.muted}; --paper: {theme.surface}; --line: {theme.grid}"


PAGE_STYLE = f"""
:root {{ color-scheme: light dark; {_colours(LIGHT)}; --card: #f4f5f8; --accent: #1c4fa1; --bad: #b00020 }}
@media (prefers-color-scheme: dark) {{
  :root {{ {_colours(DARK)}; --card: #1e222b; --accent: #8db4f5; --bad: #ff8a9a }} }}
* {{ box-sizing: border-box }}
body {{ font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 0 auto;
  max-width: 72rem; padding: 1.6rem 1.2rem }}
h1 {{ font-size: 1.6rem; margin: 0 0 .6rem }} h2 {{ margin: 2rem 0 .6rem; font-size: 1.2rem }} p {{ max-width: 46rem }}
th, td {{ padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: right }}
th:first-child, td:first-child {{ text-align: left }}
img, svg {{ max-width: 100%; height: auto }} figure {{ margin: 1.2rem 0 }}
figure svg, img {{ background: #fff; border: 1px solid var(--line); border-radius: .4rem }}
pre {{ white-space: pre-wrap; overflow-wrap: anywhere; background: var(--card); border: 1px solid var(--line);
  border-radius: .4rem; padding: .7rem; font-size: .83rem; margin: 0 }}
details {{ margin: .4rem 0 }} summary {{ cursor: pointer }}
"""


def html_document(title: str, body: str, style: str = "") -> str:
    """A whole page that needs nothing beside it: no script, no address. body: HTML. style: CSS beyond `PAGE_STYLE`."""
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{PAGE_STYLE}{style}</style>"
    )
    main = f"<main><h1>{escape(title)}</h1>\n{body}</main>"
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>{main}</body></html>\n'


@contextmanager
def styled(theme: Theme = LIGHT) -> Iterator[None]:
    """Figures made and saved inside have the theme; nothing stays set. MissingExtraError without matplotlib."""
    require("matplotlib", extra="eval")
    import matplotlib

    with matplotlib.rc_context():
        settings: Any = matplotlib.rcParams  # its type knows no plain dictionary
        settings.update(_settings(theme))
        yield


def _settings(theme: Theme) -> dict[str, Any]:
    inks = ("text.color", "axes.labelcolor", "axes.titlecolor", "xtick.labelcolor", "ytick.labelcolor")
    edges = ("axes.edgecolor", "xtick.color", "ytick.color")
    surfaces = ("figure.facecolor", "axes.facecolor", "savefig.facecolor", "legend.facecolor")
    return {
        **dict.fromkeys(inks, theme.ink),
        **dict.fromkeys(edges, theme.muted),
        **dict.fromkeys(surfaces, theme.surface),
        "svg.fonttype": "none",  # text stays text
        "svg.hashsalt": "look_again",  # the same figure is the same file
        "text.parse_math": False,
        "font.size": 10.5,
        "axes.titlesize": 11.5,
        "axes.titlelocation": "left",
        "axes.titleweight": "bold",
        "axes.titlepad": 9,
        "axes.labelsize": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": False,
        "axes.axisbelow": True,
        "grid.color": theme.grid,
        "grid.linewidth": 0.7,
        "xtick.labelsize": 9.5,
        "ytick.labelsize": 9.5,
        "legend.fontsize": 9.5,
        "legend.frameon": False,
        "lines.linewidth": 1.8,
        "lines.markersize": 5,
    }


def legend_below(axis: Any, columns: int = 1) -> None:
    """The legend of an axis, under its label: it covers no curve, whatever the data. Nothing without labels."""
    from matplotlib.transforms import ScaledTranslation

    if not axis.get_legend_handles_labels()[0]:
        return
    down = ScaledTranslation(0, -LEGEND_DROP_POINTS / 72, axis.figure.dpi_scale_trans)
    axis.legend(
        loc="upper left",
        bbox_to_anchor=(0, 0),
        bbox_transform=axis.transAxes + down,
        ncols=columns,
        borderaxespad=0,
        handlelength=2.2,
    )
