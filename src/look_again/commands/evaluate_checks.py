"""What `look-again eval` refuses before a model is loaded or a folder made: an argument that would change nothing."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from look_again.commands.common import (
    add_compile_argument,
    add_control_argument,
    add_model_arguments,
    add_reattention_arguments,
)

if TYPE_CHECKING:
    from look_again.core.reattention import Reattention


def check(args: argparse.Namespace, names: Sequence[str], policy: Reattention) -> None:
    """ValueError, in the words of the command line, for arguments that are out of range or do not go together."""
    from look_again.evaluation.known_benchmarks import benchmark

    for name in names:
        splits = benchmark(name).splits
        if args.split and args.split not in splits:
            raise ValueError(f"{name} has no split {args.split!r}; known: {', '.join(splits)}")
    for name in ("limit", "batch", "max_new_tokens"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise ValueError(f"{_option(name)} must be at least 1")
    if args.out is None and (args.benchmarks != ["tabletop"] or args.controls or args.base_url):
        raise ValueError("--out RUN is needed: the folder that keeps answers and scores")
    if (args.path or args.images) and len(args.benchmarks) > 1:
        raise ValueError("--path and --images are of one benchmark; evaluate one at a time")
    if args.arms and not args.controls:
        raise ValueError("--arms goes with --controls")
    if args.base_url:
        _check_endpoint(args)
    else:
        _check_local(args, policy)


def _check_endpoint(args: argparse.Namespace) -> None:
    if not args.model or args.controls or args.control:
        raise ValueError("an endpoint takes --model NAME, and no controls: those need a checkpoint")
    if ignored := changed_arguments(args):
        raise ValueError(f"an endpoint is not loaded or steered from here; leave out {', '.join(ignored)}")


def _check_local(args: argparse.Namespace, policy: Reattention) -> None:
    if args.request != {}:
        raise ValueError("--request goes with --base-url")
    if policy.control and not policy.inserts and not args.controls:
        raise ValueError(f"nothing is put back under this policy, so --control {policy.control} would change nothing")


def changed_arguments(args: argparse.Namespace) -> list[str]:
    """The options on loading and re-attention that differ from their defaults, but for --model."""
    parser = argparse.ArgumentParser()
    for add in (add_model_arguments, add_compile_argument, add_reattention_arguments, add_control_argument):
        add(parser)
    defaults = vars(parser.parse_args([]))
    return [_option(name) for name, value in defaults.items() if name != "model" and getattr(args, name) != value]


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
