"""Writes the tables of docs/results as Markdown into the documents that hold their marks, and prints them."""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
DOCUMENTS = ("README.md", "src/look_again/assets/tiny/README.md", "docs/training.md")
ARMS = {
    "copy": "COPY",
    "route": "ROUTE, m = 50",
    "route-relative": "ROUTE, m = 50, rule that discounts sinks",
    "text": "text-only reflection",
    "copy-heldout": "COPY, held-out colour-shape pairs",
    "copy-wrong-image": "COPY, the wrong image's visual tokens (control)",
    "route-random-rows": "random 50% of the visual tokens (control)",
}
TRAINED = {
    "text": "text-only reflections, text-only in training",
    "copy": "COPY, trained with COPY",
    "route": "ROUTE, m = 50, trained with ROUTE",
    "copy-wrong-image": "the COPY arm, the wrong image's visual tokens (control)",
    "route-wrong-image": "the ROUTE arm, the wrong image's visual tokens (control)",
}
BLOCK = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end table -->)", re.DOTALL)


def share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def arms_table(results: dict[str, dict], arms: dict[str, str] = ARMS) -> str:
    lines = [
        "| reflection | exact answers (95%) | planted mistakes mended | answers after planted mistakes |"
        " hallucinated in last REFLECTION | visual tokens put back |",
        "|---|---|---|---|---|---|",
    ]
    for name, title in arms.items():
        if name not in results:
            continue
        r = results[name]
        low, high = r["interval"]
        lines.append(
            f"| {title} | {r['accuracy']:.3f} ({low:.3f} - {high:.3f}) | {share(r['planted']['share'])} |"
            f" {share(r['planted']['accuracy'])} | {share(r['reflection']['hallucinated'])} |"
            f" {r['tokens_per_answer']['reinserted']:.1f} |"
        )
    return "\n".join(lines) + "\n"


def kinds_table(results: dict[str, dict]) -> str:
    arms = [name for name in ("copy", "route", "text", "copy-heldout") if name in results]
    kinds = sorted(results["copy"]["per_kind"])
    lines = ["| kind | " + " | ".join(ARMS[name] for name in arms) + " |", "|---" * (len(arms) + 1) + "|"]
    for kind in kinds:
        cells = (f"{results[name]['per_kind'][kind]['accuracy']:.3f}" for name in arms)
        lines.append(f"| {kind} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def read(folder: str) -> dict[str, dict]:
    return {path.stem: json.loads(path.read_text()) for path in sorted((RESULTS / folder).glob("*.json"))}


def main() -> None:
    shipped, trained = read("tabletop-tiny"), read("tabletop-arms")
    tables = {"arms": arms_table(shipped), "kinds": kinds_table(shipped), "trained": arms_table(trained, TRAINED)}
    for name in DOCUMENTS:
        path = ROOT / name
        path.write_text(BLOCK.sub(lambda match: match[1] + tables[match[2]] + match[3], path.read_text()))
    print(*tables.values(), sep="\n")


if __name__ == "__main__":
    main()
