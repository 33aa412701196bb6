"""`look-again data review|export|import`: people's decisions, on a page here or in Label Studio."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

ACTIONS = ("review", "export", "import")


def add_arguments(actions: Any) -> None:
    """The three actions, added to those of `look-again data`."""
    page = actions.add_parser("review", help="a page for people: accept, reject or edit, keyboard first")
    page.add_argument("run_folder", type=Path, metavar="RUN", help="the run's folder")
    page.add_argument("--config", type=Path, metavar="FILE", help="the run's configuration: takes its rows over first")
    page.add_argument("--reviewer", metavar="NAME", help="the page is for this reviewer alone")
    page.add_argument(
        "--share-of", nargs="+", metavar="NAME", help="all who share the rows equally (the configuration's reviewers)"
    )
    page.add_argument("--host", default="127.0.0.1", help="address to bind; others than this machine's need a password")
    page.add_argument("--port", type=int, default=7860, help="(7860)")
    page.add_argument("--password-env", metavar="VAR", help="environment variable that holds the password")
    page.add_argument("--no-page", action="store_true", help="take rows and decisions over, and show no page")
    out = actions.add_parser("export", help="rows under review, for another tool")
    out.add_argument("run_folder", type=Path, metavar="RUN", help="the run's folder")
    out.add_argument("--label-studio", type=Path, required=True, metavar="FILE", help="Label Studio's JSON to write")
    out.add_argument("--open", action="store_true", help="only rows that nobody has decided")
    back = actions.add_parser("import", help="decisions that were taken in Label Studio")
    back.add_argument("run_folder", type=Path, metavar="RUN", help="the run's folder")
    back.add_argument("file", type=Path, metavar="FILE", help="Label Studio's JSON export")
    back.add_argument("--reviewer", metavar="NAME", help="whose decisions these are (as Label Studio says)")
    for parser in (out, back):
        parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    return {"review": _review, "export": _export, "import": _import}[args.action](args)


def _review(args: argparse.Namespace) -> int:
    from look_again.commands.common import check_port
    from look_again.extras import require
    from look_again.pipeline.ledger.ledger import Ledger
    from look_again.pipeline.review.decisions import NAME
    from look_again.pipeline.review.reviewers import build_review_access
    from look_again.pipeline.review.session import ReviewSession, take_over
    from look_again.pipeline.run_config import load_run_config

    if not args.no_page:
        require("gradio", extra="ui")
        check_port(args.port)
    config = load_run_config(args.config) if args.config else None
    sharing = args.share_of or (config and config.reviewers) or ([args.reviewer] if args.reviewer else ["reviewer"])
    if args.reviewer and args.reviewer not in sharing:
        raise ValueError(f"{args.reviewer!r} is not one of those who share the rows: {', '.join(sharing)}")
    who = [args.reviewer] if args.reviewer else list(sharing)
    access = build_review_access(who, args.host, args.password_env, os.environ)
    with Ledger(args.run_folder, create=False) as ledger:
        if config is not None:
            (stage,) = (stage for stage in config.stages(ledger) if stage.name == NAME)
            report = take_over(ledger, stage)
            print(f"{report.items} rows, {report.ok} go on, {report.bad} rejected, {report.waiting} wait for people")
        if args.no_page:
            return 0
        from look_again.pipeline.review.gradio_app import make_app, serve

        app = make_app(ReviewSession(ledger, tuple(sharing)), access, args.port)
        password = " with the password of $" + args.password_env if args.password_env else ""
        print(f"http://{args.host}:{args.port} is for {', '.join(who)}{password}; Ctrl-C ends it", flush=True)
        serve(app, args.host, args.port)
    return 0


def _export(args: argparse.Namespace) -> int:
    from look_again.pipeline.ledger.ledger import Ledger
    from look_again.pipeline.review.label_studio import export

    with Ledger(args.run_folder, create=False) as ledger:
        made = export(ledger, args.label_studio, only_open=args.open)
    if args.json:
        print(json.dumps(made, indent=2))
    else:
        print(f"{made['tasks']} tasks in {args.label_studio}, {made['decided']} of them decided")
        print(f"the labelling interface for Label Studio's project settings is in {made['interface']}")
    return 0


def _import(args: argparse.Namespace) -> int:
    from look_again.pipeline.ledger.ledger import Ledger
    from look_again.pipeline.review.label_studio import read_back

    with Ledger(args.run_folder, create=False) as ledger:
        made = read_back(ledger, args.file, args.reviewer)
    if args.json:
        print(json.dumps(made, ensure_ascii=False, indent=2))
        return 0
    print(f"{made['taken']} decisions taken over, {made['known']} were there, {made['open']} tasks without one")
    for refused in made["refused"]:
        print(f"  {refused['row']}: {refused['reason']}")
    return 0
