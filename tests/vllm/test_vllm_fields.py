"""What a request may say beyond re-attention, on a real vLLM server: as the transformers backend, or refused by name.

LOOK_AGAIN_VLLM_PYTHON=/path/to/env/bin/python python -m pytest -s tests/vllm/test_vllm_fields.py
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from look_again.core.generate import Token
from look_again.core.reattention import Reattention
from look_again.loading import default_checkpoint, load_checkpoint
from look_again.serving.backend import ScoredToken
from look_again.serving.decode_options import DecodeOptions
from look_again.serving.vllm.vllm_backend import VllmBackend
from tests.serving.http.served import image_part
from tests.soak.served_command import look_again_server
from tests.vllm.both_backends import answers_of, by_both, check_equal, jobs
from tests.vllm.vllm_server import vllm_server

COPY, TEXT = Reattention(mode="copy"), Reattention(mode="text")
NAME = "served"


@pytest.fixture(scope="module")
def url(tmp_path_factory) -> Iterator[str]:
    blanks = ["--structured-outputs-config", '{"backend": "xgrammar", "disable_any_whitespace": true}']
    with vllm_server(tmp_path_factory.mktemp("vllm"), ["--enable-prompt-tokens-details", *blanks]) as server:
        yield server.url


@pytest.fixture(scope="module")
def checkpoint():
    return load_checkpoint(None, device="cpu", dtype="float32")


@pytest.mark.parametrize(
    ("policy", "options", "sampling"),
    [
        (COPY, {"repetition_penalty": 1.3}, {}),
        (TEXT, {"presence_penalty": 0.7}, {}),
        (TEXT, {"frequency_penalty": 0.4}, {}),
        (COPY, {"min_tokens": 120}, {"max_new_tokens": 150}),
        (TEXT, {"ignore_eos": True}, {"max_new_tokens": 130}),
        (COPY, {}, {"max_reasoning_tokens": 0}),
        (COPY, {}, {"max_reasoning_tokens": 45}),
        (TEXT, {}, {"max_reasoning_tokens": 20}),
        (COPY, {"repetition_penalty": 1.1, "min_tokens": 60}, {"max_reasoning_tokens": 40, "max_new_tokens": 80}),
    ],
)
def test_greedy_answers_are_those_of_the_transformers_backend(checkpoint, url, policy, options, sampling):
    asked = jobs(policy, 4, first=5000, options=DecodeOptions(**options), **sampling)
    theirs, ours, _ = by_both(checkpoint, url, asked)
    check_equal(checkpoint, asked, theirs, ours)


@pytest.mark.parametrize("options", [{"top_k": 1}, {"min_p": 1.0}])
def test_draws_from_one_token_are_greedy(checkpoint, url, options):
    greedy = jobs(COPY, 3, first=5100)
    drawn = jobs(COPY, 3, first=5100, options=DecodeOptions(**options), temperature=1.0, seed=3)
    theirs, ours = (asyncio.run(answers_of(VllmBackend(checkpoint, [url]), asked)) for asked in (drawn, greedy))
    check_equal(checkpoint, greedy, theirs, ours)


def test_log_probabilities_are_those_of_the_transformers_backend(checkpoint, url):
    asked = jobs(COPY, 3, first=5200, options=DecodeOptions(log_probs=3))
    theirs, ours, _ = by_both(checkpoint, url, asked)
    check_equal(checkpoint, asked, theirs, ours)
    worst = 0.0
    for a, b in zip(theirs, ours, strict=True):
        for one, other in zip(*([e for e in answer if isinstance(e, Token)] for answer in (a, b)), strict=True):
            if one.token_id != other.token_id:
                break  # parted at a tie
            assert isinstance(one, ScoredToken)
            assert isinstance(other, ScoredToken)
            assert len(one.likeliest) == len(other.likeliest) == 3
            scores = [[event.log_prob, *(score for _, score in event.likeliest)] for event in (one, other)]
            worst = max([worst, *(abs(p - q) for p, q in zip(*scores, strict=True))])
    print(f"log-probabilities within {worst:.1e}")
    assert worst < 1e-3


def test_a_schema_holds_the_conclusion(checkpoint, url):
    """Written by vLLM's own grammar, with the reasoning free before it."""
    number = {"type": "integer", "minimum": 0, "maximum": 99}
    schema = {"type": "object", "properties": {"number": number}, "required": ["number"], "additionalProperties": False}
    asked = jobs(COPY, 4, first=5300, options=DecodeOptions(answer_schema=schema), max_reasoning_tokens=150)
    for answer in asyncio.run(answers_of(VllmBackend(checkpoint, [url]), asked)):
        ids = [event.token_id for event in answer if isinstance(event, Token)]
        text = checkpoint.tokenizer.decode(ids)
        written = text.partition("<CONCLUSION>")[2].partition("</CONCLUSION>")[0]
        value = json.loads(written)
        assert list(value) == ["number"]
        assert "\n" not in written  # a model that was not trained on JSON would write blanks until its tokens are spent
        assert 0 <= value["number"] <= 99


