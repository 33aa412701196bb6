"""Where an answer looked: the page's maps, as small grids; every share is counted once."""

from __future__ import annotations

import json

import pytest
import torch

from look_again.core.reattention import Reattention
from look_again.loading import load_checkpoint
from look_again.serving import attention_report
from look_again.serving.attention_report import report_attention
from look_again.serving.choice import Choice
from look_again.serving.engine.transformers_backend import TransformersBackend
from look_again.serving.http.limits import Limits
from tests.serving.engine.test_token_chooser import answers, job
from tests.serving.http.served import FakeBackend, body, data_url, encoded_image, running


@pytest.fixture(scope="module")
def shipped():
    return load_checkpoint(None, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def answered(shipped):
    """A job about two images, and its answer."""
    asked = job(images=2, tokens=90, policy=Reattention(mode="copy"), max_reasoning_tokens=70)
    [events] = answers(shipped, asked)
    choice = Choice(shipped.tokenizer)
    for event in events:
        list(choice.take(event))
    return asked, choice


def test_every_share_is_counted_once(shipped, answered):
    """Would catch a block of visual tokens that is left out, counted twice, or given to another look or image."""
    asked, choice = answered
    report = report_attention(shipped, asked, choice.started.slots(), choice.token_ids, choice.reflections)
    assert report["visual_tokens"] == [[6, 6], [6, 6]]
    assert "CONCLUSION" in [section["section"] for section in report["sections"]]
    for section in report["sections"]:
        grids = torch.tensor([section["original"], section["reinserted"]])
        assert grids.shape == (2, 2, 6, 6)
        assert float(grids.sum()) == pytest.approx(section["share"], abs=1e-3)
        assert 0 < section["share"] < 1
    looks = [reflection for reflection in choice.reflections if reflection.visual_indices]
    assert [look["visual_tokens"] for look in report["looks"]] == [list(look.visual_indices) for look in looks]
    total = sum(s["share"] * s["tokens"] for s in report["sections"]) / sum(s["tokens"] for s in report["sections"])
    first = sum(float(torch.tensor(s["original"]).sum()) * s["tokens"] for s in report["sections"])
    first /= sum(s["tokens"] for s in report["sections"])
    assert first + sum(look["share"] for look in report["looks"]) == pytest.approx(total, abs=1e-3)


def test_a_large_grid_is_pooled():
    grids = [(1, 20, 33), (1, 2, 3)]
    shares = torch.arange(20 * 33 + 6).float()
    drawn = attention_report._draw_grids(shares, grids)
    assert [(len(grid), len(grid[0])) for grid in drawn] == [(10, 11), (2, 3)]
    assert sum(map(sum, drawn[0])) == float(shares[:660].sum())
    assert drawn[0][0][0] == float(sum(shares[row * 33 + column] for row in (0, 1) for column in (0, 1, 2)))


def test_a_long_sequence_is_refused(shipped, answered, monkeypatch):
    asked, choice = answered
    monkeypatch.setattr(attention_report, "MAX_SLOTS", 50)
    with pytest.raises(ValueError, match="up to 50 tokens"):
        report_attention(shipped, asked, choice.started.slots(), choice.token_ids, choice.reflections)


@pytest.mark.parametrize("stream", [False, True])
def test_over_http(shipped, stream):
    question = body(
        {"type": "image_url", "image_url": {"url": data_url(encoded_image(size=(168, 168)))}},
        "How many?",
        max_tokens=60,
        max_reasoning_tokens=40,
        look_again={"attention": True},
        stream=stream,
    )
    with running(TransformersBackend(shipped), Limits(grace_s=1)) as server:
        if stream:
            report = [json.loads(line) for line in server.lines(question)[:-1]][-1]["look_again"]["attention"]
        else:
            report = server.post(question).json()["look_again"]["attention"]
        assert "CONCLUSION" in [section["section"] for section in report["sections"]]
        blind = server.post(body("How many?", max_tokens=5, look_again={"attention": True})).json()
        assert blind["look_again"]["attention"] is None
        plain = server.post(body("How many?", max_tokens=5)).json()
        assert "attention" not in plain["look_again"]


def test_what_cannot_be_measured_is_refused():
    with running(FakeBackend()) as server:
        for fields, said in (({}, "--vllm-only"), ({"n": 2}, "one answer")):
            error = server.post(body("x", look_again={"attention": True}, **fields)).json()["error"]
            assert (error["param"], said in error["message"]) == ("look_again.attention", True)
