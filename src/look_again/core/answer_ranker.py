"""ROUTE's ranking beside a server that decodes and gives no attention away: the same model reads the answer here.

The attention of equation (5) comes from one pass of the local model over what was generated, recorded by the kernel as
in training; later reflections of the answer feed only what is new to the same cache. Features come from the local
vision tower, once per prompt, so what the server is sent is what the ranking read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from look_again.core.attention import recorded_attention
from look_again.core.prefill import encode
from look_again.core.runner import Runner
from look_again.core.sequence import DecodedSequence


@dataclass(frozen=True)
class PromptImages:
    """The images of a prompt, for all of its answers. pixels: as the image processor names them."""

    model: Any
    pixels: Mapping[str, torch.Tensor]

    @cached_property
    @torch.no_grad()
    def table(self) -> torch.Tensor:
        """Features of all images, (V, hidden); computed when first asked for."""
        images = encode(self.model, self.pixels["pixel_values"], self.pixels["image_grid_thw"])
        return torch.cat([features for features, _ in images])


class AnswerRanker:
    """Of one answer.

    Everything here computes, and the model attends otherwise meanwhile: one call at a time, on the thread that has it.
    """

    def __init__(self, images: PromptImages) -> None:
        self.model, self.images = images.model, images
        self._runner: Runner | None = None

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
                    [self.images.table],
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
