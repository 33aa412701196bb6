"""Padding-free steps: sequences one after the other in one row, each attending to itself alone.

Positions, of however many dimensions, are those that each sequence has by itself, so nothing but attention has to know
where a sequence begins. Flash attention is told the boundaries and computes them in one call; kernels that take a dense
mask or none (SDPA, eager) are called once per sequence, so that the pairs of different sequences cost nothing. Both are
exact: losses and gradients differ from the padded ones by the order of sums alone.

Legend: B sequences, N slots of all of them, H heads, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from look_again.core.attention import own_eager
from look_again.core.families import layer_kinds
from look_again.core.masks import MaskBuilder
from look_again.yaml_config import ConfigError

PREFIX = "look_again_packed_"
SLICED_KERNELS = ("sdpa", "eager")
PACKED_LAYERS = {"full_attention", "sliding_attention"}


class PackingError(ConfigError):
    """The model cannot keep packed sequences apart."""


def check_packing(model: Any) -> None:
    """PackingError for a kernel or for layers that would let a sequence read the one before it."""
    kernel = model.config.get_text_config()._attn_implementation.removeprefix(PREFIX)
    if kernel not in SLICED_KERNELS and "flash" not in kernel:
        raise PackingError(
            f"packing keeps sequences apart with {', '.join(SLICED_KERNELS)} or flash attention, and this model runs "
            f"{kernel!r}: choose one of them (attn_implementation), or leave packing out"
        )
    others = sorted(set(layer_kinds(model.config)) - PACKED_LAYERS)
    if others:
        raise PackingError(
            f"packing needs attention with a mask in every layer, and this model has layers of kind "
            f"{', '.join(others)}, which would read on from one sequence into the next: leave packing out"
        )
    if MaskBuilder(model).needed:
        raise PackingError(
            "packing cuts no masks, and this model takes some, of windows or of images that are read in both "
            "directions: leave packing out"
        )


def allow_packing(model: Any) -> None:
    """From now on the language model's forward accepts `packing_keywords`; without them nothing changes.

    It stays so: layers that are computed again in the backward pass need it there too. PackingError as `check_packing`.
    """
    check_packing(model)
    text_config = model.config.get_text_config()
    kernel = text_config._attn_implementation
    if kernel not in SLICED_KERNELS:  # flash attention, or allowed already
        return
    name = PREFIX + kernel
    AttentionInterface.register(name, _wrapper(kernel))
    AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[kernel])
    sub_config = next(key for key in model.config.sub_configs if getattr(model.config, key) is text_config)
    model.set_attn_implementation({sub_config: name})


def packing_keywords(model: Any, lengths: Sequence[int], device: torch.device) -> dict[str, Any]:
    """What the forward of a packed row (1, N) takes so that sequences of these `lengths` are kept apart."""
    bounds = [0, *accumulate(lengths)]
    if model.config.get_text_config()._attn_implementation.startswith(PREFIX):
        return {"packed_bounds": bounds}
    starts, longest = torch.tensor(bounds, dtype=torch.int32, device=device), max(lengths)
    return {"cu_seq_lens_q": starts, "cu_seq_lens_k": starts, "max_length_q": longest, "max_length_k": longest}


def _wrapper(kernel_name: str) -> Any:
    def attend(module, query, key, value, attention_mask, packed_bounds=None, **kwargs):
        kernel = own_eager(module) if kernel_name == "eager" else ALL_ATTENTION_FUNCTIONS[kernel_name]
        if packed_bounds is None:
            return kernel(module, query, key, value, attention_mask, **kwargs)
        outputs = []
        for start, stop in pairwise(packed_bounds):
            states = [states_BHND[:, :, start:stop] for states_BHND in (query, key, value)]
            mask = None if attention_mask is None else attention_mask[:, :, start:stop, start:stop]
            outputs.append(kernel(module, *states, mask, **kwargs)[0])
        return torch.cat(outputs, dim=1), None

    return attend
