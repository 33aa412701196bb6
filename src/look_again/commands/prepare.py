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
    from look_again.core.checkpoint_record import SIDE_FILE, find_side_file
    from look_again.loading import load_checkpoint, resolve_source

    checkpoint = load_checkpoint(args.model, device="cpu", dtype="checkpoint")
    for part in (checkpoint.model, checkpoint.tokenizer, checkpoint.image_processor):
        part.save_pretrained(args.out)
    side_file = find_side_file(resolve_source(args.model))
    if side_file is not None:
        shutil.copy(side_file, args.out / SIDE_FILE)
    for note in checkpoint.notes or ("this checkpoint had all tags already",):
        print(note)
    print(f"written: {args.out}")
    return 0
