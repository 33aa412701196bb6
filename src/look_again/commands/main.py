"""The `look-again` command."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Sequence

COMMANDS = {
    "ask": ("ask", "answer a question about images, looking again at every reflection"),
    "tabletop": ("tabletop", "make rows of the offline world"),
    "eval": ("evaluate", "evaluate a model on benchmarks, with controls"),
    "compare": ("compare", "compare runs over the same items"),
    "analyze": ("analyze", "show where a model looks: dilution and heat maps"),
    "ui": ("ui", "a page to ask on, and to see what the answer looked at"),
    "families": ("list_families", "list the families of models that are served, and how that was tested"),
    "prepare": ("prepare", "give a checkpoint the response tags, for fine-tuning"),
    "train": ("train", "train a model"),
    "data": ("data", "make training data: cold start, distillation, panel, rewriting, review"),
    "serve": ("serve", "serve a model over an OpenAI-compatible interface"),
    "reproduce": ("reproduce", "run the paper's whole pipeline from one plan, and report"),
    "study": ("study", "experiments on when looking again pays"),
    "bench": ("bench", "measure speed and memory"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status. Bad input prints one line and returns 2 (LOOK_AGAIN_DEBUG=1 raises)."""
    _let_threads_sleep()
    _quiet_imports()
    arguments = list(sys.argv[1:] if argv is None else argv)
    args = build_parser(arguments[0] if arguments else "").parse_args(arguments)
    try:
        return _module(args.command).run(args)
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        if os.environ.get("LOOK_AGAIN_DEBUG"):
            raise
        print(f"look-again: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def build_parser(command: str) -> argparse.ArgumentParser:
    """Returns the whole parser; only the named command's module is imported, so that help is quick."""
    parser = argparse.ArgumentParser(prog="look-again", description="Vision-language models that look again.")
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (_, text) in COMMANDS.items():
        sub = commands.add_parser(name, help=text, description=text)
        if name == command:
            _module(name).add_arguments(sub)
    return parser


def _let_threads_sleep() -> None:
    """Lets OpenMP's idle threads sleep instead of spinning, unless the user chose; read once, when torch is loaded.

    Where other programs use the same cores, threads that spin take the time of those that are waited for.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _quiet_imports() -> None:
    """Keeps off the terminal what torchao says of kernels for other devices when it is imported."""
    for name in ("torchao", "torch.utils._pytree"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _module(command: str):
    return importlib.import_module(f"look_again.commands.{COMMANDS[command][0]}")


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"look-again {version('look-again-vlm')}"
    except PackageNotFoundError:
        return "look-again (not installed)"


if __name__ == "__main__":
    sys.exit(main())
