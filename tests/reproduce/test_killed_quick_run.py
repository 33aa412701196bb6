"""The whole quick run of the shipped pipeline, undisturbed and killed ten times."""

from __future__ import annotations

import random
import subprocess
import time
from pathlib import Path

import pytest

from look_again.reproduce.run_report import without_times
from tests.reproduce.run_commands import kill_run, read_report, start_run

PLAN = Path(__file__).parents[2] / "recipes" / "box" / "tabletop.yaml"
KILLS = 10


@pytest.mark.slow
def test_ten_kills_of_the_quick_run_change_nothing_but_times(tmp_path: Path) -> None:
    """Would catch a stage that does not resume exactly: a seed drawn anew, a row written twice, half a checkpoint."""
    begun = time.monotonic()
    assert start_run(PLAN, tmp_path / "calm", "--quick").wait() == 0
    whole_s = time.monotonic() - begun
    chance = random.Random(0)
    for kill in range(KILLS):
        process = start_run(PLAN, tmp_path / "killed", "--quick")
        try:  # moments spread over the run, each try a tenth of it or less
            process.wait(chance.uniform(0.02, 1 / KILLS) * whole_s)
        except subprocess.TimeoutExpired:
            kill_run(process, alone=bool(kill % 2))
    assert start_run(PLAN, tmp_path / "killed", "--quick").wait() == 0
    calm, killed = read_report(tmp_path / "calm"), read_report(tmp_path / "killed")
    assert all(stage["done"] for stage in calm["stages"])
    assert without_times(killed) == without_times(calm)
