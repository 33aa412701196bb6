"""How one running answer's tokens are drawn: the library's logits warpers and a generator of its own.

With the same logits and seed it draws what `generate` draws for this answer alone: the warpers are those that
`generate` makes of the same options, in its order, and every step draws once.
"""

from __future__ import annotations

import torch
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper

from look_again.model import Sampling


class Sampler:
    """The draws of one answer. Legend: W vocabulary."""

    def __init__(self, sampling: Sampling, device: torch.device) -> None:
        self.generator = torch.Generator(device)
        if sampling.seed is None:
            self.generator.seed()
        else:
            self.generator.manual_seed(sampling.seed)
        self.warpers = LogitsProcessorList()
        if sampling.temperature != 1.0:
            self.warpers.append(TemperatureLogitsWarper(sampling.temperature))
        if sampling.top_p is not None and sampling.top_p < 1.0:
            self.warpers.append(TopPLogitsWarper(sampling.top_p))

    @classmethod
    def of(cls, sampling: Sampling, device: torch.device) -> Sampler | None:
        """A sampler, or None where nothing is drawn (greedy)."""
        return None if sampling.temperature == 0 else cls(sampling, device)

    def choose(self, scores_1W: torch.Tensor) -> torch.Tensor:
        """Draw a token from float32 logits (1, W); its id, (1,)."""
        no_ids = torch.empty(1, 0, dtype=torch.long, device=scores_1W.device)  # these warpers do not read them
        warped = self.warpers(no_ids, scores_1W)  # type: ignore[arg-type]
        return torch.multinomial(torch.softmax(warped, dim=-1), 1, generator=self.generator)[:, 0]
