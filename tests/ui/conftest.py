"""What several tests of the page share."""

from __future__ import annotations

import pytest
import torch

import look_again.ui.workspace as workspace_module
from look_again.ui.attention_maps import AttentionMaps


@pytest.fixture
def measured(monkeypatch):
    """Measuring stands still; the numbers are all the same."""

    def measure(checkpoint, job, decoded):
        tokens = torch.full((2, len(decoded.ids), 36), 0.01)
        return AttentionMaps(tokens[:, 0], tokens, tokens.sum(-1), 0 * tokens.sum(-1), (6, 6))

    monkeypatch.setattr(workspace_module, "measure", measure)
