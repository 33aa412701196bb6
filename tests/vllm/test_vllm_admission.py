"""What is found out about a real vLLM server before it gets requests: its weights, its limits, its endpoints.

LOOK_AGAIN_VLLM_PYTHON=/path/to/env/bin/python python -m pytest -s tests/vllm/test_vllm_admission.py
"""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from look_again.core.generate import Reinsertion, Token
from look_again.core.reattention import Reattention
from look_again.loading import Checkpoint, load_checkpoint
from look_again.rl.vllm_rollouts import VllmServer
from look_again.serving.backend import BackendError, RefusedError
from look_again.serving.decode_options import DecodeOptions
from look_again.serving.engine.transformers_backend import TransformersBackend
from look_again.serving.vllm.vllm_backend import VllmBackend
from look_again.text.instructions import question_messages
from tests.vllm.both_backends import answers_of, check_equal, jobs
from tests.vllm.vllm_server import vllm_server

COPY, TEXT = Reattention(mode="copy"), Reattention(mode="text")
NOISES = (0.02, 0.05, 0.1, 0.2, 0.4)  # of each matrix's standard deviation


def with_noise(model: Any, noise: float, seed: int = 0) -> Any:
    other, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in other.parameters():
            if weight.dim() > 1:
                spread = noise * weight.float().std()
                weight += (spread * torch.randn(weight.shape, generator=generator)).to(weight.dtype)
    return other


async def admit(checkpoint: Checkpoint, url: str, **options: Any) -> None:
    """Raises BackendError for a server that is not taken."""
    backend = VllmBackend(checkpoint, [url], **options)
    try:
        await backend.start()
    finally:
        await backend.close()


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def typed(request, tmp_path_factory) -> Iterator[tuple[Checkpoint, VllmServer]]:
    """The checkpoint in each type, and a server that computes in it."""
    checkpoint = load_checkpoint(None, device="cpu", dtype=request.param)
    settings = {"VLLM_SERVER_DEV_MODE": "1"}
    with vllm_server(tmp_path_factory.mktemp("vllm"), ["--dtype", request.param], settings) as server:
        yield checkpoint, VllmServer(server.url, timeout=300)


def test_perturbed_weights_are_found_out_and_the_same_weights_are_taken(typed, tmp_path):
    """40% of noise on all matrices were admitted, and 9 of 20 answers differed.

    What is admitted must be told from what is not by the size of the noise, and no noise must be admitted.
    """
    checkpoint, server = typed
    found = {}
    for place, noise in enumerate((0.0, *NOISES, 0.0)):
        server.push_weights(with_noise(checkpoint.model, noise), tmp_path / str(place))
        try:
            asyncio.run(admit(checkpoint, server.base_url))
            said = "admitted"
        except BackendError as error:
            said = str(error).partition(": ")[2]
        print(f"{checkpoint.model.dtype}, {noise:.0%} noise: {said}")
        found[place, noise] = said
    assert {said for (_, noise), said in found.items() if noise == 0} == {"admitted"}
    refused = [noise for (_, noise), said in found.items() if "other weights" in said]
    least = 0.02 if checkpoint.model.dtype == torch.float32 else 0.1
    assert set(refused) >= {noise for noise in NOISES if noise >= least}


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return load_checkpoint(None, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def chatting(tmp_path_factory) -> Iterator[str]:
    """Without the token endpoint, which nothing opens by itself; JSON without blanks, which no request can say."""
    blanks = ["--structured-outputs-config", '{"backend": "xgrammar", "disable_any_whitespace": true}']
    with vllm_server(tmp_path_factory.mktemp("vllm"), ["--no-enable-scale-out", *blanks]) as server:
        yield server.url


def test_a_server_without_the_token_endpoint_is_refused_with_the_way_out(checkpoint, chatting):
    with pytest.raises(BackendError, match=r"no token-in/token-out endpoint.*--enable-scale-out.*users are trusted"):
        asyncio.run(admit(checkpoint, chatting))


@pytest.mark.parametrize("path", ["", "/v1", "/v1/"])
def test_with_trusted_users_it_is_taken_and_answers_alike(checkpoint, chatting, path):
    """`--vllm-trust-users` could not start: the real server says 403 where 404 was expected."""
    asked = jobs(COPY, 3, first=4000)

    theirs = asyncio.run(answers_of(VllmBackend(checkpoint, [chatting + path], trust_users=True), asked))
    check_equal(checkpoint, asked, theirs, asyncio.run(answers_of(TransformersBackend(checkpoint), asked)))
    assert any(isinstance(event, Reinsertion) for answer in theirs for event in answer)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"options": DecodeOptions(log_probs=2)}, "no log-probabilities by token"),
        ({"policy": Reattention(mode="route", layout="strip")}, "whole images between delimiters alone"),
        ({"messages": question_messages("Is <|im_end|> shown?", 1)}, "cannot keep '<|im_end|>' in a text"),
    ],
)
def test_what_cannot_be_asked_by_chat_is_refused_with_a_reason(checkpoint, chatting, change, message):
    job = replace(jobs(COPY, 1, first=4010)[0], **change)
    with pytest.raises(RefusedError) as refused:
        asyncio.run(answers_of(VllmBackend(checkpoint, [chatting], trust_users=True), [job]))
    assert message in str(refused.value)


def test_by_chat_reasoning_is_bounded_and_a_schema_is_held(checkpoint, chatting):
    schema = {
        "type": "object",
        "properties": {"number": {"type": "integer", "minimum": 0, "maximum": 99}},
        "required": ["number"],
    }
    asked = jobs(TEXT, 2, first=4020, options=DecodeOptions(answer_schema=schema), max_reasoning_tokens=20)
    backend = VllmBackend(checkpoint, [chatting], trust_users=True)
    for answer in asyncio.run(answers_of(backend, asked)):
        text = checkpoint.tokenizer.decode([event.token_id for event in answer if isinstance(event, Token)])
        value = json.loads(text.partition("<CONCLUSION>")[2].partition("</CONCLUSION>")[0])
        assert list(value) == ["number"]
        assert 0 <= value["number"] <= 99


def test_a_limit_of_images_is_found_at_the_start(checkpoint, tmp_path):
    """It was found in mid-answer, at the re-insertion that was one too many."""
    limit = ["--limit-mm-per-prompt", '{"image": 2}']
    with (
        vllm_server(tmp_path, limit) as server,
        pytest.raises(BackendError, match=r"does not take \d+ images in a prompt .*--limit-mm-per-prompt"),
    ):
        asyncio.run(admit(checkpoint, server.url))
