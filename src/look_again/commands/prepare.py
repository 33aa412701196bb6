"""`look-again prepare MODEL OUT`: a copy of a checkpoint with the tags as tokens, an adapter or a quantisation in it.

The folder stands on its own: for fine-tuning, for vLLM, and for stock transformers, which looks again when it
generates.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from look_again.commands.common import add_weight_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="DIR_OR_HUB_NAME", help="checkpoint or adapter to copy")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write; must not exist")
    add_weight_arguments(parser)


def run(args: argparse.Namespace) -> int:
    if args.out.exists():
        raise ValueError(f"{args.out} exists already; choose another folder")
    from look_again.loading import load_checkpoint
    from look_again.training.export import write_copy

    checkpoint = load_checkpoint(
        args.model,
        device="cpu",
        dtype="checkpoint",
        quantization=args.quantization,
        adapter=args.adapter,
        merge_adapter=True,
    )
    write_copy(args.out, checkpoint, args.model, args.adapter)
    for note in checkpoint.notes or ("this checkpoint had all tags already",):
        print(note)
    print(f"written: {args.out}")
    return 0
