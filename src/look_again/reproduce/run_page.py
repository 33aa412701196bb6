"""The report as one page that needs nothing beside it: pipeline, tables, figures, answers, commands. Light and dark."""

from __future__ import annotations

import base64
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from look_again.reproduce.run_tables import PAPER, PREFACE, number, report_table
from look_again.style import html_document

STEPS = {
    0: "Before: the base",
    1: "1 · Cold-start data",
    2: "2 · Cold-start SFT",
    3: "3 · BRPO",
    4: "4 · Distillation",
    5: "5 · Final SFT",
    6: "6 · Evaluation",
    7: "7 · Tables and figures",
}
SECTION = re.compile(r"&lt;/?[A-Z]+&gt;")  # tags of the response format, escaped
FEW = 5  # stages of a step that stand in a narrow card
STYLE = """
h3 { font-size: 1rem; margin: 0 } .soft { color: var(--soft) } .bad { color: var(--bad); font-weight: 600 }
.pipeline { display: grid; gap: .8rem; grid-template-columns: repeat(auto-fit, minmax(15rem, 1fr)); padding: 0;
  align-items: start }
.pipeline > li { list-style: none; background: var(--card); border: 1px solid var(--line); border-radius: .6rem;
  padding: .8rem 1rem; border-top: .25rem solid var(--accent) }
.pipeline ul { margin: .4rem 0 0; padding-left: 1.1rem; font-size: .9rem }
.pipeline > .wide { grid-column: 1 / -1 } .wide ul { columns: 17rem; column-gap: 2rem }
.wide li { break-inside: avoid }
.scroll { overflow-x: auto } table { border-collapse: collapse; font-size: .93rem; min-width: 24rem }
th, td { white-space: nowrap } th:first-child, td:first-child { white-space: normal; min-width: 7.5rem }
td.paper { color: var(--soft) } .scroll + p { margin-bottom: 1.8rem }
.answer { display: grid; grid-template-columns: minmax(7rem, 12rem) 1fr; gap: 1rem; align-items: start;
  margin-bottom: 1.4rem } .answer pre:first-child { grid-column: 1 / -1 }
@media (max-width: 40rem) { .answer { grid-template-columns: 1fr } }
"""


def build_page(report: Mapping[str, Any], pictures: Mapping[str, Sequence[str]] | None = None) -> str:
    """The report of `build_report` as HTML; figures are read from where it says they are.

    pictures: data URLs of the shown answers' images, by the answer's id.
    """
    head = f"<p>{escape(report['about'])}</p>{_state(report)}"
    parts = [head, _pipeline(report["stages"]), *_tables(report["tables"]), *_figures(report["figures"])]
    parts += [*_answers(report["answers"], pictures or {}), _commands(report["stages"]), _versions(report["versions"])]
    return html_document(report["plan"], "".join(parts), STYLE)


def _state(report: Mapping[str, Any]) -> str:
    done = [stage for stage in report["stages"] if stage["done"]]
    minutes = sum(stage["seconds"] or 0 for stage in done) / 60
    text = f"{len(done)} of {len(report['stages'])} stages are made, in {minutes:.1f} minutes of work."
    quick = "A quick run: few steps and few questions, so that differences of some points are chance."
    missing = (
        "" if len(done) == len(report["stages"]) else "<p class=bad>Unfinished: what is missing is shown as -.</p>"
    )
    return f"<p class=soft>{text} {quick if report['quick'] else ''}</p>{missing}"


def _pipeline(stages: Sequence[Mapping[str, Any]]) -> str:
    cards = []
    for step in sorted({stage["step"] for stage in stages}):
        own = [stage for stage in stages if stage["step"] == step]
        items = "".join(f"<li>{_stage(stage)}</li>" for stage in own)
        wide = " class=wide" if len(own) > FEW else ""
        cards.append(f"<li{wide}><h3>{STEPS[step]}</h3><ul>{items}</ul></li>")
    return f"<h2>The pipeline</h2><ol class=pipeline>{''.join(cards)}</ol>"


def _stage(stage: Mapping[str, Any]) -> str:
    if not stage["done"]:
        return f"<b>{escape(stage['name'])}</b>: <span class=bad>not made</span>"
    facts = [f"{escape(name)} {escape(number(value))}" for name, value in stage["facts"].items() if value is not None]
    facts.append(f"{stage['seconds'] / 60:.1f} min")
    return f"<b>{escape(stage['name'])}</b>: {escape(stage['about'])} <span class=soft>({', '.join(facts)})</span>"


def _tables(tables: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if tables:
        yield f"<h2>Tables</h2><p class=soft>{PREFACE}</p>"
    for table in tables:
        shown = report_table(table)
        kinds = [" class=paper" if column.startswith(PAPER) else "" for column in shown.columns]
        lines = [_row("th", kinds, shown.columns), *(_row("td", kinds, row) for row in shown.rows)]
        yield (
            f"<h3>{escape(shown.title)}</h3><div class=scroll tabindex=0><table>{''.join(lines)}</table></div>"
            f"<p>{escape(table['says'])}</p>"
        )


def _row(tag: str, kinds: Sequence[str], cells: Sequence[str]) -> str:
    made = (f"<{tag}{kind}>{escape(cell)}</{tag}>" for kind, cell in zip(kinds, cells, strict=True))
    return f"<tr>{''.join(made)}</tr>"


def _figures(figures: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if figures:
        yield "<h2>Figures</h2>"
    for figure in figures:
        title = escape(figure["title"])
        path = figure["path"]
        image = "<p class=bad>not made</p>"
        if path:
            data = base64.b64encode(Path(path).read_bytes()).decode()
            image = f'<img alt="{title}" src="data:image/png;base64,{data}">'
        yield f"<figure>{image}<figcaption><b>{title}.</b> {escape(figure['says'])}</figcaption></figure>"


def _answers(answers: Sequence[Mapping[str, Any]], pictures: Mapping[str, Sequence[str]]) -> Iterator[str]:
    if answers:
        yield "<h2>Answers</h2>"
    for answer in answers:
        verdict = "right" if answer["strict"] else "wrong"
        shown = "".join(f'<img alt="the picture" src="{url}">' for url in pictures.get(answer["id"], ()))
        text = SECTION.sub(r"<b>\g<0></b>", escape(answer["text"]))
        yield (
            f"<h3>{escape(answer['prompt'])}</h3><p class=soft>{verdict}; the reference is "
            f"{escape(str(answer['reference']))}; {_saw(answer)}</p>"
            f"<div class=answer>{shown}<pre>{text}</pre></div>"
        )


def _saw(answer: Mapping[str, Any]) -> str:
    """What the looks of an answer saw: how many visual tokens of the picture were put back, of how many."""
    tokens, looks = answer["tokens"], answer["looks"]
    if not looks:
        return "it never looked again"
    each = f"{tokens['reinserted'] / looks:g} of the picture's {tokens['visual']} visual tokens"
    return (
        f"it looked again once and saw {each}"
        if looks == 1
        else f"it looked again {looks} times and saw {each} each time"
    )


def _commands(stages: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        f"# {stage['name']}  ({stage['key']})\n{shlex.join(command)}"
        for stage in stages
        for command in stage["commands"] or ()
    ]
    shown = escape("\n".join(rows))
    return f"<h2>Commands</h2><details><summary>as they were run</summary><pre>{shown}</pre></details>"


def _versions(found: Mapping[str, str]) -> str:
    return f"<p class=soft>{escape(', '.join(f'{name} {number}' for name, number in found.items()))}</p>"
