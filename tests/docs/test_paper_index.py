"""docs/paper.md has a row for everything that the paper numbers, and what a row names is there."""

from __future__ import annotations

import pkgutil
import re
from collections import Counter

import pytest

from tests.docs.snippets import ROOT

TEXT = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")
# What arXiv 2505.23558v2 numbers: heading of the index, how a first cell names it, the last number.
NUMBERED = {"Equations": (r"\((\d+)\)", 12), "Figures": (r"(?:^|; )(\d+)(?=,)", 10), "Tables": (r"^(\d+)(?=,)", 6)}
METHOD = (
    "five tags",
    "Visual Token COPY",
    "Visual Token ROUTE",
    "text-only and vision-only reflection",
    "theorem 3.1",
    "theorem 3.2",
    "format, accuracy, reflection balance",
    "GRPO, group of 8",
)
PIPELINE = ("cold-start data, 2k", "cold-start SFT", "BRPO on 10k", "panel of four", "final SFT, COPY and ROUTE")
SETTINGS = ("DeepSpeed ZeRO-3", "vLLM rollouts")


def read_rows(heading: str) -> list[list[str]]:
    """The cells of the table below a heading, without its head."""
    section = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", TEXT, re.M | re.S)
    assert section is not None, f"the index has no section {heading!r}"
    lines = [line for line in section[1].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


@pytest.mark.parametrize("heading", NUMBERED)
def test_everything_that_is_numbered_has_one_row_with_a_counterpart(heading: str) -> None:
    pattern, last = NUMBERED[heading]
    rows = read_rows(heading)
    found = Counter(int(number) for row in rows for number in re.findall(pattern, row[0]))
    assert found == Counter(range(1, last + 1))
    assert all("`" in row[1] for row in rows), "a counterpart is a command, a name or a file"


@pytest.mark.parametrize(("heading", "pieces"), [("Method", METHOD), ("Pipeline and settings", (*PIPELINE, *SETTINGS))])
def test_method_and_pipeline_have_their_rows(heading: str, pieces: tuple[str, ...]) -> None:
    firsts = [row[0] for row in read_rows(heading)]
    assert [piece for piece in pieces if not any(piece in first for first in firsts)] == []


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(look_again(?:\.\w+)+)`", TEXT))))
def test_a_dotted_name_can_be_imported(name: str) -> None:
    assert pkgutil.resolve_name(name)


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`((?:recipes|tests|look_again)/[\w./-]+)`", TEXT))))
def test_a_named_file_is_there(path: str) -> None:
    assert (ROOT / path).exists() or (ROOT / "src" / path).exists()
