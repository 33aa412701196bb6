"""Writes docs/results/controls.md from what `look-again eval tabletop --controls` left in tabletop-controls/."""

from __future__ import annotations

import json
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
TEXT = RESULTS / "controls.md"
MARK = "<!-- table -->\n"


def table() -> str:
    benchmarks = json.loads((RESULTS / "tabletop-controls" / "controls.json").read_text())["benchmarks"]
    found, planted = benchmarks["tabletop"], benchmarks["tabletop-planted"]["arms"]
    paired = {
        base: {one["run"]: one for one in comparison["differences"] if one["subset"] is None}
        for base, comparison in found["against"].items()
    }
    lines = [
        "| arm | exact answers (95%) | against COPY, paired (95%) | against text, paired (95%) |"
        " planted mistakes mended | rows put back per answer | unparsed | cut off |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, arm in found["arms"].items():
        low, high = arm["interval"]
        cells = [
            arm["title"],
            f"{arm['mean']:.3f} ({low:.3f} to {high:.3f})",
            *(difference(paired[base].get(name)) for base in ("copy", "text")),
            f"{planted[name]['primary']:.3f}",
            f"{arm['tokens_per_answer']['reinserted']:.1f}",
            str(arm["counts"]["unparsed"]),
            str(arm["counts"]["cut_off"]),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def difference(one: dict | None) -> str:
    if one is None:
        return "-"
    low, high = one["interval"]
    return f"{one['difference']:+.3f} ({low:+.3f} to {high:+.3f})"


def write_table(document: Path, made: str) -> None:
    """Between the document's two marks, and on the terminal."""
    before, _, after = document.read_text().split(MARK)
    document.write_text(f"{before}{MARK}{made}{MARK}{after}")
    print(made)


if __name__ == "__main__":
    write_table(TEXT, table())
