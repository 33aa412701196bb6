"""Arguments that several commands share, and what they turn into."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from look_again.core.reattention import CONTROLS, MODES, RULES, Reattention
from look_again.core.slots import POSITION_LAYOUTS


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", metavar="DIR_OR_HUB_NAME", help="checkpoint (default: the shipped tiny model)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    parser.add_argument("--dtype", default="auto", help="auto, float32, bfloat16 or float16 (default: auto)")
    parser.add_argument("--max-pixels", type=int, metavar="N", help="scale larger images down to N pixels")
    parser.add_argument("--attention", help="attention kernel, e.g. sdpa or flash_attention_2 (default: the library's)")


def add_reasoning_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--max-reasoning-tokens",
        type=int,
        metavar="N",
        help="sampled tokens before the CONCLUSION, which is then forced (default: no bound, nothing is forced)",
    )


def add_reattention_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--reattention", default="copy", choices=MODES, help="what a reflection does (default: copy)")
    parser.add_argument("--keep", type=int, default=50, metavar="M", help="percent of rows that route keeps (50)")
    parser.add_argument("--rule", default="paper", choices=RULES, help="ranking of route: equation 5, or less sinks")
    parser.add_argument("--layout", default="grid", choices=POSITION_LAYOUTS, help="positions of re-inserted rows")
    parser.add_argument("--no-delimiters", action="store_true", help="re-insert rows without vision delimiters")
    parser.add_argument("--max-reinsertions", type=int, default=16, metavar="N", help="per answer (16)")


def add_control_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--control",
        choices=CONTROLS,
        help="put back another or a blank image's rows, random rows, or at a random place",
    )
    parser.add_argument("--control-seed", type=int, default=0, metavar="S", help="of random rows and places (0)")
    parser.add_argument(
        "--within", type=int, default=64, metavar="W", help="the random place is among the first W tokens (64)"
    )


def reattention_of(args: argparse.Namespace) -> Reattention:
    """The policy that the arguments describe. ValueError for values out of range."""
    return Reattention(
        mode=args.reattention,
        keep=args.keep,
        rule=args.rule,
        layout=args.layout,
        delimiters=not args.no_delimiters,
        max_reinsertions=args.max_reinsertions,
        control=getattr(args, "control", None),
        seed=getattr(args, "control_seed", Reattention.seed),
        within=getattr(args, "within", Reattention.within),
    )


def load_of(args: argparse.Namespace) -> Any:
    """The model that the arguments name; its notes go to standard error."""
    from look_again.model import load

    model = load(
        args.model,
        device=args.device,
        dtype=args.dtype,
        attn_implementation=args.attention,
        max_pixels=args.max_pixels,
    )
    for note in model.checkpoint.notes:
        print(f"note: {note}", file=sys.stderr)
    return model


def print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False, indent=2))
