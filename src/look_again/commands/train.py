"""`look-again train sft|brpo --config FILE`: plan, run or resume a recipe."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "method",
        choices=["sft", "brpo"],
        help="supervised fine-tuning with re-attention in place, or learning when to reflect",
    )
    parser.add_argument("--config", required=True, type=Path, metavar="FILE", help="the recipe (YAML)")
    parser.add_argument("--output", metavar="DIR", help="instead of the recipe's own folder")
    parser.add_argument("--base", metavar="DIR_OR_HUB_NAME", help="instead of the recipe's own base checkpoint")
    parser.add_argument("--dry-run", action="store_true", help="print parameters, memory and steps, and stop")
    parser.add_argument("--on-bad-row", choices=["refuse", "skip"], help="instead of what the recipe's stages say")
    parser.add_argument("--on-long-row", choices=["refuse", "drop"], help="instead of what the recipe's stages say")
    parser.add_argument("--json", action="store_true", help="print the plan or the result as JSON")


def run(args: argparse.Namespace) -> int:
    return _run_brpo(args) if args.method == "brpo" else _run_sft(args)


def _run_brpo(args: argparse.Namespace) -> int:
    from look_again.extras import require
    from look_again.rl.brpo_config import load_brpo_config

    config = load_brpo_config(args.config)
    changes = {name: v for name in ("output", "base", "on_bad_row") if (v := getattr(args, name)) is not None}
    config = dataclasses.replace(config, **changes)
    if args.dry_run:
        with explained_base(config.base, args.config):
            return _print_brpo_plan(config, args.json)
    check_base(config.base, args.config)
    require("accelerate", extra="train")
    from look_again.rl.brpo import train_brpo

    _print_result(train_brpo(config), args.json)
    return 0


def _run_sft(args: argparse.Namespace) -> int:
    from look_again.training.sft_config import load_config
    from look_again.yaml_config import with_keys

    config = load_config(args.config)
    stage_changes = {name: v for name in ("on_bad_row", "on_long_row") if (v := getattr(args, name)) is not None}
    changes = {name: v for name in ("output", "base") if (v := getattr(args, name)) is not None}
    stages = tuple(with_keys(stage, **stage_changes) for stage in config.stages)
    config = dataclasses.replace(config, stages=stages, **changes)
    if args.dry_run:
        with explained_base(config.base, args.config):
            return _print_plan(config, args.json)
    check_base(config.base, args.config)
    from look_again.extras import require

    require("accelerate", extra="train")
    from look_again.training.sft import train

    _print_result(train(config), args.json)
    return 0


@contextmanager
def explained_base(base: str | None, recipe: Path) -> Iterator[None]:
    """A plan from known shapes needs no base; where one fails for want of it, the recipe that makes it is named."""
    try:
        yield
    except ValueError:
        check_base(base, recipe)
        raise


def check_base(base: str | None, recipe: Path) -> None:
    """ValueError for a base that is a folder of another recipe's run and not there yet; names that recipe.

    Looked for are the recipes beside this one and in the folders beside its own.
    """
    if base is None or Path(base).exists():
        return
    for other in (*sorted(recipe.parent.glob("*.yaml")), *sorted(recipe.parent.parent.glob("*/*.yaml"))):
        text = other.read_text(encoding="utf-8")
        found = re.search(r"^output:\s*[\"']?([^\s\"'#]+)", text, re.MULTILINE)
        if found and Path(base).is_relative_to(found[1]) and not other.samefile(recipe):
            method = "sft" if re.search(r"^stages:", text, re.MULTILINE) else "brpo"
            raise ValueError(
                f"base is {base}, which is not there: make it first, look-again train {method} --config {other}"
            )


def _print_result(final: Path, as_json: bool) -> None:
    if int(os.environ.get("RANK", "0")) == 0:
        print(json.dumps({"checkpoint": str(final)}) if as_json else f"trained: {final}")


def _print_brpo_plan(config, as_json: bool) -> int:
    from look_again.rl.brpo_plan import as_text, plan_brpo

    made = plan_brpo(config)
    if as_json:
        plan = dataclasses.asdict(made) | {"total_gb": made.total_gb}
        print(json.dumps({"hardware": dataclasses.asdict(config.hardware), "plan": plan}))
    else:
        print(as_text(config, made))
    return 0


def _print_plan(config, as_json: bool) -> int:
    from look_again.training.sft_plan import as_text, plan

    plans = plan(config)
    if as_json:
        stages = [dataclasses.asdict(made) | {"total_gb": made.total_gb} for made in plans]
        print(json.dumps({"hardware": dataclasses.asdict(config.hardware), "stages": stages}))
    else:
        print(as_text(config, plans))
    return 0
