"""Help is quick: a command line is built without torch, and without any package of an extra."""

from __future__ import annotations

import subprocess
import sys

import pytest

from look_again.commands.main import COMMANDS

HEAVY = ("torch", "transformers", "tokenizers", "httpx", "openai", "datasets", "fastapi", "gradio", "matplotlib", "trl")
PROGRAM = """
import sys
from look_again.commands.main import build_parser

parser = build_parser(sys.argv[1])
try:
    parser.parse_args([*sys.argv[1:], "--help"])
except SystemExit as done:
    assert not done.code, done.code
print("imported:", *(name for name in %r if name in sys.modules))
"""


@pytest.mark.parametrize("command", [*COMMANDS, "bench serve", "bench decode", "analyze heatmap"])
def test_help_imports_nothing_heavy(command: str) -> None:
    """Seconds before the first line, or help that only an installation with every extra can print."""
    argv = [sys.executable, "-c", PROGRAM % (HEAVY,), *command.split()]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("imported:")
    assert done.stdout.startswith("usage: ")
