"""`lookagain train sft --config FILE`: run or resume a recipe."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("method", choices=["sft"], help="supervised fine-tuning with re-attention in place")
    parser.add_argument("--config", required=True, type=Path, metavar="FILE", help="the recipe (YAML)")
    parser.add_argument("--output", metavar="DIR", help="instead of the recipe's own folder")


def run(args: argparse.Namespace) -> int:
    import dataclasses

    from lookagain.training.config import load_config

    config = load_config(args.config)
    if args.output:
        config = dataclasses.replace(config, output=args.output)
    from lookagain.extras import require

    require("accelerate", extra="train")
    from lookagain.training.run import train

    print(f"trained: {train(config)}")
    return 0
