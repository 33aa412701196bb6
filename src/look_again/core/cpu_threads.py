"""How many of a processor's threads a decoding step is worth.

A step of a small model is hundreds of products of some microseconds each. Shared among threads, each of them waits for
the slowest, and a thread that sleeps while it waits has to be woken for it: on two idle cores two threads then take
2.5 times as long as one. Training and large models have products that are worth sharing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

SMALL_HIDDEN = 512  # up to this hidden size a step's products are not worth sharing
CHOSEN = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # variables by which a user chooses the number of threads


def set_decoding_threads(model: Any) -> None:
    """Have this process decode with one thread where the model is small and on a CPU, unless the user chose.

    For commands that only decode; what else the process computes has one thread too.
    """
    if _is_small(model) and not any(os.environ.get(name) for name in CHOSEN):
        torch.set_num_threads(1)


@contextmanager
def decoding_threads(model: Any) -> Iterator[None]:
    """The same for a while, in a process that also trains."""
    before = torch.get_num_threads()
    set_decoding_threads(model)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _is_small(model: Any) -> bool:
    on_cpu = model.get_input_embeddings().weight.device.type == "cpu"
    return on_cpu and model.config.get_text_config().hidden_size <= SMALL_HIDDEN
