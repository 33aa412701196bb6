"""Chunked losses are the whole ones: values, and gradients of hidden states, head and tag rows."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from look_again.training import chunked_loss
from look_again.training.chunked_loss import (
    OutputHead,
    chunked_cross_entropy,
    chunked_log_probs,
    count_chunk_targets,
)

TARGETS, HIDDEN, VOCABULARY = 23, 8, 301
TAG_IDS = torch.tensor([7, 300, 12])
NEVER = (3, 5)


def tensors(frozen: bool) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Hidden states, head, tag rows, with gradients where they train, and targets that no ban forbids."""
    generator = torch.Generator().manual_seed(1)
    parts = [
        torch.randn(*shape, generator=generator) for shape in ((TARGETS, HIDDEN), (VOCABULARY, HIDDEN), (3, HIDDEN))
    ]
    targets = torch.randint(20, VOCABULARY, (TARGETS,), generator=generator)
    targets[:2] = torch.tensor([7, 300])
    return [part.requires_grad_(not (frozen and i == 1)) for i, part in enumerate(parts)], targets


def whole_logits(
    hidden: torch.Tensor, weight: torch.Tensor, rows: torch.Tensor | None, cap: float | None = None
) -> torch.Tensor:
    logits = functional.linear(hidden, weight).float()
    if rows is not None:
        logits = logits.index_copy(-1, TAG_IDS, functional.linear(hidden, rows).float())
    return logits if cap is None else torch.tanh(logits / cap) * cap


def compare(parts: list[torch.Tensor], whole: torch.Tensor, chunked: torch.Tensor) -> None:
    """Equal values, and equal gradients of a sum in which each target has a weight of its own."""
    assert torch.allclose(whole, chunked, atol=1e-5)
    weights = torch.linspace(0.1, 2.0, whole.numel()).view_as(whole)
    trained = [part for part in parts if part.requires_grad]
    expected = torch.autograd.grad((whole * weights).sum(), trained)
    found = torch.autograd.grad((chunked * weights).sum(), trained)
    for one, other in zip(expected, found, strict=True):
        assert float((one - other).abs().max()) <= 1e-5


@pytest.mark.parametrize("chunk", [1, 5, 23, 100])
@pytest.mark.parametrize("tagged", [False, True], ids=["plain", "tags"])
@pytest.mark.parametrize("frozen", [False, True], ids=["trained head", "frozen head"])
@pytest.mark.parametrize("cap", [None, 2.0])
def test_summed_cross_entropy_is_the_whole_one(chunk, tagged, frozen, cap):
    """Would catch a lost last chunk, a tag's gradient that also reaches the head, and a factor lost backward."""
    (hidden, weight, rows), targets = tensors(frozen)
    head = OutputHead(weight, rows, TAG_IDS, cap) if tagged else OutputHead(weight, cap=cap)
    logits = whole_logits(hidden, weight, rows if tagged else None, cap)
    losses = functional.cross_entropy(logits, targets, reduction="none")
    summed, each = chunked_cross_entropy(hidden, head, targets, chunk)
    assert torch.allclose(each, losses, atol=1e-5)
    assert not each.requires_grad
    compare([hidden, weight, *([rows] if tagged else [])], losses.sum(), summed)


@pytest.mark.parametrize("chunk", [1, 5, 100])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("frozen", [False, True], ids=["trained head", "frozen head"])
@pytest.mark.parametrize("cap", [None, 2.0])
def test_log_probabilities_are_the_whole_ones(chunk, temperature, frozen, cap):
    """Each target has a gradient of its own here, as advantages give it one."""
    (hidden, weight, rows), targets = tensors(frozen)
    logits = whole_logits(hidden, weight, rows, cap).index_fill(-1, torch.tensor(NEVER), float("-inf")) / temperature
    whole = logits.log_softmax(-1).gather(-1, targets[:, None])[:, 0]
    head = OutputHead(weight, rows, TAG_IDS, cap)
    chunked = chunked_log_probs(hidden, head, targets, chunk, temperature=temperature, never=NEVER)
    compare([hidden, weight, rows], whole, chunked)


def test_autocast_computes_logits_in_bfloat16_and_the_rest_in_float32():
    """Would catch a backward pass in another type than the forward one's, and sums of rounded logits."""
    (hidden, weight, rows), targets = tensors(frozen=False)
    head = OutputHead(weight, rows, TAG_IDS)
    with torch.autocast("cpu", torch.bfloat16):
        summed, _ = chunked_cross_entropy(hidden, head, targets, 5)
        log_probs = chunked_log_probs(hidden, head, targets, 5)
        logits = whole_logits(hidden, weight, rows)
    whole = functional.cross_entropy(logits, targets, reduction="sum")
    assert float((summed - whole).detach().abs()) <= 1e-4
    assert float((log_probs.sum() + whole).detach().abs()) <= 1e-4
    expected = torch.autograd.grad(whole, [hidden, weight, rows])
    for loss in (summed, -log_probs.sum()):
        found = torch.autograd.grad(loss, [hidden, weight, rows])
        for one, other in zip(expected, found, strict=True):
            assert float((one - other).abs().max()) <= 0.02 * float(one.abs().max())


def test_without_targets_there_is_nothing_to_sum():
    (hidden, weight, _), targets = tensors(frozen=False)
    summed, each = chunked_cross_entropy(hidden[:0], OutputHead(weight), targets[:0], 5)
    assert (float(summed), len(each)) == (0.0, 0)
    assert len(chunked_log_probs(hidden[:0], OutputHead(weight), targets[:0], 5)) == 0
    (summed + hidden.sum()).backward()
    assert float(weight.grad.abs().max()) == 0


@pytest.mark.parametrize("call", ["cross_entropy", "log_probs"])
def test_logits_of_all_targets_are_never_whole(monkeypatch, call):
    """Counts the rows of every matrix of logits that is made, forward and backward."""
    made = []
    logits = OutputHead.logits

    def counted(self, hidden):
        made.append(len(hidden))
        return logits(self, hidden)

    monkeypatch.setattr(chunked_loss.OutputHead, "logits", counted)
    (hidden, weight, _), targets = tensors(frozen=True)
    if call == "cross_entropy":
        chunked_cross_entropy(hidden, OutputHead(weight), targets, 5)[0].backward()
        assert made == [5, 5, 5, 5, 3]
    else:
        chunked_log_probs(hidden, OutputHead(weight), targets, 5).sum().backward()
        assert made == [5, 5, 5, 5, 3] * 2


def test_a_chunks_size():
    assert count_chunk_targets(None, 152064) == 882
    assert count_chunk_targets(7, 152064) == 7
    with pytest.raises(ValueError, match="loss_chunk is 0"):
        count_chunk_targets(0, 640)
