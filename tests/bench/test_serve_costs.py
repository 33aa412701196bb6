"""The benchmark of serving measures what it says, on few tokens and without a vLLM server."""

from __future__ import annotations

import asyncio
import json

import pytest

from look_again.bench.serve_costs import COPY, Heard, ServeSettings, build_jobs, listen, summarise_waits, table
from look_again.commands.main import main
from look_again.loading import load_checkpoint
from look_again.serving.engine.transformers_backend import TransformersBackend


def test_the_command_says_what_it_could_not_measure(capsys, monkeypatch):
    """A ratio that is missing must be null with a note, not a number."""
    monkeypatch.delenv("LOOK_AGAIN_VLLM_PYTHON", raising=False)
    argv = ["bench", "serve", "--conversations", "2", "--answer", "12", "--pairs", "1", "--json"]
    assert main(argv) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["ratios"]["vllm_copy_over_plain"] is None
    assert "--vllm-url" in result["notes"][0]
    assert result["ratios"]["batched_over_single"] > 0
    waits = result["time_to_first_token_s"]["transformers"]
    assert 0 < waits["p50"] <= waits["p95"]
    assert 0 < result["models_request_s"]["p50"] < 0.04  # what an acknowledgement that is waited for takes
    assert "batched_over_single" in table(result)
    assert "GET /v1/models" in table(result)


def test_answers_at_once_are_those_of_one_by_one():
    """Arms that do different work would make a ratio of nothing."""
    checkpoint, jobs = load_checkpoint(None, device="cpu", dtype="float32"), build_jobs(COPY, 3, 0, 30)
    heard = [Heard(), Heard()]

    async def go():
        backend = TransformersBackend(checkpoint)
        await backend.start()
        for one, together in zip(heard, (True, False), strict=True):
            await listen(backend, jobs, one, together)
        await backend.close()

    asyncio.run(go())
    assert [len(one.waits) for one in heard] == [3, 3]
    assert sorted(ended.sampled for ended in heard[0].ends) == sorted(ended.sampled for ended in heard[1].ends)
    assert heard[0].tokens_per_second == sum(ended.sampled for ended in heard[0].ends) / heard[0].seconds


def test_every_run_has_images_of_its_own():
    """A cache that an earlier run filled would flatter COPY."""
    first, second = build_jobs(COPY, 2, 0, 5), build_jobs(COPY, 2, 2, 5)
    assert len({job.images[0].tobytes() for job in [*first, *second]}) == 4


def test_waits_are_interpolated():
    assert summarise_waits([float(i) for i in range(21)]) == {"p50": 10.0, "p95": 19.0}
    assert summarise_waits([2.0]) == {"p50": 2.0, "p95": 2.0}


def test_settings_need_a_reflection_that_something_follows():
    for tokens in (300, 620):
        with pytest.raises(ValueError, match="multiple of every"):
            ServeSettings(tokens=tokens, every=300)
