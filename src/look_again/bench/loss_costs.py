"""What the loss over a large vocabulary costs in chunks, against all logits at once: part of `look-again bench sft`.

A loss alone, forward and backward: a cross-entropy with a head that is frozen but for the tags' rows, as in the paper's
fine-tuning, and BRPO's log-probabilities with a head that trains, whose logits are computed again backward.

Legend: T targets, D hidden size, W vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from look_again.bench.measure import Call, paired_ratios, peak_bytes, timed
from look_again.bench.settings import SftSettings
from look_again.training.chunked_loss import (
    OutputHead,
    chunked_cross_entropy,
    chunked_log_probs,
    count_chunk_targets,
)

VOCABULARY = 152064  # of Qwen2.5-VL-7B
HIDDEN = {"cpu": 64, "cuda": 3584}  # of the 7B where the hardware is up to it
TARGETS = {"cpu": 4096, "cuda": 8192}
PAIRS = 3  # at most, as a call takes seconds


class LossBench:
    """Hidden states (T, D), a head (W, D) and targets (T,), and the losses on them."""

    def __init__(self, settings: SftSettings) -> None:
        self.device = torch.device(settings.device)
        kind = "cpu" if self.device.type == "cpu" else "cuda"
        self.chunk = count_chunk_targets(None, VOCABULARY)
        count = settings.loss_targets or TARGETS[kind]
        generator = torch.Generator().manual_seed(0)
        dtype = torch.float32 if kind == "cpu" else torch.bfloat16
        shapes = ((count, HIDDEN[kind]), (VOCABULARY, HIDDEN[kind]), (10, HIDDEN[kind]))
        self.hidden, self.weight, self.rows = (
            (torch.randn(*shape, generator=generator) * 0.1).to(self.device, dtype).requires_grad_() for shape in shapes
        )
        self.ids = torch.arange(10, device=self.device)
        self.targets = torch.randint(VOCABULARY, (count,), generator=generator).to(self.device)

    def head(self, frozen: bool) -> OutputHead:
        """The head, frozen but for the tags' rows, or trained."""
        return OutputHead(self.weight.detach(), self.rows, self.ids) if frozen else OutputHead(self.weight)

    def whole(self, frozen: bool) -> Tensor:
        """Cross-entropies (T,) of all logits at once."""
        head = self.head(frozen)
        logits = functional.linear(self.hidden, head.weight)
        if head.tag_rows is not None:
            logits = logits.index_copy(-1, self.ids, functional.linear(self.hidden, head.tag_rows))
        return functional.cross_entropy(logits.float(), self.targets, reduction="none")

    def cross_entropy(self, chunked: bool, frozen: bool = True) -> None:
        """Forward and backward of the summed cross-entropy."""
        if chunked:
            loss, _ = chunked_cross_entropy(self.hidden, self.head(frozen), self.targets, self.chunk)
        else:
            loss = self.whole(frozen).sum()
        self._backward(loss)

    def log_probs(self, chunked: bool, frozen: bool) -> None:
        """Forward and backward of log-probabilities, each with a weight of its own."""
        if chunked:
            values = chunked_log_probs(self.hidden, self.head(frozen), self.targets, self.chunk)
        else:
            values = -self.whole(frozen)
        self._backward((values * torch.linspace(-1, 1, len(values), device=self.device)).sum())

    def _backward(self, loss: Tensor) -> None:
        loss.backward()
        self.hidden.grad = self.weight.grad = self.rows.grad = None


def measure_loss(settings: SftSettings) -> dict[str, list[float]]:
    """Samples of every ratio of chunked to whole."""
    bench = LossBench(settings)
    pairs, time = min(settings.pairs, PAIRS), partial(timed, device=bench.device)

    def arms(call: Callable[..., None], **options: bool) -> tuple[Call, Call]:
        return partial(call, chunked=True, **options), partial(call, chunked=False, **options)

    return {
        "chunked_peak_over_whole": paired_ratios(
            *arms(bench.cross_entropy), 1, partial(peak_bytes, device=bench.device)
        ),
        "chunked_time_over_whole": paired_ratios(*arms(bench.cross_entropy), pairs, time),
        "chunked_log_probs_over_whole": paired_ratios(*arms(bench.log_probs, frozen=False), pairs, time),
    }
