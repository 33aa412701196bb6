"""`look-again tabletop make|clips|serve`: rows, clips, and an endpoint that answers from their truth."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from look_again.tabletop.world import SPLITS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    make = actions.add_parser("make", help="write images/ and rows.jsonl")
    make.add_argument("--n", type=int, required=True, help="number of rows")
    make.add_argument("--seed", type=int, default=0, help="of the stream (0)")
    make.add_argument("--split", default="test", choices=SPLITS, help="stream to draw from (test)")
    make.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    clips = actions.add_parser("clips", help="write videos/ and rows.jsonl: short clips with exact questions")
    clips.add_argument("--n", type=int, required=True, help="number of clips")
    clips.add_argument("--seed", type=int, default=0, help="of the stream (0)")
    clips.add_argument("--split", default="test", choices=SPLITS, help="stream to draw from (test)")
    clips.add_argument("--format", default="mp4", choices=("mp4", "webm"), help="of the videos (mp4)")
    clips.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    serve = actions.add_parser("serve", help="an OpenAI-compatible endpoint: teacher, judge, writer, model")
    serve.add_argument("--host", default="127.0.0.1", help="(127.0.0.1)")
    serve.add_argument("--port", type=int, default=8399, help="(8399)")
    serve.add_argument("--error-rate", type=float, default=0.0, metavar="SHARE", help="wrong replies (0)")
    serve.add_argument("--faults", type=float, default=0.0, metavar="SHARE", help="of each common kind of fault (0)")
    serve.add_argument("--fault", action="append", default=[], metavar="KIND=SHARE", help="of one kind; repeatable")
    serve.add_argument("--stall-s", type=float, default=600.0, metavar="S", help="length of a stall (600)")
    serve.add_argument("--retry-after-s", type=float, default=1.0, metavar="S", help="what a 429 asks for (1)")
    serve.add_argument("--seed", type=int, default=0, help="of errors and faults (0)")


def run(args: argparse.Namespace) -> int:
    if args.action == "serve":
        return _serve(args)
    if args.n < 1:
        raise ValueError(f"--n must be at least 1, not {args.n}")
    from tqdm import tqdm

    if args.action == "clips":
        from look_again.tabletop.clips.clip_samples import write_clips

        written: Iterator[Any] = write_clips(args.out, args.split, args.seed, args.n, f".{args.format}")
    else:
        from look_again.tabletop.samples import write_samples

        written = write_samples(args.out, args.split, args.seed, args.n)
    for _ in tqdm(written, total=args.n, unit="row"):
        pass
    print(f"{args.n} rows in {args.out / 'rows.jsonl'}")
    return 0


def _serve(args: argparse.Namespace) -> int:
    from look_again.commands.common import check_port
    from look_again.extras import require
    from look_again.tabletop.answering import COMMON_FAULTS, Conduct, models
    from look_again.tabletop.endpoint import serve

    for package in ("fastapi", "uvicorn"):
        require(package, extra="serve")
    check_port(args.port)
    faults = dict.fromkeys(COMMON_FAULTS, args.faults) if args.faults else {}
    for given in args.fault:
        kind, _, share = given.partition("=")
        faults[kind] = float(share or "nan")
    conduct = Conduct(
        error_rate=args.error_rate,
        faults=faults,
        stall_s=args.stall_s,
        retry_after_s=args.retry_after_s,
        seed=args.seed,
    )
    print(f"http://{args.host}:{args.port}/v1 answers as {', '.join(models())}", flush=True)
    serve(conduct, args.host, args.port)
    return 0
