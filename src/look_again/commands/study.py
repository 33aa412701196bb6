"""`look-again study distance|swap|unwritten|selection|window`: experiments on when looking again pays, end to end."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from look_again.commands.common import print_json, wrap_lines
from look_again.extras import require
from look_again.study.designs import DESIGNS, Design
from look_again.study.settings import StudySettings, build_settings

DEFAULT = StudySettings()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    designs = parser.add_subparsers(dest="design", required=True, metavar="DESIGN")
    for name, design in DESIGNS.items():
        _add_options(designs.add_parser(name, help=design.title), name, design)


def _add_options(parser: argparse.ArgumentParser, name: str, design: Design) -> None:
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="DIR", help="folder of the study; resumes it")
    add("--model", action="append", metavar="NAME", help="checkpoint; repeatable, one per training seed (shipped)")
    if design.row_scores is not None:
        add("--rows", metavar="DIR", help="a folder of rows of your own, with rows.jsonl (docs/study.md)")
    lengths = ",".join(map(str, design.lengths))
    add("--lengths", metavar="N,N", help=f"tokens of work ({lengths})")
    add("--arms", metavar="ARM,ARM", help="(all)")
    add("--n", type=int, help=f"rows of the main arms ({DEFAULT.n})")
    add("--n-other", type=int, help=f"of the others ({DEFAULT.n_other})")
    add("--size", default=DEFAULT.size, help="of the table, small or wide (small)")
    add("--split", default=DEFAULT.split, help="of the long world (test)")
    add("--seed", type=int, default=DEFAULT.seed, help="of the long world's stream (0)")
    add("--batch", type=int, default=DEFAULT.batch, help=f"rows decoded at once ({DEFAULT.batch})")
    add("--jobs", type=int, default=1, help="processes that work on cells (1)")
    if name == "window":
        add("--window", type=int, default=DEFAULT.window, help=f"slots that a local layer sees ({DEFAULT.window})")
    add("--quick", action="store_true", help="minutes instead of hours, with lengths, arms and rows of its own")
    add("--json", action="store_true", help="print result.json instead of the table")


def run(args: argparse.Namespace) -> int:
    require("matplotlib", extra="eval")  # of the figure, which comes after hours
    settings = _settings(args)
    from look_again.evaluation.result_tables import as_markdown, print_tables
    from look_again.study.experiment import run_study
    from look_again.study.figure import study_figure
    from look_again.study.table import study_tables, study_words

    result = run_study(settings, args.out)
    tables, words = study_tables(result), study_words(result)
    (args.out / "table.md").write_text(as_markdown(tables, words) + "\n", encoding="utf-8")
    if args.json:
        print_json(result)
    else:
        print_tables(tables)
        print(wrap_lines("\n".join(words)))
    (args.out / "figure.svg").write_text(study_figure(result), encoding="utf-8")
    return 0


def _settings(args: argparse.Namespace) -> StudySettings:
    given: dict[str, Any] = {
        "models": tuple(args.model or [None]),
        "rows": getattr(args, "rows", None),
        "window": getattr(args, "window", DEFAULT.window),
        **{name: getattr(args, name) for name in ("size", "split", "seed", "batch", "jobs")},
    }
    given |= {name: value for name in ("n", "n_other") if (value := getattr(args, name)) is not None}
    if args.lengths is not None:
        given["lengths"] = _lengths(args.lengths)
    if args.arms is not None:
        given["arms"] = tuple(args.arms.split(","))
    return build_settings(args.design, quick=args.quick, **given)


def _lengths(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(length) for length in text.split(","))
    except ValueError:
        raise ValueError(f"--lengths are numbers with commas between them, not {text!r}") from None
