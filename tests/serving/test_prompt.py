"""A request is prepared once, and texts that cannot fit are refused before they are tokenised."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import pytest
from PIL import Image

from look_again.core.reattention import Reattention
from look_again.model import Sampling
from look_again.serving.backend import Job
from look_again.serving.prompt import build_prompt, count_least_tokens
from look_again.serving.vllm.served_model import load_without_model


@pytest.fixture(scope="module")
def served():
    return load_without_model()


def build_job(text: str = "How many?", images: int = 0) -> Job:
    content = [*[{"type": "image"}] * images, {"type": "text", "text": text}]
    return Job(
        messages=[{"role": "user", "content": content}],
        images=[Image.new("RGB", (168, 168), "red")] * images,
        policy=Reattention(),
        sampling=Sampling(max_new_tokens=4),
    )


def test_the_choices_of_a_request_are_prepared_once(served):
    """`n: 8` scaled an image and tokenised its text eight times: 39 s for a PNG of 6 KB."""
    checkpoint, model = served
    calls = []
    processor = checkpoint.image_processor

    def counted(**given):
        calls.append(threading.get_ident())
        return processor(**given)

    counting = replace(checkpoint, image_processor=counted)
    job = build_job(images=1)
    jobs = [replace(job, sampling=Sampling(max_new_tokens=4, seed=seed)) for seed in range(8)]
    prompts = [build_prompt(counting, job, model.config, 4096) for job in jobs]
    assert len(calls) == 1
    assert all(prompt is prompts[0] for prompt in prompts)
    assert build_prompt(checkpoint, build_job(images=1), model.config, 4096) is not prompts[0]


def test_what_fails_is_tried_again(served):
    checkpoint, model = served
    job = build_job("word " * 300)
    with pytest.raises(ValueError, match="context is 100"):
        build_prompt(checkpoint, job, model.config, 100)
    assert len(build_prompt(checkpoint, job, model.config, 4096).token_ids) > 300


def test_a_text_beyond_the_context_is_not_tokenised(served):
    """A million characters took 2 to 9 s before they were found to be too many."""
    checkpoint, model = served
    began = time.process_time()
    with pytest.raises(ValueError, match=r"at least \d+ tokens; the model's context is 256"):
        build_prompt(checkpoint, build_job("a" * 1_000_000), model.config, 256)
    assert time.process_time() - began < 1


@pytest.mark.parametrize("text", ["a cube", "é" * 50, "e\u0301" * 50, "\u1100\u1161\u11a8" * 40, " " * 300, "表" * 99])
def test_the_least_is_never_more_than_there_are(served, text):
    """Would catch a text refused that fits: also one that is composed to fewer bytes."""
    checkpoint, model = served
    job = build_job(text)
    assert count_least_tokens(checkpoint.tokenizer, job.messages) <= len(
        build_prompt(checkpoint, job, model.config, 10**6).token_ids
    )
