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

PARTS = 16  # sums per tensor: a sum alone does not see what has moved within it


def fingerprint(model: Any, tokenizer: Any) -> str:
    """16 hexadecimals of a loaded checkpoint; every bit of every weight counts, as it is in memory.

    Integer sums where the weights are: 16 GB take seconds on a CPU. Another dtype is another fingerprint.
    """
    config = {name: value for name, value in model.config.to_dict().items() if name != "_name_or_path"}
    template = getattr(tokenizer, "chat_template", None)
    made = hashlib.sha256(json.dumps([config, template], sort_keys=True, default=str).encode())
    for name, weight in model.named_parameters():
        made.update(f"{name} {tuple(weight.shape)} {list(_sums(weight.detach()))}".encode())
    return made.hexdigest()[:16]


def _sums(weight: torch.Tensor) -> Iterator[int]:
    """Wrapping sums of the bits, in words of eight bytes, of up to PARTS parts; then the bytes that fill no word."""
    raw = weight.contiguous().flatten().view(torch.uint8)
    whole = raw.numel() // 8 * 8
    if whole:
        yield from (int(part.sum()) for part in raw[:whole].view(torch.int64).chunk(PARTS))
    yield from raw[whole:].tolist()
