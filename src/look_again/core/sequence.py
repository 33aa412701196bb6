"""One sequence that is being decoded: what happens when a token of it is chosen, and when it ends.

The one definition of re-insertion while decoding, whoever runs the forward passes: `generate`'s loop, whose sequences
start together, and the serving engine, whose sequences come and go. A sequence knows its own policy, trigger, budget
and context bound and nothing of its neighbours. A tag that a model without trained tags spells in several pieces is
taken back and fed again after the insertion (the attention the pieces paid stays in ROUTE's mean, the one departure
from equation 5, for such models only).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from look_again.core.prefill import Start
from look_again.core.reasoning_budget import ReasoningWatch
from look_again.core.reattention import (
    Reattention,
    choose_visual_tokens,
    insertion_size,
    list_features,
    list_frames,
    list_prompt,
    random_place,
    reinsert,
    split_by_image,
)
from look_again.core.slots import Provenance
from look_again.core.trigger import Trigger


@dataclass(frozen=True)
class Reflection:
    """One `<REFLECTION>` of an answer.

    visual_indices: the visual tokens put back, counted over all images of the prompt in order. skipped: why nothing was
    put back although the mode would have ("context", "max_reinsertions", "max_new_tokens", "no image", "random-place",
    or "nothing sampled": ROUTE has no attention to rank by before the first sampled token), else None. at: number of
    response tokens before the tag. stray: no tag, but the insertion of the random-place control.
    """

    mode: str
    visual_indices: tuple[int, ...] = ()
    skipped: str | None = None
    at: int = 0
    stray: bool = False

    @property
    def reinserted_tokens(self) -> int:
        return len(self.visual_indices)

    def __repr__(self) -> str:
        what = f"skipped: {self.skipped}" if self.skipped else f"{self.reinserted_tokens} visual tokens re-inserted"
        return f"Reflection({self.mode}, {'stray, ' * self.stray}at token {self.at}, {what})"


@dataclass(frozen=True)
class Token:
    """Event: a sequence of the batch got a response token. `forced`: written by the decoding loop, not sampled."""

    sequence: int
    token_id: int
    forced: bool = False


@dataclass(frozen=True)
class Reinsertion:
    """Event: a sequence looks again; comes before the Token event that follows it, the tag that caused it."""

    sequence: int
    reflection: Reflection


@dataclass(frozen=True)
class End:
    """Event: a sequence is finished; reason "stop", "length" (max_new_tokens) or "context" (the context is full)."""

    sequence: int
    reason: str


Event = Token | Reinsertion | End


@dataclass(frozen=True)
class Appended:
    """What a chosen token did. looked: visual tokens were put back, so the sequence is fed a chunk instead of one slot.

    taken_back: slots that its part of the cache holds and the sequence no longer does.
    """

    events: tuple[Token | Reinsertion, ...]
    looked: bool = False
    taken_back: int = 0


class DecodedSequence:
    """One sequence that is being decoded.

    budget: most sampled tokens. max_context: most slots. index: its number in the events. choose: the choice of visual
    tokens, `choose_visual_tokens` unless a caller wants to observe it. reasoning: forces the CONCLUSION where it
    is due; None never does. turn: the token ids of the user turn that the policy opens at reflections.
    """

    def __init__(
        self,
        start: Start,
        policy: Reattention,
        trigger: Trigger,
        *,
        budget: int,
        max_context: int,
        index: int = 0,
        choose: Callable[..., list[int]] = choose_visual_tokens,
        reasoning: ReasoningWatch | None = None,
        turn: Sequence[int] = (),
    ) -> None:
        if policy.opens_turn and not turn:
            raise ValueError(f"the mode {policy.mode!r} needs a user turn, which nothing writes here")
        self.builder, self.spans, self.shown = start.builder, start.spans, start.shown
        self.features, self.turn = start.features, turn
        self.policy, self.trigger = policy, trigger
        self.budget, self.max_context = budget, max_context
        self.index = index
        self.choose, self.reasoning = choose, reasoning
        self.forced: list[int] = []
        self.reflections: list[Reflection] = []
        self.sampled = 0
        self.response: list[int] = []
        self.finish_reason: str | None = None
        # sampled tokens before the random-place control's insertion; None once it is done
        self.place = random_place(policy, self.builder.token_ids) if policy.strays else None
        self.cut_off = False  # the CONCLUSION was closed for want of tokens
        self._force_tags()

    @property
    def visual_tokens(self) -> int:
        return sum(span.count for span in self.spans)

    @property
    def room(self) -> int:
        """Tokens that may be sampled before a bound (of the answer, the context or the reasoning) is reached."""
        room = min(self.budget - self.sampled, self._context_left)
        reasoning = None if self.reasoning is None else self.reasoning.room(self.sampled)
        return room if reasoning is None else min(room, reasoning)

    @property
    def _context_left(self) -> int:
        """Slots of the context that may be filled before the CONCLUSION has to begin, or in it."""
        return self.max_context - len(self.builder) - (0 if self.reasoning is None else self.reasoning.reserve)

    @property
    def may_look_again(self) -> bool:
        """Whether a next reflection could put visual tokens back; once one did not fit the context, none does."""
        done = sum(bool(reflection.visual_indices) for reflection in self.reflections)
        full = any(reflection.skipped == "context" for reflection in self.reflections)
        return bool(self.spans) and done < self.policy.max_reinsertions and not full

    def completes_tag(self, token: int) -> bool:
        """Whether `token`, coming next, would complete a `<REFLECTION>`."""
        return self.trigger.pieces(self.response, token) > 0

    def overrule(self, token: int) -> int:
        """The token that comes next where `token` was chosen. ValueError for a vision token."""
        if self.reasoning is not None and not self.forced and self.reasoning.replaces(token):
            self.forced += self.reasoning.forced_tags()
        if self.forced:
            return self.forced[0]
        if token in self.builder.tokens.never_sampled:
            raise ValueError(f"a logits processor forced the vision token {token}; those are never sampled")
        return token

    def append(self, token: int, scores: Callable[[], torch.Tensor]) -> Appended:
        """Append the next token, looking again first where that is due. `scores` measures ROUTE's ranking, (V,)."""
        if self.forced:
            self.builder.add_token(self.forced.pop(0), Provenance.FORCED)
            self._respond(token)
            return Appended((Token(self.index, token, forced=True),))
        self.sampled += 1
        appended = self._sampled(token, scores)
        self._respond(token)
        return replace(appended, events=(*appended.events, Token(self.index, token)))

    def finish(self, stop: bool) -> bool:
        """Whether the sequence is finished, `stop` being what the stopping criteria say; sets its reason."""
        answered = self.reasoning is not None and self.reasoning.answered and not self.cut_off
        if stop or answered:
            self.finish_reason = "stop"
        elif self.sampled >= self.budget and not self.forced:
            self.finish_reason = "length"
        elif len(self.builder) >= self.max_context:
            self.finish_reason = "context"
        return self.finish_reason is not None

    def _respond(self, token: int) -> None:
        """Note a response token, and force the tags that are due after it."""
        self.response.append(token)
        if self.reasoning is not None:
            self.reasoning.take(token)
            self._force_tags()

    def _force_tags(self) -> None:
        """Open the CONCLUSION where the reasoning has no room left, and close it where it has none itself."""
        watch = self.reasoning
        if watch is None or self.forced:
            return
        if watch.answering:
            due = self.cut_off = self.sampled >= self.budget or self._context_left <= 1
        else:
            due = not watch.concluded and (watch.room(self.sampled) == 0 or self._context_left <= 0)
        if due:
            self.forced += watch.forced_tags()

    def _sampled(self, token: int, scores: Callable[[], torch.Tensor]) -> Appended:
        """Append a sampled token, looking again first if it completes `<REFLECTION>`."""
        pieces = self.trigger.pieces(self.response, token)
        if pieces and self.policy.mode == "vision":
            self.forced.append(self.trigger.close_id)
        reflection = self._look(pieces, scores)
        self.reflections += [reflection] if reflection else []
        if reflection is None or not self._changes(reflection):
            self.builder.add_token(token, Provenance.SAMPLED)
            return Appended(())
        spelled = self.builder.truncate(len(self.builder) - max(0, pieces - 1))
        if self.policy.opens_turn:
            self.builder.insert_turn(self.turn, self.shown if reflection.visual_indices else ())
        else:
            reinsert(self.builder, self.policy, split_by_image(reflection.visual_indices, self.shown))
        for place, piece in enumerate([*spelled, token]):
            self.builder.add_token(piece, Provenance.SAMPLED, chosen=place == 0)
        return Appended((Reinsertion(self.index, reflection),), looked=True, taken_back=len(spelled))

    def _look(self, pieces: int, scores: Callable[[], torch.Tensor]) -> Reflection | None:
        """What happens before a sampled token that completes a tag of `pieces` tokens; None where nothing does."""
        at = len(self.response) - max(0, pieces - 1)
        if pieces and self.policy.strays:
            return Reflection(self.policy.mode, skipped="random-place", at=at)
        if pieces:
            return self._reflection(at, self.sampled - pieces, scores)
        if self.place is None or self.sampled <= self.place:
            return None
        self.place = None
        return replace(self._reflection(at, self.sampled - 1, scores), stray=True)

    def _changes(self, reflection: Reflection) -> bool:
        """Whether a reflection puts anything into the sequence."""
        return bool(reflection.visual_indices) or (self.policy.opens_turn and reflection.skipped is None)

    def _reflection(self, at: int, sampled_before: int, scores: Callable[[], torch.Tensor]) -> Reflection:
        """What is put back after `at` response tokens, `sampled_before` of them sampled."""
        policy, done = self.policy, sum(self._changes(r) for r in self.reflections)
        if not policy.inserts and not policy.opens_turn:
            return Reflection(policy.mode, at=at)
        if not self.spans and policy.mode != "user-turn":
            return Reflection(policy.mode, skipped="no image", at=at)
        if done >= policy.max_reinsertions:
            return Reflection(policy.mode, skipped="max_reinsertions", at=at)
        if self.sampled >= self.budget:
            return Reflection(policy.mode, skipped="max_new_tokens", at=at)
        if policy.lacks_ranking(sampled_before):
            return Reflection(policy.mode, skipped="nothing sampled", at=at)
        if policy.opens_turn:
            shown = range(self.visual_tokens if policy.mode == "user-turn-image" else 0)
            if len(self.turn) + 2 > self._context_left:
                return Reflection(policy.mode, skipped="context", at=at)
            return Reflection(policy.mode, visual_indices=tuple(shown), at=at)
        ranking = scores() if policy.needs_scores else None
        known = list_frames(policy, self.spans) | list_features(policy, self.features)
        known |= list_prompt(policy, self.builder)
        indices = self.choose(policy, self.visual_tokens, ranking, len(self.reflections), **known)
        size = insertion_size(policy, split_by_image(indices, self.shown))
        if size + 2 > self._context_left:
            return Reflection(policy.mode, skipped="context", at=at)
        return Reflection(policy.mode, visual_indices=tuple(indices), at=at)
