"""What tokens looked at, measured from a backend's events: the same sequence and the same numbers as the analysis."""

from __future__ import annotations

import asyncio
import base64

import numpy as np
import pytest
import torch

import look_again.ui.attention_maps as looks_module
from look_again.analysis.analyses import heatmap
from look_again.analysis.measured_answers import ImageQuestion
from look_again.core.generate import Token
from look_again.core.slots import Slots
from look_again.model import LookAgain, Sampling, load
from look_again.serving.engine.transformers_backend import TransformersBackend
from look_again.ui.attention_maps import AttentionMaps, coded_maps, measure, payload, section_panels
from look_again.ui.examples import load_example
from look_again.ui.question import UserQuestion
from look_again.ui.transcript import DecodedAnswer, TokenTexts, Transcript, build_policy
from tests.tiny_model import same_slots

IMAGE, QUESTION = load_example("0/0")  # thinks at length: two reflections


@pytest.fixture(scope="module")
def model() -> LookAgain:
    return load(device="cpu")


@pytest.fixture(scope="module")
def answered(model):
    """By mode: the job, and the transcript of the real backend's events."""
    found = {}

    async def ask() -> None:
        backend = TransformersBackend(model.checkpoint)
        await backend.start()
        for mode in ("text", "copy", "route"):
            policy = build_policy(mode, 40)
            job = UserQuestion(IMAGE, QUESTION, Sampling(max_new_tokens=400)).job(policy)
            transcript = Transcript(policy, TokenTexts(model.checkpoint.tokenizer))
            async for event in backend.generate(job):
                transcript.take(event)
            found[mode] = (job, transcript)
        await backend.close()

    asyncio.run(ask())
    return found


@pytest.mark.parametrize("mode", ["text", "copy", "route"])
def test_the_sequence_is_the_one_that_was_decoded(model, answered, mode):
    """A look one token too early or late, or rows of another, and every map after it would be wrong."""
    _, transcript = answered[mode]
    decoded = transcript.decoded().slots()
    answer = model.ask(IMAGE, QUESTION, reattention=transcript.policy, sampling=Sampling(max_new_tokens=400))
    if mode != "text":
        assert len(transcript.reinsertions) >= 2
    assert same_slots(decoded, answer.slots)


@pytest.mark.parametrize("layer", [None, 3])
def test_sections_are_those_of_the_analysis(model, answered, layer, monkeypatch):
    """Also when it takes several passes: a long answer must not be measured in another way than a short one."""
    job, transcript = answered["route"]
    expected = heatmap(
        model, ImageQuestion(IMAGE, QUESTION), transcript.policy, Sampling(max_new_tokens=400), layer=layer
    )
    monkeypatch.setattr(looks_module, "PASS_FLOATS", 2**15)
    maps = measure(model.checkpoint, job, transcript.decoded())
    made = payload(maps, transcript.texts.text, transcript.texts.ends, transcript.decoded(), layer)
    assert [section["name"] for section in made["sections"]] == [s["name"] for s in expected["sections"]]
    assert [section["tokens"] for section in made["sections"]] == [s["tokens"] for s in expected["sections"]]
    tokens = maps.tokens.mean(0) if layer is None else maps.tokens[layer]
    names = [section["name"] for section in made["sections"]]
    panels = section_panels(tokens, names, made["section_of"])
    for panel, section in zip(panels, expected["sections"], strict=True):
        np.testing.assert_allclose(panel.both, np.ravel(section["map"]["both"]), atol=2e-6)
    assert maps.reinserted[:, : transcript.reinsertions[0].at].abs().max() == 0
    columns = maps.grid[1]
    for kind in ("prompt", "constant"):
        assert [list(divmod(place, columns)) for place in made["sinks"][kind]] == list(
            map(list, expected["sinks"][kind])
        )


def unread() -> Slots:
    raise AssertionError("nothing is measured here")


def small(values: list[list[float]]) -> AttentionMaps:
    tokens = torch.tensor([values])
    return AttentionMaps(
        torch.zeros(1, tokens.shape[2]), tokens, tokens.sum(-1), torch.zeros(1, len(values)), (1, len(values[0]))
    )


def test_a_payload_holds_the_maps():
    """By hand: two tokens, one a tag of its section; the section's map is their mean."""
    text, ends = "<SUMMARY>a", [9, 10]
    decoded = DecodedAnswer((5, 6), (), unread)
    made = payload(small([[0.2, 0.0, 0.1], [0.0, 0.4, 0.1]]), text, ends, decoded, None)
    assert made["texts"] == ["<SUMMARY>", "a"]
    assert made["section_of"] == [0, 0]
    assert made["sections"] == [{"name": "SUMMARY", "tokens": 2}]
    assert made["peaks"] == [0.2, 0.4, 0.2]
    maps = list(base64.b64decode(made["maps"]))
    assert [maps[0:3], maps[3:6], maps[6:9]] == [[255, 0, 128], [0, 255, 64], [128, 255, 128]]
    assert made["totals"] == pytest.approx([0.3, 0.5, 0.4], abs=1e-4)


def test_a_sink_does_not_wash_out_the_rest():
    peaks, coded = coded_maps(torch.tensor([[0.9, 0.01, 0.02]]), sinks=[0])
    assert peaks.tolist() == pytest.approx([0.02])
    assert list(coded) == [255, 128, 255]
    peaks, coded = coded_maps(torch.zeros(1, 3), sinks=[])
    assert (peaks.tolist(), list(coded)) == ([0.0], [0, 0, 0])


def test_layers_that_are_not_there_are_refused():
    decoded = DecodedAnswer((5,), (), unread)
    for layer in (-1, 1):
        with pytest.raises(ValueError, match="layer is mean or a number from 0 to 0"):
            payload(small([[1.0, 0.0]]), "a", [1], decoded, layer)


def test_without_a_picture_there_is_nothing_to_measure(model):
    job = UserQuestion(None, QUESTION, Sampling()).job(build_policy("copy", 50))
    with pytest.raises(ValueError, match="no image"):
        measure(model.checkpoint, job, DecodedAnswer((5,), (), unread))


def test_an_answer_that_was_stopped_can_be_read(model, answered):
    job, whole = answered["copy"]
    cut = Transcript(whole.policy, TokenTexts(model.checkpoint.tokenizer))
    cut.slots, cut.status = whole.slots, "writing"
    for token_id in whole.texts.ids[:12]:
        cut.take(Token(0, token_id))
    cut.stop()
    maps, all_maps = (measure(model.checkpoint, job, part.decoded()) for part in (cut, whole))
    assert maps.tokens.shape[1] == 12
    torch.testing.assert_close(maps.tokens, all_maps.tokens[:, :12])
