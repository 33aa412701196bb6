"""Analyses of whole checkpoints whose layers are not all alike."""

from __future__ import annotations

import pytest

from look_again.analysis.analyses import _spell


@pytest.mark.parametrize(("layers", "words"), [([0, 1, 2], "0 to 2"), ([3, 7], "3, 7"), ([1, 2], "1, 2")])
def test_layers_are_named_by_their_numbers(layers, words):
    assert _spell(layers) == words
