"""Arguments that several commands share, and what they turn into."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from look_again.core.modes import CONTROLS, MODES, POSITION_LAYOUTS, RULES

if TYPE_CHECKING:
    from look_again.core.reattention import Reattention
    from look_again.model import LookAgain

BACKENDS = ("transformers", "vllm")
VLLM_KEY_VARIABLE = "LOOK_AGAIN_VLLM_API_KEY"


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


def add_backend_arguments(parser: Any) -> None:
    """What decodes: this process, or vLLM servers. `parser` may be a group of one."""
    parser.add_argument("--backend", default="transformers", choices=BACKENDS, help="what decodes (transformers)")
    parser.add_argument(
        "--vllm-url", action="append", default=[], metavar="URL", help="a vLLM server; repeatable (--backend vllm)"
    )


def check_backend(args: argparse.Namespace) -> None:
    """ValueError for a backend without its servers, servers without their backend, and addresses that are none."""
    if (args.backend == "vllm") != bool(args.vllm_url):
        raise ValueError("--backend vllm and --vllm-url URL go together")
    if args.vllm_url:
        from look_again.clients.vllm_requests import check_url

        for url in args.vllm_url:
            check_url(url)


def build_reattention(args: argparse.Namespace) -> Reattention:
    """The policy that the arguments describe. ValueError for values out of range."""
    from look_again.core.reattention import Reattention

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


def load_model(args: argparse.Namespace) -> LookAgain:
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
