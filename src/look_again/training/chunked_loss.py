"""Losses over a large vocabulary in chunks of targets: nothing of the size targets x vocabulary is ever whole.

Log-probabilities need one logit per target and the logarithm of a sum over all, so the logits of a chunk can go once
both are read; the backward pass computes them again. A summed cross-entropy needs no second look: its gradient is known
in the forward pass but for one factor, so it is taken there, chunk by chunk. Both are exact: they differ from the whole
computation by the order of sums alone.

Legend: T targets, D hidden size, W vocabulary, K tags, C targets of a chunk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

CHUNK_LOGITS = 2**27  # of a chunk where nobody says how many targets it has: 0.5 GB in float32


@dataclass(frozen=True)
class OutputHead:
    """The matrix that makes logits of hidden states.

    weight: (W, D). tag_rows: (K, D), which stand for the rows `tag_ids` (K,) of a frozen weight; None without any.
    cap: logits x become cap * tanh(x / cap); None leaves them.
    """

    weight: Tensor
    tag_rows: Tensor | None = None
    tag_ids: Tensor | None = None
    cap: float | None = None

    def cast(self, dtype: torch.dtype) -> OutputHead:
        """The head in the type that logits are computed in."""
        rows = None if self.tag_rows is None else self.tag_rows.to(dtype)
        return OutputHead(self.weight.to(dtype), rows, self.tag_ids, self.cap)

    def logits(self, hidden: Tensor) -> Tensor:
        """(C, W) of hidden states (C, D)."""
        logits = functional.linear(hidden, self.weight)
        if self.tag_rows is not None and self.tag_ids is not None:
            logits[:, self.tag_ids] = functional.linear(hidden, self.tag_rows)
        return logits if self.cap is None else torch.tanh(logits / self.cap) * self.cap

    def slopes(self, logits: Tensor) -> Tensor | None:
        """The derivatives (C, W) of capped logits by those before the cap; None without a cap."""
        return None if self.cap is None else 1 - (logits.float() / self.cap).square()


def count_chunk_targets(chunk: int | None, vocabulary: int) -> int:
    """Targets of a chunk: `chunk`, or where it is None as many as CHUNK_LOGITS hold. ValueError below 1."""
    if chunk is None:
        return max(1, CHUNK_LOGITS // vocabulary)
    if chunk < 1:
        raise ValueError(f"loss_chunk is {chunk}: give the targets of a chunk, at least 1, or leave it out")
    return chunk


def chunked_cross_entropy(hidden: Tensor, head: OutputHead, targets: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
    """The summed cross-entropy (), and that of each target (T,) without gradients.

    hidden: (T, D). targets: (T,). chunk: targets whose logits exist at a time.
    """
    return _SummedCrossEntropy.apply(hidden, head.weight, head.tag_rows, head.tag_ids, head.cap, targets, chunk)


def chunked_log_probs(
    hidden: Tensor,
    head: OutputHead,
    targets: Tensor,
    chunk: int,
    *,
    temperature: float = 1.0,
    never: Sequence[int] = (),
) -> Tensor:
    """Log-probabilities (T,) of the targets at `temperature`, over a vocabulary without the tokens `never`."""
    banned = torch.tensor(list(never), dtype=torch.long, device=hidden.device)
    parts = (head.weight, head.tag_rows, head.tag_ids, head.cap)
    return _LogProbs.apply(hidden, *parts, targets, chunk, temperature, banned)


class _Gradients:
    """The gradients of hidden states and head, gathered chunk by chunk in the types of what they belong to."""

    def __init__(self, needed: Sequence[bool], hidden: Tensor, head: OutputHead) -> None:
        self.head = head
        self.hidden = torch.empty_like(hidden) if needed[0] else None
        self.weight = torch.zeros_like(head.weight) if needed[1] else None
        self.rows = torch.zeros_like(head.tag_rows) if needed[2] and head.tag_rows is not None else None

    def add(
        self, part: slice, hidden: Tensor, cast: OutputHead, logits_gradient: Tensor, slopes: Tensor | None
    ) -> None:
        """Add what the gradient (C, W) of a chunk's logits gives, with `slopes` where they are capped; it is spent."""
        gradient = (logits_gradient if slopes is None else logits_gradient.mul_(slopes)).to(cast.weight.dtype)
        towards = None
        if cast.tag_rows is not None and cast.tag_ids is not None:
            tags = gradient[:, cast.tag_ids]
            gradient[:, cast.tag_ids] = 0
            towards = tags @ cast.tag_rows
            if self.rows is not None:
                self.rows += tags.T @ hidden
        if self.hidden is not None:
            own = gradient @ cast.weight
            self.hidden[part] = own if towards is None else own + towards
        if self.weight is not None:
            self.weight += gradient.T @ hidden


