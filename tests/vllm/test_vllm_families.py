"""Answers of a real vLLM server for other families than the shipped model's, against those in process.

Small random checkpoints, made on the spot: what is compared is arithmetic, positions, pixels and texts around images.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from look_again.bench.vllm_process import VllmProcess
from look_again.core.generate import Reinsertion
from look_again.core.reattention import Reattention
from look_again.loading import load_checkpoint
from look_again.model import Sampling
from look_again.serving.backend import Job
from look_again.serving.engine.transformers_backend import TransformersBackend
from look_again.serving.vllm.family_protocols import SERVED
from look_again.text.instructions import question_messages
from tests.vllm.both_backends import Answer, answers_of, by_both, check_equal
from tests.vllm.family_checkpoints import noise_image, write_checkpoint
from tests.vllm.vllm_server import vllm_server

ANSWERS, CANDIDATES = 20, 40
COPY = Reattention(mode="copy", max_reinsertions=4)
FAMILIES = [name for name in SERVED if name != "qwen2_5_vl"]  # which has tests of its own, with the shipped model


@dataclass
class ServedFamily:
    """A running server, and the checkpoint that it serves."""

    name: str
    server: VllmProcess
    checkpoint: Any


@pytest.fixture(scope="module", params=FAMILIES)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedFamily]:
    folder = write_checkpoint(request.param, tmp_path_factory.mktemp(request.param))
    with vllm_server(tmp_path_factory.mktemp("log"), ["--enable-prompt-tokens-details"], checkpoint=folder) as server:
        yield ServedFamily(request.param, server, load_checkpoint(str(folder), device="cpu", dtype="float32"))


def ask(number: int, policy: Reattention, images: int = 1) -> Job:
    shown = [noise_image(number + place) for place in range(images)]
    return Job(
        messages=question_messages(f"What is in image {number}?", images),
        images=shown,
        policy=policy,
        sampling=Sampling(max_new_tokens=60),
        conversation=str(number),
    )


def looks(answer: Answer) -> int:
    return sum(isinstance(event, Reinsertion) for event in answer)


def pick_looking(checkpoint: Any) -> list[Job]:
    """Questions whose answers look again at least once."""
    asked = [ask(number, COPY) for number in range(CANDIDATES)]
    answers = asyncio.run(answers_of(TransformersBackend(checkpoint), asked))
    return [job for job, answer in zip(asked, answers, strict=True) if looks(answer)][:ANSWERS]


def test_copy_answers_as_in_process(served):
    """Would catch other pixels, positions, headers or tiles on the server's side, and an image put back in part."""
    asked = pick_looking(served.checkpoint)
    assert len(asked) == ANSWERS
    theirs, ours, _ = by_both(served.checkpoint, served.server.url, asked)
    check_equal(served.checkpoint, asked, theirs, ours)
    assert all(looks(answer) for answer in theirs)
    texts = [replace(job, policy=Reattention(mode="text")) for job in asked]
    without = asyncio.run(answers_of(TransformersBackend(served.checkpoint), texts))
    assert sum(a[1:-1] != b[1:-1] for a, b in zip(ours, without, strict=True)) > ANSWERS // 2  # so that looks matter


def test_two_images_and_none(served):
    """Would catch images that change places, and tiles of one that are taken for the other's."""
    asked = [ask(number, COPY, images) for number in range(50, 53) for images in (2, 0)]
    theirs, ours, _ = by_both(served.checkpoint, served.server.url, asked)
    check_equal(served.checkpoint, asked, theirs, ours)
