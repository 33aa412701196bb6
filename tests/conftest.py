"""Fixtures that the tests share; their helpers are in `tests.tiny_model`."""

from __future__ import annotations

import io
import json
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test reaches for a hub
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # each worker has a core, and so have the programs that it starts

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from look_again.core.trigger import Trigger
from look_again.tabletop.tiny import build_image_processor, build_model, build_tokenizer
from look_again.training.batches import Codec
from tests.tiny_model import LARGE, SMALL, TINIER, WEIGHT_SCALE, Prompt, make_prompt


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return build_tokenizer(TINIER.vocabulary)


@pytest.fixture(scope="session")
def model(tokenizer: Any) -> Any:
    model = build_model(tokenizer, TINIER).eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.mul_(WEIGHT_SCALE)
    return model


@pytest.fixture(scope="session")
def trigger(tokenizer: Any) -> Trigger:
    return Trigger.of(tokenizer)


@pytest.fixture(scope="session")
def prompts(tokenizer: Any) -> list[Prompt]:
    """Four prompts of different lengths, with one or two pictures of two sizes."""
    return [
        make_prompt(tokenizer, "Where is the box?", [SMALL], seed=1),
        make_prompt(tokenizer, "Which of the two pictures shows more of them, and why?", [SMALL, LARGE], seed=2),
        make_prompt(tokenizer, "Count.", [LARGE], seed=4),
        make_prompt(tokenizer, "Are both the same colour?", [LARGE, SMALL], seed=5),
    ]


@pytest.fixture
def encoded() -> Callable[..., bytes]:
    """A picture of (width, height) as a file's bytes; `orientation` goes into its EXIF."""

    def encode(width: int = 40, height: int = 20, format: str = "PNG", orientation: int | None = None) -> bytes:
        options: dict[str, Any] = {}
        if orientation is not None:
            options["exif"] = Image.Exif()
            options["exif"][0x0112] = orientation
        file = io.BytesIO()
        Image.effect_noise((width, height), 50).convert("RGB").save(file, format, **options)
        return file.getvalue()

    return encode


@pytest.fixture
def write_lines() -> Callable[..., Path]:
    """Write records as JSON lines; a str is written as it is."""

    def write(path: Path, *records: Any) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return path

    return write


@pytest.fixture
def response() -> str:
    return (
        "<SUMMARY>s</SUMMARY><CAPTION>c</CAPTION><REASONING>r</REASONING>"
        "<REFLECTION></REFLECTION><CONCLUSION>4</CONCLUSION>"
    )


@pytest.fixture(scope="session")
def codec(model: Any, tokenizer: Any) -> Codec:
    """What turns samples into items for the tiny model."""
    return Codec.of(model.config, tokenizer, build_image_processor())
