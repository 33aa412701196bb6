"""`look-again families`: the families of models that are served, since which transformers, and how that was tested."""

from __future__ import annotations

import argparse
import json
import shutil
import textwrap
from typing import Any

TESTED = "tiny random"  # models of the family's own classes, against the library alone
TRAINED = ", tiny trained"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")


def run(args: argparse.Namespace) -> int:
    from look_again.core.families import REFUSED
    from look_again.serving.vllm.family_protocols import UNSERVED

    rows = describe_families()
    if args.json:
        print(json.dumps({"families": rows, "refused": REFUSED}, indent=2))
        return 0
    _print_table(rows)
    width = shutil.get_terminal_size().columns
    for title, reasons in (("Refused", REFUSED), ("Not served by vLLM", UNSERVED)):
        print(f"\n{title}, and why:")
        for model_type, reason in reasons.items():
            print(textwrap.fill(f"{model_type}: {reason}", width, initial_indent="  ", subsequent_indent="    "))
    return 0


def describe_families() -> list[dict[str, Any]]:
    """One row per family of the table, in its order."""
    from look_again.core.families import FAMILIES
    from look_again.core.modes import MODES
    from look_again.serving.vllm.family_protocols import SERVED

    return [
        {
            "family": family.model_type,
            "transformers": f">={family.since}",
            "installed": family.is_served,
            "modes": list(MODES),
            "video": family.video is not None,
            "training": ["sft", "brpo"],
            "serving": ["in process", *(["vllm"] if family.model_type in SERVED else [])],
            "vllm_modes": list_vllm_modes(family.model_type),
            "tested": TESTED + (TRAINED if family.model_type == "qwen2_5_vl" else ""),
        }
        for family in FAMILIES.values()
    ]


def list_vllm_modes(model_type: str) -> list[str]:
    """What a vLLM server answers in: everything but ROUTE, or that too; nothing where it does not serve the family."""
    from look_again.clients.sequence_requests import STRIP_FAMILIES
    from look_again.core.modes import MODES
    from look_again.serving.vllm.family_protocols import SERVED

    if model_type not in SERVED:
        return []
    return [mode for mode in MODES if mode != "route" or model_type in STRIP_FAMILIES]


def _print_table(rows: list[dict[str, Any]]) -> None:
    from look_again.evaluation.result_tables import ResultTable, print_tables

    columns = ("family", "transformers", "modes", "video", "training", "serving", "tested on models")
    lines = []
    for row in rows:
        since = row["transformers"] + ("" if row["installed"] else " (newer than installed)")
        kinds = ("all" if len(row["modes"]) == 4 else " ".join(row["modes"]), "yes" if row["video"] else "-")
        reach = (" ".join(row["training"]), ", ".join(_name_serving(row)), row["tested"])
        lines.append((row["family"], since, *kinds, *reach))
    print_tables([ResultTable("families", columns, lines)])


def _name_serving(row: dict[str, Any]) -> list[str]:
    """How a family is served, and whether a vLLM server does without ROUTE."""
    without = row["vllm_modes"] and "route" not in row["vllm_modes"]
    return [f"{name} (no route)" if name == "vllm" and without else name for name in row["serving"]]
