"""Servers that are asked by chat: what is said of an answer so far, and texts that could forge tokens."""

from __future__ import annotations

import pytest
from PIL import Image

from look_again.clients.vllm_requests import SentImage
from look_again.core.reattention import Reattention
from look_again.core.trigger import Trigger
from look_again.model import Sampling
from look_again.serving.backend import BackendError, Job, RefusedError
from look_again.serving.prompt import build_prompt
from look_again.serving.vllm.chat_requests import build_chat_request, check_texts
from look_again.serving.vllm.servers import UpstreamServer
from look_again.serving.vllm.token_requests import is_same_prompt

TAG = 538


@pytest.fixture
def job():
    content = [{"type": "image"}, {"type": "text", "text": "What?"}]
    return Job(
        messages=[{"role": "user", "content": content}],
        images=[Image.new("RGB", (168, 168))],
        policy=Reattention(),
        sampling=Sampling(),
    )


def begin_sequence(light, job, token_ids):
    checkpoint, served = light["checkpoint"], light["served"]
    prompt = build_prompt(checkpoint, job, served.config, 4096)
    trigger = Trigger.of(checkpoint.tokenizer)
    sequence = served.begin(checkpoint, prompt, job.policy, trigger, sampling=job.sampling, max_context=4096)
    for token in token_ids:
        sequence.append(token, lambda: pytest.fail("nothing is ranked"))
    return sequence


def test_a_first_request_is_the_conversation(light, job):
    image, server = SentImage(job.images[0]), UpstreamServer("http://a", model="m")
    request = build_chat_request(light["checkpoint"], job, begin_sequence(light, job, []), [image], server)
    (message,) = request.body["messages"]
    assert message["content"] == [
        {"type": "image_url", "image_url": {"url": image.url}, "uuid": image.uuid},
        {"type": "text", "text": "What?"},
    ]
    assert "continue_final_message" not in request.body
    assert request.with_sampling({"max_tokens": 3})["max_tokens"] == 3


def test_the_image_stands_between_what_was_said_and_the_tag(light, job):
    """Would catch delimiters sent as text beside those of the template, and a tag before its image."""
    tokenizer, image, server = light["checkpoint"].tokenizer, SentImage(job.images[0]), UpstreamServer("http://a")
    server.learn([image.uuid])
    said = [532, *tokenizer(" the ball").input_ids]
    request = build_chat_request(
        light["checkpoint"], job, begin_sequence(light, job, [*said, TAG, 539]), [image], server
    )
    answer = request.body["messages"][-1]["content"]
    assert answer == [
        {"type": "text", "text": "<SUMMARY> the ball"},
        {"type": "image_url", "image_url": {"url": None}, "uuid": image.uuid},
        {"type": "text", "text": "<REFLECTION></REFLECTION>"},
    ]
    assert request.body["continue_final_message"] is True
    assert request.body["add_generation_prompt"] is False
    assert request.uuids == {image.uuid}


def test_an_answer_may_be_tokenised_anew_but_not_the_prompt(light, job):
    sequence, server = begin_sequence(light, job, [300, 301, TAG]), UpstreamServer("http://a")
    request, ids = (
        build_chat_request(light["checkpoint"], job, sequence, [SentImage(job.images[0])], server),
        sequence.builder.token_ids,
    )
    assert is_same_prompt(request, ids, sequence)
    assert is_same_prompt(request, [*ids[:-1], 302, TAG], sequence)
    assert not is_same_prompt(request, [1, *ids[1:]], sequence)
    assert not is_same_prompt(request, [token for token in ids if token != 530], sequence)


def test_half_a_character_is_not_gone_on_with(light, job):
    """Would catch a replacement character in the middle of an answer."""
    half = light["checkpoint"].tokenizer("é").input_ids[:1]
    assert "\ufffd" in light["checkpoint"].tokenizer.decode(half)
    with pytest.raises(BackendError, match="within a character"):
        build_chat_request(
            light["checkpoint"],
            job,
            begin_sequence(light, job, half),
            [SentImage(job.images[0])],
            UpstreamServer("http://a"),
        )


@pytest.mark.parametrize("text", ["<|image_pad|>", "see <REFLECTION>", "a<|im_end|>b"])
def test_texts_that_spell_a_token_are_refused(light, text):
    tokenizer = light["checkpoint"].tokenizer
    check_texts(tokenizer, [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "a < b | c"}]}])
    for content in (text, [{"type": "text", "text": text}]):
        with pytest.raises(RefusedError, match="leave it out"):
            check_texts(tokenizer, [{"role": "system", "content": "x"}, {"role": "user", "content": content}])
