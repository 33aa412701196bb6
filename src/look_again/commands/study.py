"""`look-again study distance`: an experiment on when looking again pays, end to end."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from look_again.commands.common import print_json
from look_again.study.settings import DistanceSettings, quick_settings

DEFAULT = DistanceSettings()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    designs = parser.add_subparsers(dest="design", required=True, metavar="DESIGN")
    distance = designs.add_parser("distance", help="what a reflection mends, by the tokens between the image and it")
    distance.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the study; resumes it")
    distance.add_argument(
        "--model", action="append", metavar="NAME", help="checkpoint; repeatable, one per training seed (shipped)"
    )
    distance.add_argument("--rows", metavar="DIR", help="a folder of rows of your own, with rows.jsonl (docs/study.md)")
    lengths = ",".join(map(str, DEFAULT.lengths))
    distance.add_argument("--lengths", default=lengths, metavar="N,N", help=f"tokens of work ({lengths})")
    distance.add_argument("--arms", default=",".join(DEFAULT.arms), metavar="ARM,ARM", help="(all)")
    distance.add_argument("--n", type=int, default=DEFAULT.n, help=f"rows of the main arms ({DEFAULT.n})")
    distance.add_argument("--n-other", type=int, default=DEFAULT.n_other, help=f"of the others ({DEFAULT.n_other})")
    distance.add_argument("--size", default=DEFAULT.size, help="of the table, small or wide (small)")
    distance.add_argument("--split", default=DEFAULT.split, help="of the long world (test)")
    distance.add_argument("--seed", type=int, default=DEFAULT.seed, help="of the long world's stream (0)")
    distance.add_argument("--batch", type=int, default=DEFAULT.batch, help=f"rows decoded at once ({DEFAULT.batch})")
    distance.add_argument("--jobs", type=int, default=1, help="processes that work on cells (1)")
    distance.add_argument("--quick", action="store_true", help="minutes instead of hours, and says what it cannot tell")
    distance.add_argument("--json", action="store_true", help="print result.json instead of the table")


def run(args: argparse.Namespace) -> int:
    settings = _settings(args)
    from look_again.study.distance import run_distance
    from look_again.study.table import distance_table

    result = run_distance(settings, args.out)
    table = distance_table(result)
    (args.out / "table.md").write_text(table + "\n", encoding="utf-8")
    _write_figure(args.out, result)
    if args.json:
        print_json(result)
    else:
        print(table)
    return 0


def _settings(args: argparse.Namespace) -> DistanceSettings:
    given: dict[str, Any] = {
        "models": tuple(args.model or [None]),
        "rows": args.rows,
        **{name: getattr(args, name) for name in ("size", "split", "seed", "batch", "jobs")},
    }
    if args.quick:
        return quick_settings(**given)
    try:
        lengths = tuple(int(length) for length in args.lengths.split(","))
    except ValueError:
        raise ValueError(f"--lengths are numbers with commas between them, not {args.lengths!r}") from None
    return DistanceSettings(lengths=lengths, arms=tuple(args.arms.split(",")), n=args.n, n_other=args.n_other, **given)


def _write_figure(out: Path, result: dict[str, Any]) -> None:
    from look_again.study.figure import distance_figure

    score = "mended" if "mended" in result["cells"][0] else "answers"
    (out / "figure.svg").write_text(distance_figure(result, score), encoding="utf-8")
