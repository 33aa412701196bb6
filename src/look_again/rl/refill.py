"""Sampling many answers with a bounded number at once: as one ends, the next takes its place.

Waiting for the longest answer of a batch leaves most places idle for most of the time. What happens to a sequence is
decided by `DecodedSequence`, as everywhere; the cache is that of the server, whose sequences come and go. Every answer
draws from a generator of its own, so it is the same whatever is decoded beside it and however many places there are.
Answers to one question follow each other, and its prompt is read once for them.

Legend: n running answers, W vocabulary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from look_again.core.attention import recorded_attention
from look_again.core.cache import States, swap_remove
from look_again.core.families import attention_layers, find_family
from look_again.core.open_runner import OpenRunner
from look_again.core.prefill import Start
from look_again.core.reasoning_budget import list_stop_ids
from look_again.core.reattention import Reattention
from look_again.core.sequence import DecodedSequence
from look_again.core.trigger import Trigger


def split_generator(generator: torch.Generator | None, count: int) -> list[torch.Generator]:
    """Generators for so many answers, on the CPU, seeded by draws from `generator` (None: the global one)."""
    device = "cpu" if generator is None else generator.device
    seeds = torch.randint(2**62, (count,), generator=generator, device=device).tolist()
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def draw_tokens(logits_nW: torch.Tensor, generators: Sequence[torch.Generator]) -> list[int]:
    """A token of each distribution, by inverting its cumulative sum at a uniform draw of the answer's own generator.

    A token of probability 0 is never drawn.
    """
    cumulative = torch.softmax(logits_nW.double(), dim=-1).cumsum(-1)
    draws = torch.stack([torch.rand((1,), generator=own, dtype=torch.float64) for own in generators])
    places = torch.searchsorted(cumulative, draws.to(cumulative.device) * cumulative[:, -1:], right=True)
    return places[:, 0].tolist()


@dataclass(eq=False)
class _Answer:
    """A running answer. chunk_next: it looks again, and feeds a chunk next."""

    sequence: DecodedSequence
    generator: torch.Generator
    chunk_next: bool = False


@dataclass(frozen=True)
class _ReadPrompt:
    """A prompt that was fed: what it holds, its features, the keys and values that it left, logits (1, W) after it."""

    slots: tuple[Any, ...]
    features: torch.Tensor | None
    states: States
    logits: torch.Tensor

    def is_of(self, start: Start) -> bool:
        """Whether a start holds the same."""
        ours, theirs = self.features, start.features
        alike = ours is theirs if ours is None or theirs is None else torch.equal(ours, theirs)
        return alike and self.slots == _held_slots(start)


def _held_slots(start: Start) -> tuple[Any, ...]:
    builder = start.builder
    return tuple(builder.token_ids), tuple(builder.visual_indices), tuple(builder.positions)


class RefilledSampling:
    """Answers of one model. places: most answers at once. ValueError below 1.

    temperature: of sampling, from the whole distribution but for vision tokens. max_new_tokens: of an answer. compile:
    steps run as a compiled graph.
    """

    def __init__(
        self,
        model: Any,
        trigger: Trigger,
        policy: Reattention,
        *,
        places: int,
        max_new_tokens: int,
        temperature: float,
        compile: bool = False,
    ) -> None:
        if places < 1:
            raise ValueError(f"answers at once are at least 1, not {places}")
        self.model, self.trigger, self.policy = model, trigger, policy
        self.places, self.max_new_tokens, self.temperature = places, max_new_tokens, temperature
        text_config = model.config.get_text_config()
        self.max_context: int = text_config.max_position_embeddings
        layers = policy.ranking_layers(text_config.num_hidden_layers, attention_layers(model.config))
        self.layers = layers if policy.needs_scores else ()
        self.stop_ids = list_stop_ids(model.generation_config.eos_token_id)
        self.runner = OpenRunner(model, compile=compile)
        self.recorded = bool(self.layers) or compile
        self.banned = torch.tensor(find_family(model.config).vision_tokens(model.config).never_sampled)
        self.running: list[_Answer] = []
        self._last_read: _ReadPrompt | None = None

    @torch.no_grad()
    def sample(self, starts: Sequence[Start], generators: Sequence[torch.Generator]) -> list[DecodedSequence]:
        """The finished sequences, in the order of their starts."""
        sequences = [self._sequence(start) for start in starts]
        waiting = deque(zip(starts, sequences, generators, strict=True))
        self._last_read = None  # the weights may be others than last time
        with recorded_attention(self.model) if self.recorded else nullcontext():
            while waiting or self.running:
                while waiting and len(self.running) < self.places:
                    self._join(*waiting.popleft())
                if self.running:
                    self._step()
        return sequences

    def _sequence(self, start: Start) -> DecodedSequence:
        return DecodedSequence(
            start, self.policy, self.trigger, budget=self.max_new_tokens, max_context=self.max_context
        )

    def _join(self, start: Start, sequence: DecodedSequence, generator: torch.Generator) -> None:
        """Read an answer's prompt and sample its first token."""
        answer = _Answer(sequence, generator)
        self.running.append(answer)
        index = self.runner.add_sequence(
            start.builder,
            start.features,
            score_layers=self.layers,
            score_prompt=self.policy.rule == "relative",
            count_copies=self.policy.count_copies,
        )
        self._append([answer], self._read_prompt(index, start))

    def _read_prompt(self, index: int, start: Start) -> torch.Tensor:
        """Feed a prompt, or take over what the one before left where it is the same: logits (1, W)."""
        cache, slots = self.runner.cache, _held_slots(start)
        if self._last_read is not None and self._last_read.is_of(start):
            count = len(start.builder)
            cache.write_sequence(index, self._last_read.states, count, count)
            return self._last_read.logits.clone()
        logits = self.runner.chunk(index)
        if not cache.recurrent and self.policy.rule != "relative":  # those also need what a pass over the prompt tells
            states = cache.read_sequence(index, len(start.builder))
            self._last_read = _ReadPrompt(slots, start.features, states, logits.clone())
        return logits

    def _step(self) -> None:
        """One more token for every answer: plain steps together, then the chunks of those that look again."""
        stepped = [index for index, answer in enumerate(self.running) if not answer.chunk_next]
        chunked = [index for index, answer in enumerate(self.running) if answer.chunk_next]
        logits = self.runner.step(stepped) if stepped else None
        chunks = {index: self.runner.chunk(index) for index in chunked}
        if logits is None:
            logits = torch.cat(list(chunks.values()))
        for index, chunk in chunks.items():
            logits[index] = chunk[0]
        self._append(list(self.running), logits)

    def _append(self, answers: Sequence[_Answer], logits_nW: torch.Tensor) -> None:
        """Sample and append the next token of each of these answers; a finished one leaves."""
        logits = logits_nW.float().index_fill(-1, self.banned.to(logits_nW.device), float("-inf")) / self.temperature
        tokens = draw_tokens(logits, [answer.generator for answer in answers])
        for answer, drawn in zip(answers, tokens, strict=True):
            index, sequence = self.running.index(answer), answer.sequence
            token = sequence.overrule(drawn)
            appended = sequence.append(token, partial(self.runner.scores, index, self.policy.rule))
            self.runner.cache.advance(index, -appended.taken_back)
            answer.chunk_next = appended.looked
            if sequence.finish(token in self.stop_ids):
                swap_remove(self.running, index)
                self.runner.remove_sequence(index)
