"""Options of an answer in the engine: penalties by hand, log-probabilities, answers held to a schema."""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any

import pytest
import torch
from PIL import Image

from look_again.core.generate import Token
from look_again.core.reattention import Reattention
from look_again.loading import load_checkpoint
from look_again.model import Sampling
from look_again.serving.answer_grammar import AnswerGrammars
from look_again.serving.answer_schema import check_schema, close_objects
from look_again.serving.backend import Job, ScoredToken, Started
from look_again.serving.decode_options import DecodeOptions
from look_again.serving.engine.token_chooser import TokenChooser
from look_again.serving.engine.transformers_backend import TransformersBackend
from look_again.text.chat import decode_text
from look_again.text.grammar import parse
from tests.tiny_model import full_pass

SCHEMA = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "blue"]}, "note": {"type": "string", "maxLength": 12}},
    "required": ["colour", "note"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def shipped():
    return load_checkpoint(None, device="cpu", dtype="float32")


def job(images=1, tokens=60, policy=None, options=None, **sampling: Any) -> Job:
    content = [{"type": "image"}] * images + [{"type": "text", "text": "How many objects?"}]
    return Job(
        messages=[{"role": "user", "content": content}],
        images=[Image.new("RGB", (168, 168), "red")] * images,
        policy=policy or Reattention(),
        sampling=Sampling(max_new_tokens=tokens, **sampling),
        options=options or DecodeOptions(),
    )


def answers(checkpoint, *jobs: Job) -> list[list[Any]]:
    """The events of jobs that run together."""

    async def whole() -> list[list[Any]]:
        backend = TransformersBackend(checkpoint)
        await backend.start()

        async def one(asked: Job) -> list[Any]:
            return [event async for event in backend.generate(asked)]

        try:
            return list(await asyncio.gather(*map(one, jobs)))
        finally:
            await backend.close()

    return asyncio.run(asyncio.wait_for(whole(), 120))


def ids(events) -> list[int]:
    return [event.token_id for event in events if isinstance(event, Token)]


class Written:
    """A sequence that holds a prompt and a response."""

    reasoning, forced, sampled = None, (), 3

    def __init__(self, response: list[int]) -> None:
        self.response = response
        self.builder = type("Builder", (), {"token_ids": [0, *response]})()


def chosen(options: DecodeOptions, scores: list[float], response: list[int]) -> int:
    """The greedy choice; token 4 ends an answer."""
    tensor = torch.tensor([scores])
    chooser = TokenChooser(Sampling(), options, None, [4], torch.device("cpu"))
    return chooser.choose(tensor, int(tensor.argmax()), Written(response))  # type: ignore[arg-type]


def test_penalties_by_hand():
    scores = [0.0, 3.0, 2.5, 1.9, 1.0]
    assert chosen(DecodeOptions(), scores, [1, 1, 2]) == 1
    assert chosen(DecodeOptions(presence_penalty=0.6), scores, [1, 1, 2]) == 1  # 2.4, 1.9, 1.9
    assert chosen(DecodeOptions(frequency_penalty=0.7), scores, [1, 1, 2]) == 3  # 1.6, 1.8, 1.9
    assert chosen(DecodeOptions(repetition_penalty=1.7), scores, [1, 1, 2]) == 3  # 1.76, 1.47, 1.9


def test_an_answer_does_not_end_before_its_least_tokens():
    scores = [0.0, 1.0, 0.0, 0.0, 5.0]
    assert chosen(DecodeOptions(min_tokens=3), scores, []) == 4
    assert chosen(DecodeOptions(min_tokens=4), scores, []) == 1


def test_options_that_change_nothing_change_nothing(shipped):
    """Would catch an option of one answer that reaches its neighbour in the batch."""
    strong = DecodeOptions(frequency_penalty=2.0, repetition_penalty=10.0)  # this model is sure of its words
    plain, penalised, again = answers(shipped, job(), job(options=strong), job(options=DecodeOptions(log_probs=3)))
    assert ids(plain) == ids(again) != ids(penalised)


def test_log_probabilities_are_those_of_one_full_pass(shipped):
    [events] = answers(shipped, job(tokens=25, policy=Reattention(mode="text"), options=DecodeOptions(log_probs=2)))
    started = next(event for event in events if isinstance(event, Started))
    slots = started.slots()
    pixels = shipped.image_processor(images=job().images, return_tensors="pt")
    with torch.no_grad():
        table = torch.cat(shipped.model.get_image_features(**pixels).pooler_output)
    logits = full_pass(shipped.model, slots, table).logits[0].float()
    logits[:, [530, 531, 527, 528]] = -math.inf  # never sampled
    expected = torch.log_softmax(logits, -1)
    sampled = [
        (int(slots.sampled_from[i]), int(slots.token_ids[i])) for i in range(len(slots)) if slots.sampled_from[i] >= 0
    ]
    scored = [event for event in events if isinstance(event, ScoredToken)]
    assert len(scored) == len(sampled) == 25
    for event, (source, token) in zip(scored, sampled, strict=True):
        assert event.token_id == token
        assert event.log_prob == pytest.approx(float(expected[source, token]), abs=1e-4)
        assert [pair[0] for pair in event.likeliest] == expected[source].topk(2).indices.tolist()


def test_the_end_of_an_answer_can_be_ignored(shipped):
    """Would catch an end that is still one, or a bounded answer that goes on for ever."""
    bounded = {"images": 0, "tokens": 60, "max_reasoning_tokens": 30}
    [endless] = answers(shipped, job(images=0, tokens=60, options=DecodeOptions(ignore_eos=True)))
    [ended] = answers(shipped, job(**bounded, options=DecodeOptions(ignore_eos=True)))
    assert (endless[-1].reason, endless[-1].sampled) == ("length", 60)
    assert parse(decode_text(shipped.tokenizer, ids(ended))).conclusion is not None


# --- answers held to a schema


@pytest.mark.parametrize("mode", ["copy", "vision", "text"])
def test_the_conclusion_follows_the_schema_and_the_reasoning_is_free(shipped, mode):
    """Would catch a grammar that reaches into the reasoning, and a neighbour that is held to it."""
    policy = Reattention(mode=mode)
    options = DecodeOptions(answer_schema=SCHEMA)
    asked = {"tokens": 120, "policy": policy, "max_reasoning_tokens": 40}
    free, held = answers(shipped, job(**asked), job(**asked, options=options))
    texts = [decode_text(shipped.tokenizer, ids(events)) for events in (free, held)]
    before = [text[: text.index("<CONCLUSION>")] for text in texts]
    assert before[0] == before[1]
    value = json.loads(parse(texts[1]).conclusion or "")
    assert value["colour"] in ("red", "blue")
    assert isinstance(value["note"], str)
    assert held[-1].reason == "stop"


@pytest.mark.parametrize("seed", range(8))
def test_sampled_conclusions_follow_the_schema_too(shipped, seed):
    """Would catch a tag spelled inside a JSON string, which would end the section."""
    options = DecodeOptions(answer_schema=SCHEMA)
    asked = {"images": 0, "tokens": 100, "max_reasoning_tokens": 0, "temperature": 2.0, "seed": seed}
    [events] = answers(shipped, job(**asked, options=options))
    text = decode_text(shipped.tokenizer, ids(events))
    assert set(json.loads(parse(text).conclusion or "")) == {"colour", "note"}


def test_a_tag_spelled_in_pieces_cannot_be_completed(shipped):
    grammars = AnswerGrammars(shipped.tokenizer, shipped.model.get_output_embeddings().weight.shape[0])
    constraint = grammars.constrain({"type": "string"})
    plain = shipped.tokenizer.convert_tokens_to_ids
    for letter in '"</CONCLUSION':
        constraint.take(plain(letter))
    scores = torch.zeros(1, grammars.width)
    constraint.mask(scores)
    assert scores[0, plain(">")] == -math.inf
    assert scores[0, plain("a")] == 0
    constraint.take(plain("a"))
    scores = torch.zeros(1, grammars.width)
    constraint.mask(scores)
    assert scores[0, plain(">")] == 0
    assert scores[0, list(grammars.tags.values())].max() == -math.inf


def test_objects_hold_what_is_named():
    """Would catch an answer that adds properties without end, and a schema that is changed where it says otherwise."""
    inner = {"type": "object", "properties": {"a": {"type": "integer"}}}
    schema = {"type": "array", "items": {"anyOf": [inner, {"type": "null"}]}}
    closed = close_objects(schema)["items"]["anyOf"][0]
    assert closed == {**inner, "additionalProperties": False}
    for left in ({**inner, "additionalProperties": True}, {"type": "object"}, {**inner, "allOf": [{}]}):
        assert close_objects(left) == left
    assert close_objects({"properties": {"properties": {"type": "string"}}})["properties"]["properties"] == {
        "type": "string"
    }


def test_schemas_that_cannot_be_followed_are_refused():
    check_schema(SCHEMA)
    deep: dict[str, Any] = {"type": "string"}
    for _ in range(500):
        deep = {"type": "array", "items": deep}
    for wrong in ({"type": "strnig"}, {"enum": ["x" * 60_000]}, deep):
        with pytest.raises(ValueError, match="schema"):
            check_schema(wrong)
