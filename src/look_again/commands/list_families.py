"""`look-again families`: the families of models that are served, since which transformers, and how that was tested."""

from __future__ import annotations

import argparse
import json
from typing import Any

TESTED = "tiny random"  # models of the family's own classes, against the library alone
TRAINED = ", tiny trained"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")


def run(args: argparse.Namespace) -> int:
    from look_again.core.families import REFUSED

    rows = describe_families()
    if args.json:
        print(json.dumps({"families": rows, "refused": REFUSED}, indent=2))
        return 0
    _print_table(rows)
    print("\nRefused, and why:")
    for model_type, reason in REFUSED.items():
        print(f"  {model_type}: {reason}")
    return 0


def describe_families() -> list[dict[str, Any]]:
    """One row per family of the table, in its order."""
    from look_again.core.families import FAMILIES
    from look_again.core.modes import MODES

    return [
        {
            "family": family.model_type,
            "transformers": f">={family.since}",
            "installed": family.is_served,
            "modes": list(MODES),
            "video": family.video is not None,
            "training": ["sft", "brpo"],
            "serving": ["in process", "vllm"] if family.model_type == "qwen2_5_vl" else ["in process"],
            "tested": TESTED + (TRAINED if family.model_type == "qwen2_5_vl" else ""),
        }
        for family in FAMILIES.values()
    ]


def _print_table(rows: list[dict[str, Any]]) -> None:
    lines = [("family", "transformers", "modes", "video", "training", "serving", "tested on models")]
    for row in rows:
        since = row["transformers"] + ("" if row["installed"] else " (newer than installed)")
        kinds = ("all" if len(row["modes"]) == 4 else " ".join(row["modes"]), "yes" if row["video"] else "-")
        reach = (" ".join(row["training"]), ", ".join(row["serving"]), row["tested"])
        lines.append((row["family"], since, *kinds, *reach))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
