"""Answers without a checkpoint's own habits of generation: what is asked for is all that decides."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import GenerationConfig

SPECIAL_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")


@contextmanager
def without_defaults(model: Any) -> Iterator[None]:
    """Within this context `generate` takes nothing from the model's generation configuration but special tokens.

    A checkpoint's `no_repeat_ngram_size` or `guidance_scale` would change greedy answers, and log-probabilities that
    the loss pass computes would not be those of sampling.
    """
    kept = model.generation_config
    model.generation_config = GenerationConfig(**{name: getattr(kept, name, None) for name in SPECIAL_TOKENS})
    try:
        yield
    finally:
        model.generation_config = kept
