"""Models that are grown by recipes and not shipped, from the folder that LOOK_AGAIN_GROWN names (`.ci/run grown`)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import look_again


def load_grown(name: str) -> look_again.LookAgain:
    """The model that a recipe left there. Fails where there is none: a missing model is no reason to pass."""
    place = os.environ.get("LOOK_AGAIN_GROWN")
    assert place, "LOOK_AGAIN_GROWN names no folder with grown models; `.ci/run grown` makes one"
    return look_again.load(Path(place) / name, device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def qwen3_vl() -> look_again.LookAgain:
    """recipes/tabletop/qwen3_vl.yaml"""
    return load_grown("qwen3_vl/answers/final")


@pytest.fixture(scope="session")
def watcher() -> look_again.LookAgain:
    """recipes/tabletop/clips.yaml"""
    return load_grown("clips/longest/final")
