"""What tells two checkpoints of one name apart: their weights, configuration and chat template, as one short hash.

The paper names its models alone. A folder's weights may be replaced between a kill and the resumed run, and a hub name
moves on, so a run also keeps what was really loaded. A copy of a checkpoint has the same fingerprint.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from look_again.weights.offloading import weights_in_memory

PARTS = 16  # sums per tensor: a sum alone does not see what has moved within it


def fingerprint(model: Any, tokenizer: Any) -> str:
    """16 hexadecimals of a loaded checkpoint; every bit of every weight counts, as it is in memory.

    Integer sums where the weights are: 16 GB take seconds on a CPU; those on disk are read. Another dtype or
    quantisation is another fingerprint, another place is not.
    """
    config = {name: value for name, value in model.config.to_dict().items() if name != "_name_or_path"}
    template = getattr(tokenizer, "chat_template", None)
    made = hashlib.sha256(json.dumps([config, template], sort_keys=True, default=str).encode())
    tied = getattr(model, "all_tied_weights_keys", {})  # on disk they are tensors of their own
    for name in [name for name, _ in model.named_parameters() if name not in tied]:
        owner, _, own = name.rpartition(".")
        module = model.get_submodule(owner)
        with weights_in_memory(module):
            weight = getattr(module, own).detach()
            sums = [number for part in _plain(weight) for number in _sums(part)]
        made.update(f"{name} {tuple(weight.shape)} {sums}".encode())
    return made.hexdigest()[:16]


def _plain(weight: torch.Tensor) -> Iterator[torch.Tensor]:
    """The ordinary tensors that a weight is made of: itself, or the values and scales of a quantised one."""
    if is_traceable_wrapper_subclass(weight):
        for name in weight.__tensor_flatten__()[0]:
            yield from _plain(getattr(weight, name))
    else:
        yield weight.as_subclass(torch.Tensor)


def _sums(weight: torch.Tensor) -> Iterator[int]:
    """Wrapping sums of the bits, in words of eight bytes, of up to PARTS parts; then the bytes that fill no word."""
    raw = weight.contiguous().flatten().view(torch.uint8)
    whole = raw.numel() // 8 * 8
    if whole:
        yield from (int(part.sum()) for part in raw[:whole].view(torch.int64).chunk(PARTS))
    yield from raw[whole:].tolist()
