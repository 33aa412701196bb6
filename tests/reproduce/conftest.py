"""A small plan for every test of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.reproduce.small_plan import write_small_plan


@pytest.fixture
def plan_file(tmp_path: Path) -> Path:
    return write_small_plan(tmp_path / "plans")