@pytest.fixture(scope="module", params=["with the model", "--vllm-only"])
def base(request, url, tmp_path_factory) -> Iterator[tuple[str, str]]:
    """`look-again serve` before the server, with and without the model beside it."""
    options = ["--served-name", NAME, "--backend", "vllm", "--vllm-url", url]
    only = ["--vllm-only"] if request.param == "--vllm-only" else []
    with look_again_server(tmp_path_factory.mktemp("served"), *options, *only) as server:
        yield server.url, request.param


def ask(base: str, **fields: Any) -> httpx.Response:
    content = [image_part(), {"type": "text", "text": "How many cubes are there?"}]
    body = {"model": f"{NAME}:copy", "messages": [{"role": "user", "content": content}], "max_tokens": 60}
    return httpx.post(f"{base}/v1/chat/completions", json={**body, **fields}, timeout=120)


TOOL = {"type": "function", "function": {"name": "measure", "parameters": {"type": "object", "properties": {}}}}
TAKEN: list[dict[str, Any]] = [
    {"top_k": 5, "min_p": 0.1, "temperature": 0.8, "seed": 1},
    {"repetition_penalty": 1.1},
    {"presence_penalty": 0.5, "model": f"{NAME}:text"},
    {"logprobs": True, "top_logprobs": 2},
    {"min_tokens": 5, "ignore_eos": True},
    {"max_reasoning_tokens": 10},
    {"reasoning_effort": "low"},
    {"return_token_ids": True},
    {"n": 2, "temperature": 1.0, "seed": 4},
    {"stop": ["</SUMMARY>"]},
    {"response_format": {"type": "json_object"}},
    {"tools": [TOOL], "tool_choice": "required"},
    {"bad_words": [], "priority": 0, "n": 1},
]
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"presence_penalty": 0.5}, "presence_penalty"),
    ({"frequency_penalty": 0.5}, "frequency_penalty"),
    ({"frequency_penalty": 0.5, "model": f"{NAME}:text", "max_reasoning_tokens": 9}, "frequency_penalty"),
    ({"logit_bias": {"5": 1}}, "logit_bias"),
    ({"guided_json": {}}, "guided_json"),
    ({"bad_words": ["x"]}, "bad_words"),
    ({"look_again": {"reattention": "route"}, "model": NAME}, "strip"),
]


@pytest.mark.parametrize("fields", TAKEN, ids=lambda fields: ",".join(fields))
def test_fields_are_taken_over_http(base, fields):
    response = ask(base[0], **fields)
    assert response.status_code == 200, response.text


@pytest.mark.parametrize(("fields", "named"), REFUSED, ids=lambda value: ",".join(value))
def test_what_cannot_be_had_gets_a_400_that_says_which(base, fields, named):
    response = ask(base[0], **fields)
    assert response.status_code == 400
    assert named in response.json()["error"]["message"]


def test_where_it_looked_needs_the_model_beside_the_server(base):
    response = ask(base[0], look_again={"attention": True}, max_tokens=100)
    if base[1] == "--vllm-only":
        assert response.status_code == 400
        assert "--vllm-only" in response.json()["error"]["message"]
    else:
        assert response.json()["look_again"]["attention"]["sections"]


def test_the_responses_api_is_answered(base):
    shown = {"type": "input_image", "image_url": image_part()["image_url"]["url"]}
    content = [shown, {"type": "input_text", "text": "How many cubes are there?"}]
    body = {"model": NAME, "input": [{"role": "user", "content": content}], "max_output_tokens": 200}
    response = httpx.post(f"{base[0]}/v1/responses", json=body, timeout=120)
    assert response.status_code == 200, response.text
    assert response.json()["output"][0]["type"] == "reasoning"


@pytest.mark.parametrize("dataset", ["random", "random-mm"])
def test_vllm_bench_serve_with_random_data(base, dataset, tmp_path):
    """vLLM's own client, as it is shipped, against this server: texts, and texts with images."""
    python = os.environ["LOOK_AGAIN_VLLM_PYTHON"]
    mm = ["--random-mm-base-items-per-request", "1", "--random-mm-limit-mm-per-prompt", '{"image": 1, "video": 0}']
    mm += ["--random-mm-bucket-config", "{(64, 64, 1): 1.0}", "--random-mm-num-mm-items-range-ratio", "0"]
    command = [
        *(str(Path(python).with_name("vllm")), "bench", "serve", "--backend", "openai-chat", "--base-url", base[0]),
        *("--endpoint", "/v1/chat/completions", "--model", NAME, "--tokenizer", str(default_checkpoint())),
        *("--dataset-name", dataset, "--num-prompts", "6", "--random-input-len", "40", "--random-output-len", "24"),
        *("--ignore-eos", "--save-result", "--result-dir", str(tmp_path), "--result-filename", "result.json"),
        *(mm if dataset == "random-mm" else ()),
    ]
    environment = {**os.environ, "PYTHONPATH": os.environ.get("LOOK_AGAIN_VLLM_PYTHONPATH", "")}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
    result = json.loads((tmp_path / "result.json").read_text())
    print({name: result[name] for name in ("completed", "failed", "total_output_tokens", "output_throughput")})
    assert (result["completed"], result["failed"]) == (6, 0)
    assert result["total_output_tokens"] == 6 * 24
