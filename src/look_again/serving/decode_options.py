"""What a served answer's request may say beyond `Sampling`: further ways to choose tokens, and what to report of them.

Names and meanings are those of vLLM's SamplingParams, so that a request means the same on both backends. The paper
serves nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class DecodeOptions:
    """The defaults change nothing."""

    top_k: int = 0
    """Draws are from the so many likeliest tokens; 0 from all."""
    min_p: float = 0.0
    """Draws are from tokens of at least so many times the likeliest token's probability."""
    repetition_penalty: float = 1.0
    """Divides positive and multiplies negative logits of tokens of the prompt and the response."""
    presence_penalty: float = 0.0
    """Subtracted from the logits of tokens of the response."""
    frequency_penalty: float = 0.0
    """Subtracted from the logits of tokens of the response, once per occurrence."""
    min_tokens: int = 0
    """Sampled tokens before which the answer does not end by itself."""
    ignore_eos: bool = False
    """The answer ends by its length alone."""
    log_probs: int | None = None
    """Report each sampled token's log-probability, and those of so many likeliest tokens; None reports nothing."""
    answer_schema: Mapping[str, Any] | None = None
    """JSON Schema of the CONCLUSION; None leaves it free."""

    @property
    def adjusts(self) -> bool:
        """Whether logits are changed before a token is chosen, greedily or not."""
        penalties = self.repetition_penalty != 1.0 or self.presence_penalty != 0.0 or self.frequency_penalty != 0.0
        return penalties or self.min_tokens > 0

    def as_sampling_params(self) -> dict[str, Any]:
        """The fields of vLLM's SamplingParams that are set for a whole answer."""
        params: dict[str, Any] = {
            "top_k": self.top_k,
            "min_p": self.min_p,
            "repetition_penalty": self.repetition_penalty,
        }
        if self.presence_penalty != 0.0:
            params["presence_penalty"] = self.presence_penalty
        if self.frequency_penalty != 0.0:
            params["frequency_penalty"] = self.frequency_penalty
        if self.log_probs is not None:
            params["logprobs"] = max(1, self.log_probs)
        return params


DEFAULT_OPTIONS = DecodeOptions()
