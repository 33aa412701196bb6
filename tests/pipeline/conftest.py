"""Fixtures of the data engine's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from look_again.pipeline.ledger.ledger import Ledger


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """An open ledger of a run that has just begun."""
    with Ledger(tmp_path / "run") as opened:
        yield opened
