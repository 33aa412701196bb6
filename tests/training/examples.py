"""Examples for tests: a prompt of the tiny model with a response of token ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from look_again.core.families import find_family
from look_again.core.reattention import Reattention
from look_again.training.example import Example


def build_example(model: Any, prompt: Any, response: list[int], policy: Reattention) -> Example:
    """The example of a prompt and a response."""
    family = find_family(model.config)
    grids = [family.merged_grid(grid, model.config) for grid in prompt.image_grid_thw]
    return Example(prompt.token_ids, response, grids, policy)


def build_examples(
    model: Any, prompts: Sequence[Any], responses: Sequence[list[int]], policy: Reattention
) -> list[Example]:
    """The examples of prompts and responses."""
    return [build_example(model, *pair, policy) for pair in zip(prompts, responses, strict=True)]
