"""Weights that a device map keeps in memory of the CPU or on disk until a layer is used, and how they are reached."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from look_again.core.input_device import input_device


def is_offloaded(module: nn.Module) -> bool:
    """Whether a module's own weights are elsewhere until it is used."""
    return any(parameter.device.type == "meta" for parameter in module.parameters(recurse=False))


@contextmanager
def weights_in_memory(module: nn.Module) -> Iterator[None]:
    """A module's own weights in memory, wherever a device map keeps them; changes to them are lost."""
    if not is_offloaded(module):
        yield
        return
    from accelerate.utils import align_module_device

    with align_module_device(module):
        yield


def keep_rows_in_memory(model: Any) -> None:
    """Bring embedding and head, which are to get rows, from where a device map offloads them to where they are used."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if not any(is_offloaded(module) for module in (embedding, head) if module is not None):
        return
    tied = head is not None and model.config.tie_word_embeddings
    _bring(embedding, input_device(model))
    if tied:
        _bring(head, input_device(model), embedding.weight)
    elif head is not None:
        _bring(head, input_device(model))


def _bring(module: nn.Module, device: torch.device, weight: nn.Parameter | None = None) -> None:
    """Give a module weights of its own for good: copies of those that are offloaded, or another's (tied)."""
    from accelerate.hooks import remove_hook_from_module

    with weights_in_memory(module):
        own = {name: value.detach().to(device, copy=True) for name, value in module.named_parameters(recurse=False)}
    remove_hook_from_module(module)
    for name, value in own.items():
        module.register_parameter(name, nn.Parameter(value, requires_grad=False))
    if weight is not None:
        module.register_parameter("weight", weight)
