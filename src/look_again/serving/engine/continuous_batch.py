"""Continuous batching: answers that share a batch, each from its own beginning to its own end.

What happens to a sequence is decided by `DecodedSequence`, the same as in `generate`; here sequences join with a
prefill of their own, take every step together and leave where they end. Between two passes each has what it feeds
next: one slot, or a chunk after a re-insertion. The paper measures single answers; batching is ours.

Legend: n running sequences, W vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch

from look_again.core.attention import recorded_attention
from look_again.core.cache import swap_remove
from look_again.core.families import attention_layers, find_family
from look_again.core.open_runner import OpenRunner
from look_again.core.prefill import start_one
from look_again.core.reasoning_budget import list_stop_ids
from look_again.core.reattention import Reattention
from look_again.core.reuse.rotated_keys import check_rotates
from look_again.core.sequence import DecodedSequence, Token
from look_again.core.trigger import Trigger
from look_again.model import Sampling
from look_again.serving.answer_grammar import AnswerConstraint
from look_again.serving.backend import BackendEvent, Ended, Started
from look_again.serving.decode_options import DEFAULT_OPTIONS, DecodeOptions
from look_again.serving.engine.token_chooser import TokenChooser
from look_again.serving.prompt import EncodedPrompt


class AnswerListener(Protocol):
    """The receiver of one answer's events."""

    def send(self, event: BackendEvent) -> None: ...

    def fail(self, error: Exception) -> None: ...


@dataclass(eq=False)
class RunningSequence:
    """A running answer.

    stop_ids: tokens that end it. chunk_next: it was re-inserted into and feeds a chunk next. logits: (1, W) of a chunk
    that was just fed.
    """

    sequence: DecodedSequence
    chooser: TokenChooser
    stop_ids: Collection[int]
    listener: AnswerListener
    chunk_next: bool = False
    logits: torch.Tensor | None = None


