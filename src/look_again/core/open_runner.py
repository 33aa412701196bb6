"""A Runner whose sequences come and go, for a server that batches requests as they arrive.

The sequences in use are always the first of every buffer, so a pass is as wide as the batch is now: a joining sequence
is put last, and the last sequence takes the number of one that leaves, which costs a copy of one sequence's cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from look_again.core.attention import AttentionRecorder
from look_again.core.runner import Runner
from look_again.core.slots import SlotBuilder


class OpenRunner(Runner):
    """A batch that starts empty; sequences join and leave between passes, and the last sequence takes a leaver's
    number.

    Only sequences that come with `score_layers` are observed. The model must be inside `recorded_attention` while any
    is.
    """

    def __init__(self, model: Any, *, compile: bool = False) -> None:
        super().__init__(model, [], [], compile=compile)
        self.recorder = AttentionRecorder(self.cache, [], [])
        self.prompt_recorder = AttentionRecorder(self.cache, [], [])

    def add_sequence(
        self,
        builder: SlotBuilder,
        features: torch.Tensor | None,
        *,
        score_layers: Sequence[int] = (),
        score_prompt: bool = False,
        count_copies: bool = False,
    ) -> int:
        """Take a sequence in and return its number; `chunk` then feeds what it holds."""
        assert self.recorder is not None
        assert self.prompt_recorder is not None
        slots = self._visual_slots(builder)
        layers = score_layers if len(slots) else ()
        self.builders.append(builder)
        self.features.append(features)
        self.recorder.add_sequence(slots, layers, count_copies=count_copies)
        self.prompt_recorder.add_sequence(slots, layers if score_prompt else ())
        return self.cache.add_sequence()
