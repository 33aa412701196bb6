"""How the next token of one answer is chosen from its logits, and what is reported of the choice.

Draws: with the same logits and seed an answer draws what `generate` draws for it alone. The warpers are those that
`generate` builds from the same options, in its order, and every step draws once. Penalties are vLLM's. The paper
decodes greedily.

Legend: W vocabulary.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from look_again.core.sequence import DecodedSequence, Token
from look_again.model import Sampling
from look_again.serving.answer_grammar import AnswerConstraint
from look_again.serving.backend import ScoredToken
from look_again.serving.decode_options import DecodeOptions


class Sampler:
    """The draws of one answer."""

    def __init__(self, sampling: Sampling, options: DecodeOptions, device: torch.device) -> None:
        self.generator = torch.Generator(device)
        if sampling.seed is None:
            self.generator.seed()
        else:
            self.generator.manual_seed(sampling.seed)
        self.warpers = LogitsProcessorList()
        if sampling.temperature != 1.0:
            self.warpers.append(TemperatureLogitsWarper(sampling.temperature))
        if options.top_k > 0:
            self.warpers.append(TopKLogitsWarper(options.top_k))
        if sampling.top_p is not None and sampling.top_p < 1.0:
            self.warpers.append(TopPLogitsWarper(sampling.top_p))
        if options.min_p > 0:
            self.warpers.append(MinPLogitsWarper(options.min_p))

    def choose(self, scores_1W: torch.Tensor) -> int:
        """Draw a token from float32 logits."""
        no_ids = torch.empty(1, 0, dtype=torch.long, device=scores_1W.device)  # these warpers do not read them
        warped = self.warpers(no_ids, scores_1W)  # type: ignore[arg-type]
        return int(torch.multinomial(torch.softmax(warped, dim=-1), 1, generator=self.generator)[0, 0])


class TokenChooser:
    """The choices of one answer. constraint: of its CONCLUSION. stop_ids: tokens that end an answer."""

    def __init__(
        self,
        sampling: Sampling,
        options: DecodeOptions,
        constraint: AnswerConstraint | None,
        stop_ids: Collection[int],
        device: torch.device,
    ) -> None:
        self.options, self.constraint, self.stop_ids = options, constraint, list(stop_ids)
        self.sampler = None if sampling.temperature == 0 else Sampler(sampling, options, device)

    def choose(self, scores_1W: torch.Tensor, likeliest: int, sequence: DecodedSequence) -> int:
        """The next token from float32 logits, whose highest is `likeliest`'s."""
        constrained = self.constraint is not None and _is_answering(sequence)
        if constrained or self.options.adjusts:
            scores_1W = self._adjust(scores_1W.clone(), sequence, constrained)
            likeliest = int(scores_1W.argmax())
        return likeliest if self.sampler is None else self.sampler.choose(scores_1W)

    def score(self, scores_1W: torch.Tensor, event: Token) -> Token:
        """The event of a sampled token, with its log-probability where that was asked for."""
        if self.options.log_probs is None or event.forced:
            return event
        log_probs = torch.log_softmax(scores_1W[0], dim=-1)
        likeliest = log_probs.topk(self.options.log_probs)
        top = tuple(zip(likeliest.indices.tolist(), likeliest.values.tolist(), strict=True))
        return ScoredToken(event.sequence, event.token_id, False, float(log_probs[event.token_id]), top)

    def take(self, token: int, was_answering: bool) -> None:
        """Account for a token that was sampled, inside the CONCLUSION or not."""
        if self.constraint is not None and was_answering:
            self.constraint.take(token)

    def _adjust(self, scores_1W: torch.Tensor, sequence: DecodedSequence, constrained: bool) -> torch.Tensor:
        options, response = self.options, sequence.response
        if options.repetition_penalty != 1.0:
            ids = torch.tensor([sequence.builder.token_ids], device=scores_1W.device)
            scores_1W = RepetitionPenaltyLogitsProcessor(options.repetition_penalty)(ids, scores_1W)
        if response and (options.presence_penalty or options.frequency_penalty):
            counts = Counter(response)
            ids = torch.tensor(list(counts), device=scores_1W.device)
            times = torch.tensor(list(counts.values()), dtype=scores_1W.dtype, device=scores_1W.device)
            scores_1W[0, ids] -= options.presence_penalty + options.frequency_penalty * times
        if sequence.sampled < options.min_tokens and not constrained:
            scores_1W[0, self.stop_ids] = float("-inf")
        if constrained:
            assert self.constraint is not None
            self.constraint.mask(scores_1W)
        return scores_1W


def _is_answering(sequence: DecodedSequence) -> bool:
    return sequence.reasoning is not None and sequence.reasoning.answering and not sequence.forced
