"""ROUTE's ranking beside a server that decodes and gives no attention away: the same model reads the answer here.

The attention of equation (5) comes from one pass of the local model over what was generated, recorded by the kernel as
in training; later reflections of the answer feed only what is new to the same cache. Features come from the local
vision tower, once per answer, so what the server is sent is what the ranking read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from look_again.core.attention import recorded_attention
from look_again.core.prefill import encode
from look_again.core.runner import Runner
from look_again.core.sequence import DecodedSequence


class AnswerRanker:
    """Of one answer. pixels: of the prompt's images, as the image processor names them.

    Everything here computes, and the model attends otherwise meanwhile: one call at a time, on the thread that has it.
    """

    def __init__(self, model: Any, pixels: Mapping[str, torch.Tensor]) -> None:
        self.model, self.pixels = model, pixels
        self._table: torch.Tensor | None = None
        self._runner: Runner | None = None

    @torch.no_grad()
    def table(self) -> torch.Tensor:
        """Features of all images, (V, hidden)."""
        if self._table is None:
            images = encode(self.model, self.pixels["pixel_values"], self.pixels["image_grid_thw"])
            self._table = torch.cat([features for features, _ in images])
        return self._table

    @torch.no_grad()
    def scores(self, sequence: DecodedSequence) -> torch.Tensor:
        """The ranking of the sequence's V visual tokens so far, (V,)."""
        model, policy = self.model, sequence.policy
        with recorded_attention(model):
            if self._runner is None:
                layers = policy.ranking_layers(model.config.get_text_config().num_hidden_layers)
                self._runner = Runner(
                    model,
                    [sequence.builder],
                    [self.table()],
                    score_layers=layers,
                    score_prompt=policy.rule == "relative",
                    count_copies=policy.count_copies,
                )
                self._runner.prefill()
            else:
                self._runner.chunk(0)
            return self._runner.scores(0, policy.rule)

    def take_back(self, slots: int) -> None:
        """The sequence no longer holds its last slots: pieces of a tag that are fed again after the insertion."""
        if self._runner is not None and slots:
            self._runner.cache.advance(0, -slots)
