"""`lookagain tabletop make`: rows of the Tabletop world as pictures and JSON lines."""

from __future__ import annotations

import argparse
from pathlib import Path

from tqdm import tqdm

from lookagain.tabletop.rows import write_rows
from lookagain.tabletop.world import SPLITS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    make = actions.add_parser("make", help="write images/ and rows.jsonl")
    make.add_argument("--n", type=int, required=True, help="number of rows")
    make.add_argument("--seed", type=int, default=0, help="of the stream (0)")
    make.add_argument("--split", default="test", choices=SPLITS, help="stream to draw from (test)")
    make.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")


def run(args: argparse.Namespace) -> int:
    if args.n < 1:
        raise ValueError(f"--n must be at least 1, not {args.n}")
    for _ in tqdm(write_rows(args.out, args.split, args.seed, args.n), total=args.n, unit="row"):
        pass
    print(f"{args.n} rows in {args.out / 'rows.jsonl'}")
    return 0