class _SummedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden, weight, rows, ids, cap, targets, chunk):
        head = OutputHead(weight, rows, ids, cap)
        gradients, losses = _Gradients(ctx.needs_input_grad[:3], hidden, head), []
        wanted = any(ctx.needs_input_grad[:3])
        for part, states, cast in _chunks(hidden, head, chunk):
            logits, aims = cast.logits(states).float(), targets[part]
            normaliser = logits.logsumexp(-1)
            losses.append(normaliser - logits.gather(-1, aims[:, None])[:, 0])
            if wanted:
                slopes = cast.slopes(logits)
                gradient = logits.sub_(normaliser[:, None]).exp_()
                gradient[torch.arange(len(aims), device=aims.device), aims] -= 1
                gradients.add(part, states, cast, gradient, slopes)
        ctx.save_for_backward(gradients.hidden, gradients.weight, gradients.rows)
        each = torch.cat(losses) if losses else hidden.new_zeros(0, dtype=torch.float32)
        ctx.mark_non_differentiable(each)
        return each.sum(), each

    @staticmethod
    def backward(ctx: Any, towards_sum, _):
        scaled = [None if gradient is None else gradient * towards_sum for gradient in ctx.saved_tensors]
        return *scaled, None, None, None, None


class _LogProbs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden, weight, rows, ids, cap, targets, chunk, temperature, banned):
        head, chosen, normalisers = OutputHead(weight, rows, ids, cap), [], []
        for part, states, cast in _chunks(hidden, head, chunk):
            logits = _sampled_logits(cast.logits(states).float(), temperature, banned)
            normalisers.append(logits.logsumexp(-1))
            chosen.append(logits.gather(-1, targets[part, None])[:, 0])
            ctx.dtype = cast.weight.dtype
        empty = hidden.new_zeros(0, dtype=torch.float32)
        normaliser = torch.cat([empty, *normalisers])
        ctx.cap, ctx.chunk, ctx.temperature = cap, chunk, temperature
        ctx.save_for_backward(hidden, weight, rows, ids, targets, banned, normaliser)
        return torch.cat([empty, *chosen]) - normaliser

    @staticmethod
    def backward(ctx: Any, towards):
        hidden, weight, rows, ids, targets, banned, normaliser = ctx.saved_tensors
        head = OutputHead(weight, rows, ids, ctx.cap)
        gradients = _Gradients(ctx.needs_input_grad[:3], hidden, head)
        for part, states, cast in _chunks(hidden, head, ctx.chunk, ctx.dtype if len(hidden) else None):
            capped = cast.logits(states).float()
            slopes = cast.slopes(capped)
            logits = _sampled_logits(capped, ctx.temperature, banned)
            scale = towards[part] / ctx.temperature
            gradient = logits.sub_(normaliser[part, None]).exp_().mul_(-scale[:, None])
            gradient[torch.arange(len(states), device=states.device), targets[part]] += scale
            gradients.add(part, states, cast, gradient, slopes)
        return gradients.hidden, gradients.weight, gradients.rows, None, None, None, None, None, None


def _sampled_logits(logits: Tensor, temperature: float, banned: Tensor) -> Tensor:
    """(C, W) in float32 as sampling sees them, in their place."""
    logits = logits.index_fill_(-1, banned, float("-inf"))
    return logits if temperature == 1.0 else logits.div_(temperature)


def _chunks(
    hidden: Tensor, head: OutputHead, chunk: int, dtype: torch.dtype | None = None
) -> Iterator[tuple[slice, Tensor, OutputHead]]:
    """Places, hidden states and head of each chunk, in `dtype`, or where it is None as autocast would have them."""
    if dtype is None:
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    cast = head.cast(dtype)
    for start in range(0, len(hidden), chunk):
        part = slice(start, start + chunk)
        yield part, hidden[part].to(dtype), cast
