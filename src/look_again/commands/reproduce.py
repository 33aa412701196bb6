"""`look-again reproduce --plan FILE --out RUN`: the paper's pipeline, from a base to tables, and its report."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--plan", type=Path, required=True, metavar="FILE", help="the plan (YAML)")
    parser.add_argument("--out", type=Path, metavar="RUN", help="folder of the run; what is there is not made again")
    parser.add_argument("--quick", action="store_true", help="the plan's small run, of minutes")
    parser.add_argument("--from", dest="start", metavar="STAGE", help="leave out the stages before this one")
    parser.add_argument("--only", action="append", default=[], metavar="STAGE", help="run this stage alone; repeatable")
    parser.add_argument("--dry-run", action="store_true", help="print stages, time, disk and price, and stop")
    parser.add_argument("--json", action="store_true", help="print the dry run or the report as JSON")


def run(args: argparse.Namespace) -> int:
    from look_again.reproduce.made import prepare
    from look_again.reproduce.plan import load_plan, read_lines
    from look_again.reproduce.plan_checks import check_disk, check_endpoints, check_recipes, estimate

    plan = load_plan(args.plan, quick=args.quick)
    if args.out is None and not args.dry_run:
        raise ValueError("--out RUN is needed: the folder that the run is kept in")
    out = args.out or Path("runs") / args.plan.stem
    stages = prepare(plan, args.plan.parent, out)
    check_recipes(stages, args.plan, read_lines(args.plan))
    needed = estimate(stages)
    if args.dry_run:
        return _print_dry_run(plan, stages, needed, args.json)
    check_disk(needed.disk_mb, out)
    check_endpoints(stages)
    return _make(args, plan, stages)


def _make(args: argparse.Namespace, plan: Any, stages: Any) -> int:
    from look_again.reproduce.progress import StageProgress
    from look_again.reproduce.run_page import build_page
    from look_again.reproduce.run_report import build_report
    from look_again.reproduce.stage_runs import run_stages, selected, write_state

    todo = selected(stages, args.start, args.only)
    write_state(args.out, args.plan, args.quick, stages)
    progress = StageProgress([one.stage for one in todo], shown=not args.json)
    try:
        ran = run_stages(todo, stages, progress)
    finally:
        progress.close()
        report = build_report(plan, stages, quick=args.quick)
        folder = args.out / "report"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "index.html").write_text(build_page(report), encoding="utf-8")
        (folder / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if args.json:
        print(json.dumps(report))
    else:
        print(f"{len(ran)} stages made, {len(todo) - len(ran)} were there: {folder / 'index.html'}", file=sys.stdout)
    return 0


def _print_dry_run(plan: Any, stages: Any, needed: Any, as_json: bool) -> int:
    rows = [
        {"stage": name, "step": one.stage.step, "about": one.stage.about, "made": one.record() is not None}
        | {"inputs": list(one.inputs), "commands": list(one.stage.run), "recipe": one.recipe}
        | asdict(one.stage.cost)
        for name, one in stages.items()
    ]
    if as_json:
        print(json.dumps({"plan": plan.name, "hardware": plan.hardware, "stages": rows, "left": asdict(needed)}))
        return 0
    print(f"{plan.name}, on {plan.hardware}")
    for row in rows:
        state = "made" if row["made"] else f"{row['minutes']:g} min"
        print(f"  {row['step']} {row['stage']:<20} {state:>9}  {row['about']}")
    print(
        f"left: {needed.stages - needed.made} stages of {needed.stages}, {needed.minutes / 60:.1f} hours, "
        f"{needed.disk_mb / 1e3:.1f} GB, {needed.gpu_hours:g} GPU hours, "
        f"{needed.api_calls} paid requests for about {needed.money:g}"
    )
    return 0
