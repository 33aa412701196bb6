"""What `print()` shows of public objects: one short line that says what they are, never tensors, files or addresses."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from PIL import Image

import look_again
from look_again.core.sequence import Reflection
from look_again.text.grammar import Response

MOST = 420  # characters: all fields of a policy, each by its name
LONG = "a red ball and " * 500
TEXT = f"<SUMMARY>{LONG}</SUMMARY><CAPTION>c</CAPTION><REASONING>r</REASONING><REFLECTION>x</REFLECTION>"


@pytest.fixture(scope="module")
def model() -> Any:
    return look_again.load()


@pytest.fixture(scope="module")
def answer(model) -> Any:
    return model.ask("examples/table.png", "How many balls are there? Answer briefly.")


def shown(value: Any) -> str:
    text = repr(value)
    assert str(value) == text or len(str(value)) < len(text)
    assert len(text) <= MOST, text[:MOST]
    assert "\n" not in text
    assert "tensor(" not in text
    assert not re.search(r" at 0x[0-9a-f]+", text), text
    return text


def test_an_answer_and_its_parts(model, answer):
    assert "LookAgain(Checkpoint('tabletop-tiny'" in shown(model)
    assert f"Answer({answer.answer!r}, " in shown(answer)
    assert shown(answer.parsed).startswith(
        f"Response({len(answer.parsed.sections)} sections, conclusion {answer.answer!r}"
    )
    shown(answer.slots)
    assert "visual tokens re-inserted" in shown(answer.reflections[0])
    shown(model.checkpoint)
    shown(model.trigger)


@pytest.mark.parametrize("name", [name for name in look_again.__all__ if isinstance(getattr(look_again, name), type)])
def test_every_public_class(name, model, answer):
    """With contents as large as people bring."""
    image = Image.new("RGB", (2000, 1000))
    examples = {
        "Answer": answer,
        "LoadOptions": look_again.LoadOptions(),
        "LookAgain": model,
        "LookAgainDecoding": look_again.LookAgainDecoding(model.trigger),
        "Reattention": look_again.Reattention(mode="route", keep=25),
        "Request": look_again.Request([image, b"\x00" * 10_000], LONG, prefix=LONG),
        "Sampling": look_again.Sampling(),
        "Trigger": model.trigger,
        "Video": look_again.Video((image,) * 64, tuple(map(float, range(64))), 1.0),
    }
    assert set(examples) == {n for n in look_again.__all__ if isinstance(getattr(look_again, n), type)}
    assert shown(examples[name]).startswith(name)


def test_what_generate_returns(model):
    inputs = model._batch([model._encode(look_again.Request(["examples/table.png"], "How many?"))])
    decoding = look_again.LookAgainDecoding(model.trigger)
    output = model.checkpoint.model.generate(
        **inputs, custom_generate=decoding, return_dict_in_generate=True, max_new_tokens=8, do_sample=False
    )
    assert shown(output).startswith("LookAgainOutput(")
    assert isinstance(output.sequences, torch.Tensor)


def test_long_texts_are_cut():
    parsed = look_again.parse(f"{TEXT}<CONCLUSION>{LONG}</CONCLUSION>")
    assert isinstance(parsed, Response)
    assert re.search(r"^Response\(5 sections, conclusion 'a red ball and .* …\)$", shown(parsed))
    assert shown(look_again.parse(TEXT)) == "Response(4 sections, conclusion None, problems: missing)"
    assert (
        shown(Reflection("copy", tuple(range(5000)), at=7))
        == "Reflection(copy, at token 7, 5000 visual tokens re-inserted)"
    )
