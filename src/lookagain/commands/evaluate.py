"""`lookagain eval tabletop`: exact answers, hallucinations and mended mistakes on Tabletop."""

from __future__ import annotations

import argparse
from typing import Any

from lookagain.commands.common import (
    add_control_argument,
    add_model_arguments,
    add_reattention_arguments,
    load_of,
    print_json,
    reattention_of,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("benchmark", choices=["tabletop"], help="what to evaluate on")
    parser.add_argument("--n", type=int, default=200, help="questions (200)")
    parser.add_argument("--seed", type=int, default=0, help="of the stream (0)")
    parser.add_argument("--split", default="test", choices=["test", "heldout", "validation"], help="(test)")
    parser.add_argument(
        "--batch", type=int, default=50, help="questions decoded together; does not change answers (50)"
    )
    parser.add_argument("--max-new-tokens", type=int, default=512, metavar="N", help="per answer (512)")
    parser.add_argument("--no-planted", action="store_true", help="leave out the run on planted mistakes")
    add_model_arguments(parser)
    add_reattention_arguments(parser)
    add_control_argument(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    policy = reattention_of(args)
    if args.n < 1 or args.batch < 1:
        raise ValueError("--n and --batch must be at least 1")
    from lookagain.tabletop.evaluate import EvalConfig, evaluate

    config = EvalConfig(
        n=args.n,
        seed=args.seed,
        split=args.split,
        batch=args.batch,
        max_new_tokens=args.max_new_tokens,
        planted=not args.no_planted,
    )
    result = evaluate(load_of(args), config, policy)
    if args.json:
        print_json(result)
    else:
        show(result)
    return 0


def show(result: dict[str, Any]) -> None:
    """Print a result as tables."""
    from rich.console import Console
    from rich.table import Table

    low, high = result["interval"]
    console = Console(highlight=False)
    console.print(f"accuracy {result['accuracy']:.3f}  (95%: {low:.3f} to {high:.3f}, n = {result['n']})")
    table = Table("kind", "n", "accuracy")
    for kind, part in result["per_kind"].items():
        table.add_row(kind, str(part["n"]), f"{part['accuracy']:.3f}")
    console.print(table)
    for section in ("caption", "reflection"):
        part = result[section]
        console.print(f"{section}: hallucinated {_share(part['hallucinated'])}, recall {_share(part['recall'])}")
    if planted := result.get("planted"):
        console.print(
            f"planted mistakes: {planted['mended']} of {planted['mistakes']} mended ({_share(planted['share'])})"
        )
    console.print("tokens per answer: " + ", ".join(f"{k} {v:.1f}" for k, v in result["tokens_per_answer"].items()))


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
