"""The policy that BRPO is held near: a frozen copy of the start, or the trained model itself with its adapters off.

The copy is whole on every GPU, in bfloat16 where there is one (17 GB for the 7B), also where the trained model is
sharded. A LoRA run needs none: without adapters and with its first tag rows the trained model is the start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from look_again.extras import require
from look_again.training.module import Reattending


class Reference:
    """`log_probs(module, batch)` are those of the start. copy: a frozen one, or None for a module with adapters."""

    def __init__(self, module: Reattending, copy: Any | None) -> None:
        self.copy = (
            None
            if copy is None
            else Reattending(
                copy.requires_grad_(False).eval(),
                module.tag_ids,
                loss_chunk=module.loss_chunk,
                packing=module.packing,
            )
        )
        self.first_rows = [] if module.tags is None else [p.detach().clone() for p in module.tags.parameters()]

    @torch.no_grad()
    def log_probs(self, module: torch.nn.Module, inner: Reattending, batch: dict[str, Any]) -> Any:
        """What `module(**batch)` would have returned before training. inner: the same module, not wrapped."""
        if self.copy is not None:
            return self.copy(**batch)
        with self._as_it_started(inner):
            return module(**batch)

    @contextmanager
    def _as_it_started(self, inner: Reattending) -> Iterator[None]:
        require("peft", extra="train")
        from peft.tuners.tuners_utils import BaseTunerLayer

        adapters = [part for part in inner.modules() if isinstance(part, BaseTunerLayer)]
        rows = [] if inner.tags is None else list(inner.tags.parameters())
        now = [row.detach().clone() for row in rows]
        try:
            _switch(adapters, False)
            _fill(rows, self.first_rows)
            yield
        finally:
            _switch(adapters, True)
            _fill(rows, now)


def _switch(adapters: list[Any], on: bool) -> None:
    for adapter in adapters:
        adapter.enable_adapters(on)


def _fill(rows: list[torch.nn.Parameter], values: list[torch.Tensor]) -> None:
    for row, value in zip(rows, values, strict=True):
        row.data.copy_(value)


@contextmanager
def kept_whole(module: torch.nn.Module) -> Iterator[None]:
    """Weights that FSDP2 shards stay whole once gathered, so that processes may decode different numbers of steps."""
    from torch.distributed.fsdp import FSDPModule

    sharded = [part for part in module.modules() if isinstance(part, FSDPModule)]
    for part in sharded:
        part.set_reshard_after_forward(False, recurse=False)
    try:
        with _gathered_by_deepspeed(module):
            yield
    finally:
        for part in sharded:
            part.set_reshard_after_forward(True, recurse=False)
            part.reshard()


def _gathered_by_deepspeed(module: torch.nn.Module) -> AbstractContextManager[Any]:
    parameters = [parameter for parameter in module.parameters() if hasattr(parameter, "ds_id")]
    if not parameters:
        return nullcontext()
    import deepspeed  # only ever reached inside a DeepSpeed run

    return deepspeed.zero.GatheredParameters(parameters)


Load = Callable[[torch.dtype], Any]


def reference_copy(load: Load, trains: str, beta: float, device: torch.device, bf16: bool) -> Any | None:
    """The frozen copy where one is needed. `load` gives the start in a type."""
    if not beta or trains == "lora":
        return None
    return load(torch.bfloat16 if bf16 and device.type == "cuda" else torch.float32).to(device)
