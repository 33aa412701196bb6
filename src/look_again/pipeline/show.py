"""Status and summaries as tables on a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

COUNTS = ("items", "ok", "bad", "waiting", "pending")


def show_status(summary: Mapping[str, Any], console: Console | None = None) -> None:
    """Print what `status` found."""
    console = console or Console(highlight=False)
    console.print("rows: " + ", ".join(f"{count} {verdict}" for verdict, count in summary["rows"].items()))
    _stages(console, summary["stages"])
    _reasons(console, {"refused": summary["refused"], **{n: s["reasons"] for n, s in summary["stages"].items()}})
    table = Table("endpoint", "replies", "attempts", "tokens in", "tokens out", "cost", "replies/s")
    for name, part in summary["endpoints"].items():
        attempts = ", ".join(f"{count} {kind}" for kind, count in part.get("attempts", {}).items())
        rate = part.get("replies_per_second")
        values = (part["replies"], attempts, part["tokens_in"], part["tokens_out"], f"{part['money']:.4f}", rate or "-")
        table.add_row(name, *map(str, values))
    console.print(table)
    _panel(console, summary["panel"])
    audit = summary["requests"]
    console.print(
        f"{summary['sessions']} sessions; {audit['interrupted']} requests were under way at an interruption, "
        f"{audit['repeated']} of them sent again; finished requests sent again: {audit['sent_again']}"
    )


def show_demo(summary: Mapping[str, Any], console: Console | None = None) -> None:
    """Print the summary of the demonstration."""
    console = console or Console(highlight=False)
    for flow in ("cold-start", "distilled"):
        part = summary[flow]
        console.print(f"\n{flow}: {part['rows'].get('ok', 0)} rows in, {part['built']} built", style="bold")
        _stages(console, part["stages"])
        _reasons(console, part["reasons"])
        console.print(
            "counts add up" if part["adds_up"] else "COUNTS DO NOT ADD UP", style="" if part["adds_up"] else "red"
        )
        if "wrong" in part:
            _panel(console, part["panel"])
            for label, share in part["wrong"].items():
                console.print(f"wrong answers, {label}: {share['wrong']} of {share['of']} ({_number(share['share'])})")
            _reading(console, part)


def _reading(console: Console, part: Mapping[str, Any]) -> None:
    """What the figures of the distilled flow say, in words."""
    wrong, panel = part["wrong"], part["panel"]
    before, after = wrong["distilled"], wrong["built"]
    console.print(
        f"\nIn words: of {before['of']} answers of the model {before['wrong']} were wrong. The judges flagged "
        f"{panel['flagged'] if panel else 0}, right ones among them, and a writer wrote them anew; people "
        f"rejected what was still wrong. In the {after['of']} built rows {after['wrong']} are wrong.",
        highlight=False,
    )


def _stages(console: Console, stages: Mapping[str, Mapping[str, Any]]) -> None:
    table = Table("stage", *COUNTS)
    for name, part in stages.items():
        table.add_row(name, *(str(part[key]) for key in COUNTS))
    console.print(table)


def _reasons(console: Console, reasons: Mapping[str, Mapping[str, int]]) -> None:
    for stage, counts in reasons.items():
        for reason, count in counts.items():
            console.print(f"  {stage}: {count} x {reason}", markup=False)


def _panel(console: Console, summary: Mapping[str, Any] | None) -> None:
    if summary is None:
        return
    console.print(
        f"panel: {summary['flagged']} of {summary['rows']} rows flagged ({summary['flag_rate']:.3f}), "
        f"{summary['flagged_by_format']} by format; Fleiss' kappa {_number(summary['fleiss_kappa'])}"
    )
    table = Table("judges", "rows", "equal", "Cohen's kappa")
    for pair in summary["pairs"]:
        table.add_row(" / ".join(pair["judges"]), str(pair["rows"]), _number(pair["equal"]), _number(pair["kappa"]))
    console.print(table)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
