"""`look-again eval NAME… --out RUN`: benchmarks through a checkpoint or an endpoint, scored, resumable, with controls.

Without --out, `look-again eval tabletop` prints the figures of Tabletop alone and keeps nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from look_again.commands.common import (
    add_compile_argument,
    add_control_argument,
    add_model_arguments,
    add_reasoning_argument,
    add_reattention_arguments,
    build_reattention,
    load_model,
    print_json,
)
from look_again.commands.evaluate_checks import check
from look_again.commands.evaluate_judge import add_judge_arguments, build_judge

TABLETOP_TOKENS, TABLETOP_BATCH, BATCH = 512, 50, 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "benchmarks", nargs="+", metavar="NAME", help="benchmarks; an unknown name lists the known ones"
    )
    parser.add_argument(
        "--out", type=Path, metavar="RUN", help="folder of the run, RUN/NAME/result.json; resumed if there"
    )
    parser.add_argument("--path", metavar="DIR_OR_HUB_NAME", help="where the benchmark is (default: its hub name)")
    parser.add_argument("--images", type=Path, metavar="DIR", help="where images are that are not beside the table")
    parser.add_argument("--split", help="(default: the benchmark's first)")
    parser.add_argument("--limit", "--n", type=int, metavar="N", help="the first N items (all; 200 of Tabletop)")
    parser.add_argument("--seed", type=int, default=0, help="of Tabletop's stream (0)")
    parser.add_argument(
        "--batch", type=int, metavar="N", help="asked together, or requests at a time; changes no answer (8)"
    )
    parser.add_argument("--max-new-tokens", type=int, metavar="N", help="per answer (default: the benchmark's)")
    add_reasoning_argument(parser)
    parser.add_argument("--no-planted", action="store_true", help="leave out Tabletop's run on planted mistakes")
    add_model_arguments(parser)
    add_compile_argument(parser)
    add_reattention_arguments(parser)
    add_control_argument(parser)
    parser.add_argument("--controls", action="store_true", help="every arm and control, compared: RUN/ARM/NAME")
    parser.add_argument("--arms", metavar="ARM,ARM,…", help="of the controls, only these")
    _add_endpoint_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _add_endpoint_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--base-url", metavar="URL", help="ask --model at this OpenAI-compatible endpoint; key from LOOK_AGAIN_API_KEY"
    )
    parser.add_argument("--request", type=json.loads, default={}, metavar="JSON", help="further fields of each request")
    parser.add_argument("--retries", type=int, default=5, metavar="N", help="of a failing request (5)")
    add_judge_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from look_again.evaluation.known_benchmarks import benchmark

    policy = build_reattention(args)
    names = _names(args)
    check(args, names, policy)
    if args.out is None:
        return _tabletop(args, policy)
    found = [benchmark(name) for name in names]
    places = [_place(args, one) for one in found]
    judge = build_judge(args) if any(one.needs_judge for one in found) else None
    if args.controls:
        return _controls(args, found, places, policy, judge)
    return _plain(args, found, places, policy, judge)


def _names(args: argparse.Namespace) -> list[str]:
    """The benchmarks asked for; a checkpoint's Tabletop includes the run on planted mistakes."""
    names = list(dict.fromkeys(args.benchmarks))
    if "tabletop" in names and "tabletop-planted" not in names and not args.no_planted and not args.base_url:
        names.insert(names.index("tabletop") + 1, "tabletop-planted")
    return names


def _place(args: argparse.Namespace, benchmark: Any) -> Any:
    from look_again.evaluation.benchmark import DataLocation

    default = benchmark.hub.replace("seed=0", f"seed={args.seed}", 1)  # of what is drawn
    split = args.split or benchmark.splits[0]
    return DataLocation(path=args.path or default, split=split, images=args.images, limit=args.limit)


def _subject(args: argparse.Namespace, model: Any, policy: Any, benchmark: Any) -> Any:
    """The model under test, with the benchmark's budget; `model` is None for an endpoint."""
    budget = args.max_new_tokens or benchmark.max_new_tokens
    if model is None:
        from look_again.evaluation.endpoint_subject import EndpointSubject, greedy_endpoint

        endpoint = greedy_endpoint(
            args.base_url,
            args.model,
            max_new_tokens=budget,
            max_reasoning_tokens=args.max_reasoning_tokens,
            retries=args.retries,
            request=args.request,
        )
        return EndpointSubject(endpoint, concurrency=args.batch or BATCH)
    from look_again.evaluation.subjects import LocalSubject

    batch = args.batch or (TABLETOP_BATCH if benchmark.name.startswith("tabletop") else BATCH)
    return LocalSubject(
        model, policy, max_new_tokens=budget, max_reasoning_tokens=args.max_reasoning_tokens, batch=batch
    )


