"""Graphs that are traced and run without a compiler's back end: what is tested is the step, not inductor."""

from __future__ import annotations

import weakref

import pytest

from look_again.core.compiled import compiled_step


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps are traced into graphs, as for any back end, and the graphs' operators run as they are."""
    monkeypatch.setattr(compiled_step, "BACKEND", "eager")
    monkeypatch.setattr(compiled_step, "_GRAPHS", weakref.WeakKeyDictionary())
