"""Weights on disk, in eight bits or under an adapter answer through the server's engine as they do to `ask`."""

from __future__ import annotations

import asyncio
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from look_again.core.generate import Token
from look_again.core.reattention import Reattention
from look_again.core.slots import Provenance
from look_again.loading import load_checkpoint
from look_again.model import LookAgain, Sampling
from look_again.serving.backend import Job
from look_again.serving.engine.transformers_backend import TransformersBackend
from look_again.text.instructions import question_messages
from tests.weights.tiny_adapters import ask_about, make_adapter

POLICY, SAMPLING = Reattention(mode="route"), Sampling(max_new_tokens=50)


async def serve(backend: TransformersBackend, job: Job) -> list[int]:
    """The token ids that the engine samples."""
    await backend.start()
    try:
        return [event.token_id async for event in backend.generate(job) if isinstance(event, Token)]
    finally:
        await backend.close()


@pytest.mark.parametrize("kind", ["disk", "int8", "adapter"])
def test_the_engine_answers_as_ask_does(tmp_path: Path, kind: str) -> None:
    """Would catch an engine that looks for weights where none are, or for a head that is wrapped."""
    if kind == "int8" and find_spec("torchao") is None:
        pytest.skip("torchao is not installed")
    options: dict[str, Any] = {"device_map": {"": "disk"}} if kind == "disk" else {"quantization": kind}
    if kind == "adapter":
        options = {"adapter": make_adapter(tmp_path / "lora"), "merge_adapter": False}
    checkpoint = load_checkpoint(**options)
    image, question = ask_about()
    answer = LookAgain(checkpoint).ask(image, question, reattention=POLICY, sampling=SAMPLING)
    slots = zip(answer.slots.token_ids.tolist(), answer.slots.provenance.tolist(), strict=True)
    wanted = [id for id, provenance in slots if provenance == Provenance.SAMPLED]
    job = Job(messages=question_messages(question, 1), images=[image], policy=POLICY, sampling=SAMPLING)
    assert asyncio.run(serve(TransformersBackend(checkpoint), job)) == wanted
    assert len(wanted) == SAMPLING.max_new_tokens