def _plain(args: argparse.Namespace, found: list[Any], places: list[Any], policy: Any, judge: Any) -> int:
    from look_again.evaluation.result_tables import print_tables, run_tables
    from look_again.evaluation.run import run_benchmark

    model = None if args.base_url else load_model(args)
    results = {}
    for benchmark, place in zip(found, places, strict=True):
        folder = args.out / benchmark.name
        result = run_benchmark(benchmark, place, _subject(args, model, policy, benchmark), folder, judge=judge)
        _write_page(folder / "report.html", partial(_run_page, result, benchmark, place))
        if not args.json:
            print_tables(run_tables(result))
        _warn_of_unread(result)
        brief = {name: value for name, value in result.items() if name != "items"}
        results[benchmark.name] = brief | {"result": str(folder / "result.json")}
    if args.json:
        print_json(results)
    return _status(results.values())


def _controls(args: argparse.Namespace, found: list[Any], places: list[Any], policy: Any, judge: Any) -> int:
    from look_again.evaluation.controls import policies, summary
    from look_again.evaluation.result_tables import control_tables, print_tables
    from look_again.evaluation.run import run_benchmark
    from look_again.evaluation.run_folder import write_json
    from look_again.evaluation.subjects import NotPossibleError

    arms = policies(policy, args.arms.split(",") if args.arms else None)
    model = load_model(args)
    results: dict[str, dict[str, Any]] = {benchmark.name: {} for benchmark in found}
    reasons: dict[str, dict[str, str]] = {benchmark.name: {} for benchmark in found}
    for arm, changed in arms.items():
        for benchmark, place in zip(found, places, strict=True):
            subject = _subject(args, model, changed, benchmark)
            folder = args.out / arm / benchmark.name
            try:
                results[benchmark.name][arm] = run_benchmark(benchmark, place, subject, folder, judge=judge)
            except NotPossibleError as error:
                reasons[benchmark.name][arm] = str(error)
    made = summary(results, not_possible=reasons)
    write_json(args.out / "controls.json", made)
    _write_page(args.out / "controls.html", partial(_controls_page, made))
    if args.json:
        print_json(made)
    else:
        print_tables(control_tables(made))
    return _status(result for arms in results.values() for result in arms.values())


def _status(results: Iterable[dict[str, Any]]) -> int:
    """1 where a run has scored nothing, else 0; prints what could not be asked or judged."""
    from look_again.evaluation.scored import list_warnings, nothing_scored

    found = list(results)
    for line in (line for result in found for line in list_warnings(result)):
        print(f"warning: {line}", file=sys.stderr)
    return int(any(map(nothing_scored, found)))


def _warn_of_unread(result: dict[str, Any]) -> None:
    """A red line on standard error where more than a tenth of the answers could not be read."""
    from rich.console import Console
    from rich.text import Text

    from look_again.evaluation.result_tables import unread_warning

    if warning := unread_warning(result):
        console = Console(stderr=True, highlight=False, soft_wrap=True)
        console.print(Text(f"warning: {warning}", style="bold red"))


def _run_page(result: dict[str, Any], benchmark: Any, location: Any) -> str:
    from look_again.evaluation.report import poor_items, run_page
    from look_again.evaluation.thumbnails import load_thumbnails

    return run_page(result, load_thumbnails(benchmark, location, {item["id"] for item in poor_items(result)}))


def _controls_page(made: dict[str, Any]) -> str:
    from look_again.evaluation.report import controls_page

    return controls_page(made)


def _write_page(path: Path, draw: Callable[[], str]) -> None:
    """An HTML report, or a note that says what it needs."""
    from look_again.extras import MissingExtraError

    try:
        path.write_text(draw(), encoding="utf-8")
    except MissingExtraError as error:
        print(f"note: no {path.name}: {error}", file=sys.stderr)


def _tabletop(args: argparse.Namespace, policy: Any) -> int:
    from look_again.tabletop.figures import EvalConfig, evaluate

    config = EvalConfig(
        n=args.limit or 200,
        seed=args.seed,
        split=args.split or "test",
        batch=args.batch or TABLETOP_BATCH,
        max_new_tokens=args.max_new_tokens or TABLETOP_TOKENS,
        max_reasoning_tokens=args.max_reasoning_tokens,
        planted=not args.no_planted,
    )
    result = evaluate(load_model(args), config, policy)
    if args.json:
        print_json(result)
    else:
        show(result)
    return 0


def show(result: dict[str, Any]) -> None:
    """Print Tabletop's figures as tables."""
    from rich.console import Console
    from rich.table import Table

    low, high = result["interval"]
    console = Console(highlight=False)
    console.print(f"accuracy {result['accuracy']:.3f}  (95%: {low:.3f} to {high:.3f}, n = {result['n']})")
    table = Table("kind", "n", "accuracy")
    for kind, part in result["per_kind"].items():
        table.add_row(kind, str(part["n"]), f"{part['accuracy']:.3f}")
    console.print(table)
    for section in ("caption", "reflection"):
        part = result[section]
        console.print(f"{section}: hallucinated {_share(part['hallucinated'])}, recall {_share(part['recall'])}")
    if planted := result.get("planted"):
        console.print(
            f"planted mistakes: {planted['mended']} of {planted['mistakes']} mended ({_share(planted['share'])})"
        )
    console.print("tokens per answer: " + ", ".join(f"{k} {v:.1f}" for k, v in result["tokens_per_answer"].items()))


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
