"""Continuous batching: answers that share a batch, each from its own beginning to its own end.

What happens to a sequence is the decoding Row's affair, the same as in `generate`; here rows join with a prefill of
their own, take every step together and leave where they end. Between two passes each row has what it feeds next: one
slot, or a chunk after it has looked again. The paper measures single answers; batching is ours.

Legend: n running rows, W vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch

from look_again.core.attention import recorded_attention
from look_again.core.cache import remove_row
from look_again.core.families import family_of
from look_again.core.open_runner import OpenRunner
from look_again.core.prefill import start_one
from look_again.core.reattention import Reattention
from look_again.core.sequence import DecodedSequence
from look_again.core.trigger import Trigger
from look_again.model import Sampling
from look_again.serving.backend import BackendEvent, Ended, Started
from look_again.serving.engine.sampler import Sampler
from look_again.serving.prompt import Prompt


class Listener(Protocol):
    """Whoever wants an answer."""

    def tell(self, event: BackendEvent) -> None: ...

    def fail(self, error: Exception) -> None: ...


@dataclass(eq=False)
class Seat:
    """A running answer. sampler: None is greedy. looked: it feeds a chunk next. logits: (1, W) of a chunk just fed."""

    row: DecodedSequence
    sampler: Sampler | None
    listener: Listener
    looked: bool = False
    logits: torch.Tensor | None = None


class ContinuousBatch:
    """The running answers of one model. Not thread-safe: one thread calls it, without gradients.

    trigger: how `<REFLECTION>` is recognised. sampled, reinserted: tokens of all answers so far.
    """

    def __init__(self, model: Any, trigger: Trigger) -> None:
        self.model, self.trigger = model, trigger
        text_config = model.config.get_text_config()
        self.max_context: int = text_config.max_position_embeddings
        self.num_layers: int = text_config.num_hidden_layers
        self.stop_ids = _stop_ids(model.generation_config.eos_token_id)
        self.seats: list[Seat] = []
        self.runner = OpenRunner(model)
        self.sampled = self.reinserted = 0
        self.banned = torch.tensor(family_of(model.config).vision_tokens(model.config).never_sampled)
        self._recording: AbstractContextManager[None] | None = None

    def join(self, prompt: Prompt, policy: Reattention, sampling: Sampling, listener: Listener) -> Seat:
        """Prefill a row and give it its first token. Where the prefill raises, the other rows are as they were."""
        start = start_one(self.model, policy, prompt.token_ids, prompt.pixels)
        row = DecodedSequence(start, policy, self.trigger, budget=sampling.max_new_tokens, max_context=self.max_context)
        seat = Seat(row, Sampler.of(sampling, self.runner.device), listener)
        layers = policy.layers_of(self.num_layers) if policy.needs_scores else ()
        self.seats.append(seat)
        index = self.runner.add_row(
            start.builder, start.features, score_layers=layers, score_prompt=policy.rule == "relative"
        )
        try:
            self._record(self._ranks)
            logits = self.runner.chunk(index)
        except BaseException:
            self.leave(seat)
            raise
        listener.tell(Started(len(prompt.token_ids), prompt.visual_tokens, start.builder.build))
        self._settle([seat], logits)
        return seat

    def step(self) -> None:
        """One more token for every row: chunks of rows that looked again one by one, then one pass over all others."""
        for seat in [seat for seat in self.seats if seat.looked]:
            with self._failing(seat):
                seat.logits = self.runner.chunk(self.seats.index(seat))
        if not self.seats:
            return
        stepped = [index for index, seat in enumerate(self.seats) if seat.logits is None]
        chunks = {index: seat.logits for index, seat in enumerate(self.seats) if seat.logits is not None}
        logits = self.runner.step(stepped) if stepped else torch.cat(list(chunks.values()))
        for index, chunk in chunks.items():
            logits[index] = chunk[0]
        self._settle(list(self.seats), logits)

    def leave(self, seat: Seat) -> None:
        """Take a row out; nothing more is told of it. An empty batch holds no memory."""
        index = self.seats.index(seat)
        remove_row(self.seats, index)
        self.runner.remove_row(index)
        if not self.seats:
            self.clear()
        self._record(self._ranks)

    def clear(self) -> None:
        """Forget all rows."""
        self.seats.clear()
        self.runner = OpenRunner(self.model)
        self._record(False)

    @contextmanager
    def model_as_it_was(self) -> Iterator[None]:
        """Within this context the model has its own attention, whatever the running rows need."""
        self._record(False)
        try:
            yield
        finally:
            self._record(self._ranks)

    def _settle(self, seats: Sequence[Seat], logits: torch.Tensor) -> None:
        """Choose and append the next token of each of these rows, from logits (n, W); who is finished leaves."""
        scores = logits.float()
        scores.index_fill_(-1, self.banned.to(scores.device), float("-inf"))
        likeliest = scores.argmax(-1).tolist()
        for index, seat in enumerate(seats):
            seat.logits = None
            with self._failing(seat):
                drawn = None if seat.sampler is None else int(seat.sampler.choose(scores[index : index + 1]))
                token = seat.row.overrule(likeliest[index] if drawn is None else drawn)
                self._append(seat, token)
                if seat.row.finish(token in self.stop_ids):
                    self.leave(seat)
                    seat.listener.tell(_ended(seat.row))

    def _append(self, seat: Seat, token: int) -> None:
        index = self.seats.index(seat)
        before = seat.row.sampled
        appended = seat.row.append(token, partial(self.runner.scores, index, seat.row.policy.rule))
        self.runner.cache.advance(index, -appended.taken_back)
        seat.looked = appended.looked
        self.sampled += seat.row.sampled - before
        self.reinserted += seat.row.reflections[-1].reinserted_tokens if appended.looked else 0
        for event in appended.events:
            seat.listener.tell(event)

    @contextmanager
    def _failing(self, seat: Seat) -> Iterator[None]:
        """What goes wrong within is this row's end and nobody else's."""
        try:
            yield
        except Exception as error:
            if seat in self.seats:
                self.leave(seat)
            seat.listener.fail(error)

    @property
    def _ranks(self) -> bool:
        return any(seat.row.policy.needs_scores for seat in self.seats)

    def _record(self, wanted: bool) -> None:
        """Have the model show its queries, or not; it does while a running row ranks by attention."""
        if wanted and self._recording is None:
            self._recording = recorded_attention(self.model)
            self._recording.__enter__()
        elif not wanted and self._recording is not None:
            recording, self._recording = self._recording, None
            recording.__exit__(None, None, None)


def _stop_ids(eos: int | Sequence[int] | None) -> frozenset[int]:
    """The ids that end an answer, as a generation configuration names them."""
    if eos is None:
        return frozenset()
    return frozenset([eos] if isinstance(eos, int) else eos)


def _ended(row: DecodedSequence) -> Ended:
    return Ended(
        reason=row.finish_reason or "",
        reflections=tuple(row.reflections),
        sampled=row.sampled,
        forced=len(row.response) - row.sampled,
        reinserted=sum(reflection.reinserted_tokens for reflection in row.reflections),
    )
