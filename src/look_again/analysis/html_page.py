"""One HTML page per analysis that needs nothing beside it: the figure is in it, no script and no address is."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from look_again.style import html_document

STYLE = """
table { display: block; overflow-x: auto; border-collapse: collapse; margin: 1em 0 }
"""

DILUTION_NOTES = (
    "One text, two readings: every answer was written with re-insertion and read again with nothing put back, so that "
    "both share each generated token and differ by the inserted visual tokens alone. Attention is the share of all "
    "that a token's query pays, mean over heads, as computed from the model's own queries and keys.",
    "Visual share r is the number of visual slots over all slots so far. Theorem 3.1: it bounds the mutual information "
    "of a token and the image, I(y; c | x), by r times the token's entropy H(y | x, c); theorem 3.2: putting visual "
    "tokens back raises it. A token that spread its attention evenly would pay exactly r to visual tokens.",
    "Bands are 95% intervals of the mean over answers; points that few answers reach are only in the JSON.",
)
HEATMAP_NOTES = (
    "A column per section of the answer: mean attention of its tokens on each place of the picture, as a share of all "
    "that they pay. A place can be in the sequence several times - in the prompt and in each insertion - and its "
    "attention is shown as the sum and apart.",
    "A prompt sink gets outsized attention from the prompt's own text after the picture; a constant sink gets it from "
    "every section. Outsized is {factor:g} times an even share of what goes to the picture, or more. Colours show such "
    "shares; their scale ends at the strongest place that is no sink.",
)


def dilution_page(result: Mapping[str, Any], png: bytes) -> str:
    """The page of `analyze dilution`."""
    after = result["after_first_look"]
    rows = [
        [name, *(_percent(after[kind][key]) for kind in ("with", "without"))]
        for name, key in (
            ("visual share r", "share"),
            ("attention on visual tokens", "visual"),
            ("of it, on the prompt's", "original"),
            ("of it, on re-inserted ones", "reinserted"),
        )
    ]
    theorem = result["theorem_3_2"]
    grown = f"The visual share grew in {theorem['share_grew']} of {theorem['insertions']} insertions."
    count = f"{result['answers']} answers, {result['looked_again']} of them looked again. {grown}"
    parts = [
        _paragraphs([count, *DILUTION_NOTES]),
        _table(["mean after the first look again", "with re-insertion", "nothing put back"], rows),
        *([_lists_table(result["lists"])] if "lists" in result else []),
    ]
    return _page("Visual dilution", png, "".join(parts), result)


def heatmap_page(result: Mapping[str, Any], png: bytes) -> str:
    """The page of `analyze heatmap`."""
    kinds = ("both", "original", "reinserted")
    rows = [
        [part["name"], str(part["tokens"]), *(_percent(part["attention"][kind]) for kind in kinds)]
        for part in (result["prompt"], *result["sections"])
    ]
    parts = [
        f"<p><b>{html.escape(result['settings']['question'])}</b></p>",
        f"<pre>{html.escape(result['answer']['response'])}</pre>",
        _paragraphs([note.format(factor=result["sinks"]["factor"]) for note in HEATMAP_NOTES]),
        _table(["section", "tokens", "attention on visual tokens", "original", "re-inserted"], rows),
    ]
    return _page("What each section looked at", png, "".join(parts), result)


def _lists_table(lists: Mapping[str, Any]) -> str:
    rows = [
        [
            tag,
            f"{part['tokens_from']} to {part['tokens_to']}",
            str(part["n"]),
            _share(part["hallucinated"], part["hallucinated_interval"]),
            _share(part["recall"], part["recall_interval"]),
        ]
        for tag, own in lists.items()
        for part in own["bins"]
    ]
    return _table(["list in", "tokens generated", "answers", "hallucinated (95%)", "recall (95%)"], rows)


def _page(title: str, png: bytes, body: str, result: Mapping[str, Any]) -> str:
    image = base64.b64encode(png).decode()
    rows = list(_settings({**result["settings"], "seconds": result["seconds"]}))
    shown = f'<img alt="{html.escape(title)}" src="data:image/png;base64,{image}">'
    settings = f"<h2>Settings</h2>{_table(['setting', 'value'], rows)}"
    return html_document(title, shown + body + settings, STYLE)


def _settings(values: Mapping[str, Any], inside: str = "") -> Iterator[list[str]]:
    """Settings as rows of name and value; those of a group stand one by one, numbers to four figures."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _settings(value, f"{inside}{key}: ")
        elif value is not None:
            yield [f"{inside}{key}".replace("_", " "), f"{value:.4g}" if isinstance(value, float) else str(value)]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    lines = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<table tabindex="0"><tr>{cells}</tr>{lines}</table>'


def _paragraphs(texts: Sequence[str]) -> str:
    return "".join(f"<p>{html.escape(text)}</p>" for text in texts)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}%"


def _share(value: float | None, interval: Sequence[float]) -> str:
    return f"{_percent(value)} ({_percent(interval[0])} to {_percent(interval[1])})"
