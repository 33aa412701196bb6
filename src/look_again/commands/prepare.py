"""`look-again prepare MODEL OUT`: a copy of a checkpoint with the response tags as tokens, ready for fine-tuning."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="DIR_OR_HUB_NAME", help="checkpoint to copy")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write; must not exist")


def run(args: argparse.Namespace) -> int:
    if args.out.exists():
        raise ValueError(f"{args.out} exists already; choose another folder")
    from look_again.loading import SIDE_FILE, load_checkpoint

    checkpoint = load_checkpoint(args.model, device="cpu", dtype="checkpoint")
    for part in (checkpoint.model, checkpoint.tokenizer, checkpoint.image_processor):
        part.save_pretrained(args.out)
    if checkpoint.trained:
        shutil.copy(Path(args.model) / SIDE_FILE, args.out)
    for note in checkpoint.notes or ("this checkpoint had all tags already",):
        print(note)
    print(f"written: {args.out}")
    return 0
