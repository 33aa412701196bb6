"""Rollouts by vLLM whose answers look again: a request ends at a `<REFLECTION>`, and the next shows what is put back.

What each token does is decided by `DecodedSequence`, the same as while decoding here; token ids go in and come out, and
every request is the whole sequence so far, which the server's prefix cache holds. COPY shows the images once more.
ROUTE ranks by attention that a server does not show, so the policy reads the answer here as well, and the chosen rows
travel as features of its own vision tower, in a strip.

Legend: Q questions, G answers per question.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import torch

from look_again.clients.sequence_requests import build_feature_request, derive_seed, find_image_runs
from look_again.clients.vllm_answers import VllmError
from look_again.clients.vllm_requests import SentImage, build_sampling_params, mention_images
from look_again.core.answer_ranker import AnswerRanker, PromptImages
from look_again.core.prefill import start_without_features
from look_again.core.reattention import Reattention
from look_again.core.sequence import DecodedSequence
from look_again.core.trigger import Trigger
from look_again.data.sample import Sample
from look_again.rl.rollouts import build_rollout
from look_again.rl.vllm_messages import (
    RolloutRequest,
    ServedRollout,
    check_choice,
    read_choices,
    read_sampled_log_probs,
    scale_prompt_images,
)
from look_again.training.batches import Codec, Item


@dataclass(frozen=True)
class LookSampling:
    """How answers are sampled. stops: tokens that end one. seed: of a step; each request has a seed of its own."""

    stops: frozenset[int]
    max_new_tokens: int
    temperature: float
    seed: int


@dataclass(frozen=True)
class Ranking:
    """The policy that reads an answer here. turn: of all answers, which it reads one at a time."""

    ranker: AnswerRanker
    images: Sequence[SentImage]
    merge: int
    turn: Lock

    def scores(self, sequence: DecodedSequence) -> torch.Tensor:
        """As of `AnswerRanker`."""
        with self.turn:
            return self.ranker.scores(sequence)

    def build_body(self, sequence: DecodedSequence) -> dict[str, Any]:
        """The sequence so far, with features for all of its visual tokens."""
        with self.turn:
            table = self.ranker.images.table
        return dict(build_feature_request(sequence, self.images, table, self.merge).body)


@dataclass
class LookingAnswer:
    """One answer under way. number: among all of a step. images: the prompt's, at the size that the loss sees.

    ranking: where rows are chosen.
    """

    codec: Codec
    sample: Sample
    item: Item
    images: Sequence[SentImage]
    sequence: DecodedSequence
    sampling: LookSampling
    number: int
    ranking: Ranking | None = None
    log_probs: list[float] = field(default_factory=list)
    sent: int = 0  # requests

    @property
    def ended(self) -> bool:
        """Whether nothing is left to ask for."""
        return self.sequence.finish_reason is not None

    def build_request(self) -> RolloutRequest:
        """The sequence so far, to be gone on with up to its end or to a tag where it looks again."""
        builder, runs = self.sequence.builder, find_image_runs(self.sequence)
        stops = set(self.sampling.stops)
        if self.sequence.may_look_again:
            stops.add(self.sequence.trigger.open_id)
        params = build_sampling_params(
            max_tokens=max(1, self.sequence.room),
            temperature=self.sampling.temperature,
            stops=stops,
            never_sampled=builder.tokens.never_sampled,
            seed=derive_seed(self.sampling.seed, self.number * self.sampling.max_new_tokens + self.sent),
        )
        self.sent += 1
        params = {**params, "n": 1, "logprobs": 0}
        if self.ranking is not None:
            body = self.ranking.build_body(self.sequence)
            return RolloutRequest(self.sample, self.item, body["token_ids"], [], params, body)
        ids = mention_images(builder.token_ids, builder.tokens.image, [run.length for run in runs])
        shown = [self.images[run.image] for run in runs]
        return RolloutRequest(self.sample, self.item, ids, shown, params)

    def take(self, request: RolloutRequest, answer: Any) -> None:
        """Append what vLLM sampled. Raises VllmError where it is no answer to the request."""
        [choice] = read_choices(request, self.sequence.builder.token_ids, answer)
        ids = check_choice(request, choice)
        for token in ids:
            if self.ended:
                raise VllmError(f"vLLM went on after the end of an answer for row {self.sample.id!r}")
            appended = self.sequence.append(token, self._rank)
            if self.ranking is not None:
                self.ranking.ranker.take_back(appended.taken_back)
            self.sequence.finish(token in self.sampling.stops)
            if appended.looked and token != ids[-1]:
                raise VllmError(f"vLLM went on after a tag that ends its request, for row {self.sample.id!r}")
        self.log_probs += read_sampled_log_probs(choice)

    def _rank(self) -> torch.Tensor:
        assert self.ranking is not None, "COPY ranks nothing"
        return self.ranking.scores(self.sequence)

    def build_rollout(self) -> ServedRollout:
        """The answer, finished."""
        sequence = self.sequence
        parts = sequence.builder.build(), sequence.reflections, sequence.finish_reason or ""
        rollout = build_rollout(self.codec, self.sample, self.item, *parts)
        return ServedRollout(**vars(rollout), log_probs=self.log_probs)


def begin_answers(
    codec: Codec,
    samples: Sequence[Sample],
    policy: Reattention,
    group: int,
    sampling: LookSampling,
    model: Any = None,
) -> list[LookingAnswer]:
    """G answers to each question, those of one question next to each other, (Q * G). model: reads them, where rows are
    chosen."""
    answers: list[LookingAnswer] = []
    turn = Lock()
    merge = int(getattr(codec.config.vision_config, "spatial_merge_size", 1))
    for sample in samples:
        item = codec.item(sample, policy)
        images = scale_prompt_images(codec, sample, item)
        ranked = _prompt_images(item, model) if policy.mode == "route" and images else None
        for _ in range(group):
            sequence = _begin(codec, item, policy, sampling.max_new_tokens)
            ranking = None if ranked is None else Ranking(AnswerRanker(ranked), images, merge, turn)
            answers.append(LookingAnswer(codec, sample, item, images, sequence, sampling, len(answers), ranking))
    return answers


def _prompt_images(item: Item, model: Any) -> PromptImages:
    """Their pixels are where the policy is."""
    return PromptImages(model, {name: tensor.to(model.device) for name, tensor in item.images.tensors.items()})


def _begin(codec: Codec, item: Item, policy: Reattention, budget: int) -> DecodedSequence:
    """A sequence that holds the prompt, without features: the server has them."""
    tokens, prompt = codec.family.vision_tokens(codec.config), item.example
    start = start_without_features(codec.family, tokens, prompt.prompt_ids, prompt.grids)
    context = int(codec.config.get_text_config().max_position_embeddings)
    return DecodedSequence(start, policy, Trigger.of(codec.tokenizer), budget=budget, max_context=context)
