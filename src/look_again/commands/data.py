"""`look-again data …`: training data from questions: cold start, distillation, panel, rewriting, people, build."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from look_again.commands import data_review
from look_again.data.source import LOADERS

STAGES = ("cold-start", "distil", "verify", "rewrite")
ABOUT = {
    "cold-start": "a teacher puts one reflection into answers that have none",
    "distil": "a model answers the questions",
    "verify": "judges examine the answers and flag",
    "rewrite": "a writer corrects what was flagged",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    _engine_arguments(actions.add_parser("run", help="all stages of the configured flow, one after the other"))
    for stage in STAGES:
        _engine_arguments(actions.add_parser(stage, help=ABOUT[stage]))
    merged = actions.add_parser("merge", help="bring shards of the Ray engine into the ledger, each once")
    merged.add_argument("--run", type=Path, required=True, metavar="DIR", help="the run's folder")
    merged.add_argument(
        "--shards", type=Path, action="append", metavar="DIR", help="folder of shards (RUN/shards); repeatable"
    )
    merged.add_argument("--json", action="store_true", help="print one JSON object")
    made = actions.add_parser("build", help="training rows, table, statistics and card")
    _run_arguments(made)
    made.add_argument("--out", type=Path, metavar="DIR", help="folder to write (RUN/build)")
    made.add_argument("--push", metavar="NAME", help="then upload it as this data set of the hub")
    made.add_argument("--public", action="store_true", help="of what is uploaded; it is private otherwise")
    progress = actions.add_parser("status", help="progress, spend, rates, agreement, flags")
    _run_arguments(progress, config_needed=False)
    shared = actions.add_parser("overlap", help="rows shared with evaluation sets")
    for name in ("rows", "evaluation"):
        shared.add_argument(
            f"--{name}", action="append", required=True, metavar="LOADER:PATH[@SPLIT]", help="repeatable"
        )
    shared.add_argument("--json", action="store_true", help="print one JSON object")
    data_review.add_arguments(actions)
    _demo_arguments(actions.add_parser("demo", help="the whole engine on Tabletop, offline"))


def _run_arguments(parser: argparse.ArgumentParser, config_needed: bool = True) -> None:
    where = "" if config_needed else "; without it RUN/run.yaml, as data demo writes"
    parser.add_argument(
        "--config", type=Path, required=config_needed, metavar="FILE", help=f"the run's configuration (YAML){where}"
    )
    parser.add_argument("--run", type=Path, required=True, metavar="DIR", help="the run's folder")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _engine_arguments(parser: argparse.ArgumentParser) -> None:
    _run_arguments(parser)
    parser.add_argument("--engine", default="local", choices=["local", "ray"], help="(local)")
    parser.add_argument("--ray-address", metavar="ADDRESS", help="of a cluster (RAY_ADDRESS, else a Ray started here)")
    parser.add_argument("--ray-workers", type=int, metavar="N", help="that share the endpoints (one per CPU or GPU)")
    parser.add_argument("--shards", type=Path, metavar="DIR", help="folder that all nodes see (RUN/shards)")
    parser.add_argument("--shard-rows", type=int, default=50, metavar="N", help="of a shard (50)")
    parser.add_argument("--no-merge", action="store_true", help="leave this run's shards for `look-again data merge`")


def _demo_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, default=200, metavar="N", help="of each flow (200)")
    parser.add_argument("--out", type=Path, required=True, metavar="RUN", help="folder of the runs")
    parser.add_argument("--seed", type=int, default=0, help="of rows, errors and faults (0)")
    parser.add_argument("--split", default="heldout", choices=["test", "heldout", "validation"], help="(heldout)")
    parser.add_argument("--error-rate", type=float, default=0.1, metavar="SHARE", help="of judges and others (0.1)")
    parser.add_argument("--faults", type=float, default=0.0, metavar="SHARE", help="of each kind of fault (0)")
    parser.add_argument("--threshold", type=int, default=2, help="objections that flag (2)")
    parser.add_argument("--batch", type=int, default=50, help="questions decoded together (50)")
    parser.add_argument("--oracle", action="store_true", help="an oracle answers instead of the shipped model")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    if args.action in data_review.ACTIONS:
        return data_review.run(args)
    if args.action == "demo":
        return _demo(args)
    if args.action == "overlap":
        return _overlap(args)
    return {"build": _build, "status": _status, "merge": _merge}.get(args.action, _stages)(args)


def _stages(args: argparse.Namespace) -> int:
    from look_again.pipeline.ledger.ledger import Ledger
    from look_again.pipeline.pipeline_run import run as run_flow
    from look_again.pipeline.run_config import load_run_config

    config, ray = load_run_config(args.config), _ray_options(args)
    with Ledger(args.run) as ledger:
        names = None if args.action == "run" else [args.action]
        reports = run_flow(ledger, config, names, progress=not args.json, ray=ray)
    made = [vars(report) for report in reports]
    if args.json:
        _print_json(made)
    for report in () if args.json else made:
        print("{stage}: {items} rows, {ok} ok, {bad} bad, {waiting} waiting, {pending} pending".format(**report))
    stopped = made[-1]["stopped"] if made else None
    if stopped and not args.json:
        print(f"stopped: {stopped}; start the same command again to go on")
    if stopped:
        return 3
    lost = next((report for report in made if report["items"] and report["bad"] == report["items"]), None)
    if lost is not None:
        print(f"no row has come through {lost['stage']}: see look-again data status", file=sys.stderr)
    return 1 if lost is not None else 0


def _ray_options(args: argparse.Namespace) -> Any:
    """None for the local engine. ValueError for options that go without it or not together."""
    if args.engine == "local":
        if args.ray_address or args.ray_workers or args.shards or args.no_merge:
            raise ValueError("--ray-address, --ray-workers, --shards and --no-merge are for --engine ray")
        return None
    if args.no_merge and args.action == "run":
        raise ValueError("with --no-merge run one stage at a time: the next one starts from what was merged")
    from look_again.pipeline.ray.ray_engine import RayOptions

    return RayOptions(
        address=args.ray_address,
        workers=args.ray_workers,
        shard_rows=args.shard_rows,
        folder=args.shards,
        merge=not args.no_merge,
    )


def _merge(args: argparse.Namespace) -> int:
    from look_again.pipeline.ledger.ledger import Ledger
    from look_again.pipeline.ledger.merge import merge

    folders = args.shards or [args.run / "shards"]
    if missing := [str(folder) for folder in folders if not folder.is_dir()]:
        raise ValueError(f"there is no folder {', '.join(missing)}: name the one that --engine ray wrote to")
    with Ledger(args.run, create=False) as ledger:
        merged = merge(ledger, folders)
    if args.json:
        _print_json(vars(merged))
    else:
        print(
            f"{merged.shards} shards brought in, {merged.known} were there: {merged.results} results, "
            f"{merged.requests} requests, {merged.attempts} attempts; {merged.outdated} results no longer wanted"
        )
        for reason in merged.refused:
            print(f"refused: {reason}")
    return 1 if merged.refused else 0


def _build(args: argparse.Namespace) -> int:
    from look_again.pipeline.build import push
    from look_again.pipeline.ledger.ledger import Ledger
    from look_again.pipeline.pipeline_run import build_run
    from look_again.pipeline.run_config import load_run_config

    config, out = load_run_config(args.config), args.out or args.run / "build"
    with Ledger(args.run, create=False) as ledger:
        made: dict[str, Any] = build_run(ledger, config, out)
    if args.push:
        made["pushed"] = push(out, args.push, private=not args.public)
    if args.json:
        _print_json(made)
    else:
        print(f"{made['rows']} rows in {out / 'train.jsonl'}" + (f", {made['pushed']}" if args.push else ""))
    return 0


def _status(args: argparse.Namespace) -> int:
    from look_again.pipeline.ledger.ledger import Ledger
    from look_again.pipeline.run_config import CONFIG_FILE, load_run_config
    from look_again.pipeline.status import status

    config = args.config or args.run / CONFIG_FILE
    if args.config is None and args.run.is_dir() and not config.is_file():
        raise ValueError(f"{args.run} holds no {CONFIG_FILE}: name the run's configuration with --config")
    with Ledger(args.run, create=False) as ledger:
        found = status(ledger, load_run_config(config).stages(ledger))
    if args.json:
        _print_json(found)
    else:
        from look_again.pipeline.show import show_status

        show_status(found)
    return 0


def _overlap(args: argparse.Namespace) -> int:
    from look_again.pipeline.overlap import overlap

    found = overlap([_source(text) for text in args.rows], [_source(text) for text in args.evaluation])
    if args.json:
        _print_json(found)
        return 0
    print(f"{found['shared']} of {found['rows']} rows are shared with {found['evaluation_rows']} evaluation rows")
    for kind, count in found["by_kind"].items():
        print(f"  {kind}: {count}")
    for match in found["rows_shared"]:
        print(f"  {match['row_id']}: {match['kind']} of {match['other_source']} {match['other_id']!r}")
    return 0


def _source(text: str) -> Any:
    from look_again.data.source import Source

    loader, found, place = text.partition(":")
    if not found or loader not in LOADERS:
        raise ValueError(f"{text!r}: use LOADER:PATH or LOADER:PATH@SPLIT; loaders are {', '.join(LOADERS)}")
    path, _, split = place.partition("@")
    return Source(loader=loader, path=path, split=split or "train")


def _demo(args: argparse.Namespace) -> int:
    from look_again.tabletop.demo import DemoConfig, demo

    config = DemoConfig(
        rows=args.rows,
        seed=args.seed,
        split=args.split,
        error_rate=args.error_rate,
        faults=args.faults,
        threshold=args.threshold,
        batch=args.batch,
        oracle=args.oracle,
    )
    made = demo(config, args.out, progress=not args.json)
    if args.json:
        _print_json(made)
    else:
        from look_again.pipeline.show import show_demo

        show_demo(made)
        print(f"Rows to train on (docs/training.md): {args.out}/cold-start/build and {args.out}/distilled/build")
        print(f"How a flow went, in tables: look-again data status --run {args.out}/distilled")
        print(f"Look at rows yourself: look-again data review {args.out}/distilled")
        print("With models and rows of your own: docs/data.md")
    return 0


def _print_json(value: Any) -> None:
    """As the other commands do, without what they load."""
    print(json.dumps(value, ensure_ascii=False, indent=2))