class ContinuousBatch:
    """The running answers of one model. Not thread-safe: one thread calls it, without gradients.

    tokenizer: of the model. trigger: how `<REFLECTION>` is recognised. compiled: steps run as a compiled graph, one for
    each power of two of sequences. sampled, reinserted: tokens of all answers.
    """

    def __init__(self, model: Any, tokenizer: Any, trigger: Trigger, *, compiled: bool = False) -> None:
        self.model, self.tokenizer, self.trigger = model, tokenizer, trigger
        self.compiled = compiled
        text_config = model.config.get_text_config()
        self.max_context: int = text_config.max_position_embeddings
        self.num_layers: int = text_config.num_hidden_layers
        self.attention_layers = attention_layers(model.config)
        self.stop_ids = list_stop_ids(model.generation_config.eos_token_id)
        self.running: list[RunningSequence] = []
        self.runner = OpenRunner(model, compile=compiled)
        self.sampled = self.reinserted = 0
        self.banned = torch.tensor(find_family(model.config).vision_tokens(model.config).never_sampled)
        self._recording: AbstractContextManager[None] | None = None

    def join(
        self,
        prompt: EncodedPrompt,
        policy: Reattention,
        sampling: Sampling,
        listener: AnswerListener,
        options: DecodeOptions = DEFAULT_OPTIONS,
        constraint: AnswerConstraint | None = None,
    ) -> RunningSequence:
        """Prefill a sequence and give it its first token. Where the prefill raises, the others are as they were.

        constraint: of its CONCLUSION; the sampling then bounds its reasoning.
        """
        if policy.reuse is not None:
            check_rotates(self.model)
        stop_ids = frozenset[int]() if options.ignore_eos else self.stop_ids
        start = start_one(self.model, policy, prompt.token_ids, prompt.pixels)
        sequence = DecodedSequence(
            start,
            policy,
            self.trigger,
            budget=sampling.max_new_tokens,
            max_context=self.max_context,
            reasoning=sampling.watch_reasoning(self.tokenizer, stop_ids),
        )
        chooser = TokenChooser(sampling, options, constraint, self.stop_ids, self.runner.device)
        entry = RunningSequence(sequence, chooser, stop_ids, listener)
        layers = policy.ranking_layers(self.num_layers, self.attention_layers) if policy.needs_scores else ()
        self.running.append(entry)
        index = self.runner.add_sequence(
            start.builder,
            start.features,
            score_layers=layers,
            score_prompt=policy.rule == "relative",
            count_copies=policy.count_copies,
        )
        try:
            self._record(self._ranks)
            logits = self.runner.chunk(index)
        except BaseException:
            self.leave(entry)
            raise
        listener.send(Started(len(prompt.token_ids), prompt.visual_tokens, prompt.token_ids, start.builder.build))
        self._settle([entry], logits)
        return entry

    def step(self) -> None:
        """One more token for every sequence: first chunks of those re-inserted into, one by one, then all others."""
        for entry in [entry for entry in self.running if entry.chunk_next]:
            with self._failing(entry):
                if entry.sequence.policy.reuse is not None:
                    self.runner.reuse_copies(self.running.index(entry))
                entry.logits = self.runner.chunk(self.running.index(entry))
        if not self.running:
            return
        stepped = [index for index, entry in enumerate(self.running) if entry.logits is None]
        chunks = {index: entry.logits for index, entry in enumerate(self.running) if entry.logits is not None}
        logits = self.runner.step(stepped) if stepped else torch.cat(list(chunks.values()))
        for index, chunk in chunks.items():
            logits[index] = chunk[0]
        self._settle(list(self.running), logits)

    def leave(self, entry: RunningSequence) -> None:
        """Take a sequence out; no more events of it are sent. An empty batch holds no memory."""
        index = self.running.index(entry)
        swap_remove(self.running, index)
        self.runner.remove_sequence(index)
        if not self.running:
            self.clear()
        self._record(self._ranks)

    def clear(self) -> None:
        """Forget all sequences."""
        self.running.clear()
        self.runner = OpenRunner(self.model, compile=self.compiled)
        self._record(False)

    @contextmanager
    def model_as_it_was(self) -> Iterator[None]:
        """Within this context the model has its own attention, whatever the running sequences need."""
        self._record(False)
        try:
            yield
        finally:
            self._record(self._ranks)

    def _settle(self, running: Sequence[RunningSequence], logits: torch.Tensor) -> None:
        """Choose and append the next token of each of these sequences, from logits (n, W); a finished one leaves."""
        scores = logits.float()
        scores.index_fill_(-1, self.banned.to(scores.device), float("-inf"))
        likeliest = scores.argmax(-1).tolist()
        for index, entry in enumerate(running):
            entry.logits = None
            with self._failing(entry):
                own = scores[index : index + 1]
                token = entry.sequence.overrule(entry.chooser.choose(own, likeliest[index], entry.sequence))
                self._append(entry, token, own)
                if entry.sequence.finish(token in entry.stop_ids):
                    self.leave(entry)
                    entry.listener.send(_build_ended(entry.sequence))

    def _append(self, entry: RunningSequence, token: int, scores_1W: torch.Tensor) -> None:
        index = self.running.index(entry)
        before, reasoning = entry.sequence.sampled, entry.sequence.reasoning
        answering = reasoning is not None and reasoning.answering
        appended = entry.sequence.append(token, partial(self.runner.scores, index, entry.sequence.policy.rule))
        self.runner.cache.advance(index, -appended.taken_back)
        entry.chunk_next = appended.looked
        if entry.sequence.sampled > before:
            self.sampled += 1
            entry.chooser.take(token, answering)
        self.reinserted += entry.sequence.reflections[-1].reinserted_tokens if appended.looked else 0
        for event in appended.events:
            entry.listener.send(entry.chooser.score(scores_1W, event) if isinstance(event, Token) else event)

    @contextmanager
    def _failing(self, entry: RunningSequence) -> Iterator[None]:
        """What goes wrong within ends this sequence and no other."""
        try:
            yield
        except Exception as error:
            if entry in self.running:
                self.leave(entry)
            entry.listener.fail(error)

    @property
    def _ranks(self) -> bool:
        """Whether the model has to show its queries: to rank by, or to a compiled step."""
        return (self.compiled and bool(self.running)) or any(
            entry.sequence.policy.needs_scores for entry in self.running
        )

    def _record(self, wanted: bool) -> None:
        """Have the model show its queries, or not; it does while a running sequence ranks, or steps are compiled."""
        if wanted and self._recording is None:
            self._recording = recorded_attention(self.model)
            self._recording.__enter__()
        elif not wanted and self._recording is not None:
            recording, self._recording = self._recording, None
            recording.__exit__(None, None, None)


def _build_ended(sequence: DecodedSequence) -> Ended:
    return Ended(
        reason=sequence.finish_reason or "",
        reflections=tuple(sequence.reflections),
        sampled=sequence.sampled,
        forced=len(sequence.response) - sequence.sampled,
        reinserted=sum(reflection.reinserted_tokens for reflection in sequence.reflections),
    )
