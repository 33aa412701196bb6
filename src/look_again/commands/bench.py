"""`look-again bench decode|sft|brpo|data|eval|serve`: ratios of times and sizes, measured side by side."""

from __future__ import annotations

import argparse
import importlib

from look_again.bench import options
from look_again.commands.common import print_json, wrap_lines
from look_again.extras import require

EXTRAS: dict[str, dict[str, tuple[str, ...]]] = {
    "decode": {},
    "sft": {"train": ("accelerate", "trl")},
    "brpo": {"train": ("accelerate", "trl", "httpx"), "eval": ("math_verify",)},
    "data": {"data": ("openai",), "eval": ("math_verify",)},
    "eval": {"eval": ("openai", "math_verify", "matplotlib")},
    "serve": {"serve": ("fastapi", "llguidance", "uvicorn", "httpx", "msgpack", "prometheus_client")},
}
"""Packages that a part needs beyond the base install, by the extra that has them."""

PARTS = {
    "decode": (options.add_decode_arguments, "the decoding loop: re-attention against text, loop against library"),
    "sft": (options.add_sft_arguments, "a training step: re-attention against the image repeated in the answer"),
    "brpo": (options.add_brpo_arguments, "the rewards of BRPO, and where the time of a step goes"),
    "data": (options.add_data_arguments, "the data engine's own overhead: rows per second, memory, resuming"),
    "eval": (options.add_eval_arguments, "what scoring and analysing answers cost"),
    "serve": (
        options.add_serve_arguments,
        "serving: looking again on vLLM, batching in process, time to the first token",
    ),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parts = parser.add_subparsers(dest="benchmark", required=True, metavar="BENCHMARK")
    for name, (add, about) in PARTS.items():
        add(parts.add_parser(name, help=about))


def run(args: argparse.Namespace) -> int:
    for extra, packages in EXTRAS[args.benchmark].items():
        for package in packages:
            require(package, extra=extra)
    part = importlib.import_module(f"look_again.bench.{args.benchmark}_costs")
    result = part.run(args)
    if args.json:
        print_json(result)
    else:
        print(wrap_lines(part.table(result)))
    return 0
