"""Answers of a real vLLM server beside those of the transformers backend, and when they count as equal."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from look_again.core.generate import Reinsertion, Token
from look_again.core.reattention import Reattention
from look_again.data.image_files import open_image
from look_again.model import Sampling
from look_again.serving.backend import Backend, BackendEvent, Ended, Job
from look_again.serving.decode_options import DEFAULT_OPTIONS, DecodeOptions
from look_again.serving.engine.transformers_backend import TransformersBackend
from look_again.serving.prompt import build_prompt
from look_again.serving.vllm.answer import UpstreamRequest
from look_again.serving.vllm.vllm_backend import VllmBackend
from look_again.tabletop.loader import tabletop_samples
from look_again.text.instructions import question_messages
from tests.serving.ties import TOLERANCE, parting

NEW_TOKENS = 400
Answer = list[BackendEvent]


def jobs(
    policy: Reattention, n: int, first: int = 0, options: DecodeOptions = DEFAULT_OPTIONS, **sampling: Any
) -> list[Job]:
    """Answers to questions of Tabletop, each about an image of its own; greedy unless `sampling` says otherwise."""
    rows = tabletop_samples("train", 1, range(first, first + n))
    return [
        Job(
            messages=question_messages(row.question, len(row.images)),
            images=[open_image(image) for image in row.images],
            policy=policy,
            sampling=Sampling(**{"max_new_tokens": NEW_TOKENS, **sampling}),
            options=options,
            conversation=row.id,
        )
        for row in rows
    ]


async def answers_of(backend: Backend, asked: Sequence[Job]) -> list[Answer]:
    """All at once."""

    async def answer(job: Job) -> Answer:
        return [event async for event in backend.generate(job)]

    await backend.start()
    try:
        return await asyncio.gather(*map(answer, asked))
    finally:
        await backend.close()


def by_both(
    checkpoint: Any, url: str, asked: Sequence[Job]
) -> tuple[list[Answer], list[Answer], list[UpstreamRequest]]:
    requests: list[UpstreamRequest] = []
    backend = VllmBackend(checkpoint, [url], on_request=requests.append)
    theirs = asyncio.run(answers_of(backend, asked))
    ours = asyncio.run(answers_of(TransformersBackend(checkpoint), asked))
    return theirs, ours, requests


def check_equal(checkpoint: Any, asked: Sequence[Job], theirs: Sequence[Answer], ours: Sequence[Answer]) -> None:
    """Token for token and row for row, but for ties."""
    config, ties = checkpoint.model.config, 0
    for job, a, b in zip(asked, theirs, ours, strict=True):
        prompt = build_prompt(checkpoint, job, config, config.get_text_config().max_position_embeddings)
        parted = parting(checkpoint, prompt, job.policy, a, b)
        assert parted is None or parted.gap < TOLERANCE, f"{job.conversation}: {parted}"
        ties += parted is not None
        assert parted is not None or told(a[-1]) == told(b[-1])
    looks = sum(isinstance(event, Reinsertion) for answer in theirs for event in answer)
    tokens = sum(isinstance(event, Token) for answer in theirs for event in answer)
    print(f"\n{asked[0].policy.mode}: {len(asked)} answers, {tokens} tokens, {looks} looks, {ties} parted at ties")


def told(ended: BackendEvent) -> Ended:
    assert isinstance(ended, Ended)
    return replace(ended, cached_tokens=None)
