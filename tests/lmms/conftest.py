"""Tests beside lmms-eval, which ordinary installations do not have: `.ci/run lmms` makes the environment and runs them.

Nothing here is ever skipped. Without the environment, or with another release of lmms-eval than the one that the scores
were compared with, the run ends at once and says what to install.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from importlib.metadata import entry_points, version
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test reaches for a hub

LMMS_EVAL = "0.7.3"
LATEX = Path(sys.prefix) / "latex2sympy2"
"""Where the environment keeps latex2sympy2, whose antlr is another one than math-verify's."""


def pytest_configure() -> None:
    missing = [name for name in ("lmms_eval", "nltk", "math_verify") if importlib.util.find_spec(name) is None]
    if missing or not (LATEX / "latex2sympy2.py").is_file():
        raise pytest.UsageError(f"not installed: {', '.join(missing) or LATEX}; these tests run by .ci/run lmms")
    if version("lmms-eval") != LMMS_EVAL:
        raise pytest.UsageError(f"lmms-eval is {version('lmms-eval')}: scores were compared with {LMMS_EVAL}")
    if "look_again" not in entry_points(group="lmms_eval.models").names:
        raise pytest.UsageError("look-again-vlm is not installed here with its entry point: pip install -e .")


@pytest.fixture(scope="session")
def latex2sympy2() -> Path:
    return LATEX
