"""`look-again reproduce --plan FILE --out RUN`: the paper's pipeline, from a base to tables, and its report."""

from __future__ import annotations

import argparse
import io
import json
import shutil
import sys
import textwrap
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--plan", type=Path, required=True, metavar="FILE", help="the plan (YAML)")
    parser.add_argument("--out", type=Path, metavar="RUN", help="folder of the run; what is there is not made again")
    parser.add_argument("--quick", action="store_true", help="the plan's small run, of minutes")
    parser.add_argument("--from", dest="start", metavar="STAGE", help="leave out the stages before this one")
    parser.add_argument("--only", action="append", default=[], metavar="STAGE", help="run this stage alone; repeatable")
    parser.add_argument("--jobs", type=int, metavar="N", help="stages at once (default: the plan's)")
    parser.add_argument("--dry-run", action="store_true", help="print stages, time, disk and price, and stop")
    parser.add_argument("--json", action="store_true", help="print the dry run or the report as JSON")


def run(args: argparse.Namespace) -> int:
    from look_again.reproduce.made import prepare
    from look_again.reproduce.plan_checks import check_commands, check_disk, check_endpoints, check_recipes, estimate
    from look_again.reproduce.plan_file import load_plan, read_lines
    from look_again.reproduce.stage_runs import selected

    plan = load_plan(args.plan, quick=args.quick)
    if args.out is None and not args.dry_run:
        raise ValueError("--out RUN is needed: the folder that the run is kept in")
    out = args.out or Path("runs") / args.plan.stem
    jobs = plan.jobs if args.jobs is None else args.jobs
    if jobs < 1:
        raise ValueError(f"--jobs is {jobs}: at least one stage runs at a time")
    stages, lines = prepare(plan, args.plan.parent, out), read_lines(args.plan)
    check_commands(stages, args.plan, lines, complain)
    check_recipes(stages, args.plan, lines)
    todo = selected(stages, args.start, args.only, check_inputs=not args.dry_run)
    if args.dry_run:
        return _print_dry_run(plan, todo, estimate(todo, jobs), args.json)
    check_disk(todo, out, args.plan, lines)
    check_endpoints(todo, args.plan, lines)
    return _make(args, plan, stages, todo, jobs)


def complain(arguments: Sequence[str]) -> str | None:
    """What the parser says of a command's arguments; None where it takes them."""
    from look_again.commands.main import COMMANDS, build_parser

    if not arguments or arguments[0] not in COMMANDS:
        return f"there is no such command; there are {', '.join(COMMANDS)}"
    said = io.StringIO()
    try:
        with redirect_stderr(said), redirect_stdout(io.StringIO()):
            build_parser(arguments[0]).parse_args(list(arguments))
    except SystemExit:
        return said.getvalue().strip().rpartition("error: ")[2] or "it only prints help"
    return None


def _make(args: argparse.Namespace, plan: Any, stages: Any, todo: Any, jobs: int) -> int:
    from look_again.reproduce.progress import StageProgress
    from look_again.reproduce.stage_runs import run_stages, write_state

    write_state(args.out, args.plan, args.quick, stages)
    progress = StageProgress(todo, jobs=jobs, shown=not args.json)
    try:
        ran = run_stages(todo, stages, progress, jobs)
    except BaseException:
        progress.close()
        _report_so_far(args, plan, stages)
        raise
    progress.close()
    report, page = _write_report(args, plan, stages)
    if args.json:
        print(json.dumps(report, allow_nan=False))
    else:
        print(f"{len(ran)} stages made, {len(todo) - len(ran)} were there: {page}")
    return 0


def _report_so_far(args: argparse.Namespace, plan: Any, stages: Any) -> None:
    """Where a stage failed, that is what has to be said, whatever the report comes to."""
    try:
        _write_report(args, plan, stages)
    except (OSError, ValueError) as error:
        print(f"look-again: the report could not be written: {error}", file=sys.stderr)


def _write_report(args: argparse.Namespace, plan: Any, stages: Any) -> tuple[dict[str, Any], Path]:
    from look_again.files import write_whole
    from look_again.reproduce.answer_pictures import load_pictures
    from look_again.reproduce.run_page import build_page
    from look_again.reproduce.run_report import build_report
    from look_again.reproduce.run_tables import tables_as_markdown

    report = build_report(plan, stages, quick=args.quick)
    folder = args.out / "report"
    folder.mkdir(parents=True, exist_ok=True)
    pictures = load_pictures(plan.answers, stages, {answer["id"] for answer in report["answers"]})
    write_whole(folder / "report.json", json.dumps(report, indent=1, allow_nan=False) + "\n")
    write_whole(folder / "tables.md", tables_as_markdown(report))
    return report, write_whole(folder / "index.html", build_page(report, pictures))


def _print_dry_run(plan: Any, todo: Any, needed: Any, as_json: bool) -> int:
    from look_again.reproduce.run_report import only_finite

    rows = [
        {"stage": one.stage.name, "step": one.stage.step, "about": one.stage.about, "made": one.record() is not None}
        | {"inputs": list(one.inputs), "commands": list(one.stage.run), "recipe": one.recipe}
        | asdict(one.stage.cost)
        for one in todo
    ]
    if as_json:
        shown = {"plan": plan.name, "hardware": plan.hardware, "stages": rows, "left": asdict(needed)}
        print(json.dumps(only_finite(shown), allow_nan=False))
        return 0
    width = shutil.get_terminal_size().columns
    print(textwrap.fill(f"{plan.name}, on {plan.hardware}", width))
    for row in rows:
        state = "made" if row["made"] else f"{row['minutes']:g} min"
        line = f"  {row['step']} {row['stage']:<20} {state:>9}  {row['about']}"
        print(textwrap.fill(line, width, subsequent_indent=" " * 36, drop_whitespace=True))
    at_once = "" if needed.jobs == 1 else f" with {needed.jobs} stages at once"
    left = (
        f"left: {needed.stages - needed.made} stages of {needed.stages}, {needed.minutes / 60:.1f} hours{at_once}, "
        f"{needed.disk_mb / 1e3:.1f} GB, {needed.gpu_hours:g} GPU hours, "
        f"{needed.api_calls} paid requests for about {needed.money:g}"
    )
    print(textwrap.fill(left, width))
    return 0
