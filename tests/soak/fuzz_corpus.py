"""Bad requests from a seed: valid bodies with something wrong in them, bytes that are none, bad images, and bombs.

Bodies are those of chat completions and of the Responses API.
"""

from __future__ import annotations

import base64
import copy
import io
import json
import random
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from tests.serving.http.bombs import BOMBS, CHAT, RESPONSES

NASTY: list[Any] = [
    *(None, True, False, 0, -1, 1, 1.5, 10**18, 10**400, -(2**63), 2**31, 1e308, [], {}, [[]], [None], {"a": {}}),
    *("", " ", "x", "\x00", "\ufeff", "\u202e", "é" * 500, "<|im_end|>", "<REFLECTION>", "<|image_pad|>" * 50),
    *(
        "{{7*7}}",
        "'; DROP TABLE x;--",
        "../../etc/passwd",
        "http://127.0.0.1/",
        "file:///etc/passwd",
        "%s%n",
        "A" * 70_000,
    ),
    *("data:", "data:image/png;base64,", "data:image/png;base64,AAAA", "data:image/svg+xml;base64,PHN2Zy8+"),
]
TOP_FIELDS = (
    *("max_tokens", "n", "stop", "seed", "temperature", "top_p", "stream", "stream_options", "look_again", "user"),
    *("tools", "logprobs", "response_format", "logit_bias", "frequency_penalty", "metadata", "audio", "modalities"),
    *("top_logprobs", "top_k", "min_p", "repetition_penalty", "presence_penalty", "min_tokens", "ignore_eos"),
    *("max_reasoning_tokens", "reasoning_effort", "tool_choice", "parallel_tool_calls", "return_token_ids"),
)
RESPONSE_FIELDS = (
    *("instructions", "text", "reasoning", "tools", "tool_choice", "include", "store", "previous_response_id", "seed"),
    *("max_output_tokens", "temperature", "top_p", "stream", "look_again", "background", "truncation", "conversation"),
)
BOMB_EVERY = 20  # requests


@dataclass
class Sent:
    """One request. kind: for the count."""

    kind: str
    content: bytes
    headers: dict[str, str] = field(default_factory=lambda: {"content-type": "application/json"})
    path: str = CHAT


def data_url(data: bytes, media: str = "image/png") -> str:
    return f"data:{media};base64,{base64.b64encode(data).decode()}"


def image(format: str = "PNG", size: tuple[int, int] = (60, 40), mode: str = "RGB", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.radial_gradient("L").resize(size).convert(mode).save(buffer, format, **options)
    return buffer.getvalue()


def valid_body(model: str, url: str | None = None) -> dict[str, Any]:
    """A request that is answered: two turns, an image in each."""
    picture = {"type": "image_url", "image_url": {"url": url or data_url(image()), "detail": "auto"}}
    return {
        "model": model,
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [picture, {"type": "text", "text": "How many cubes are there?"}]},
            {"role": "assistant", "content": "One."},
            {"role": "user", "content": [{"type": "text", "text": "And here?"}, copy.deepcopy(picture)]},
        ],
        "max_tokens": 4,
        "temperature": 0,
        "look_again": {"reattention": "route", "keep": 25},
    }


def valid_response_body(model: str) -> dict[str, Any]:
    """The like for the Responses API: a message with an image, a reasoning item, a call and its output."""
    shown = [{"type": "input_image", "image_url": data_url(image())}, {"type": "input_text", "text": "How many?"}]
    return {
        "model": model,
        "instructions": "Be brief.",
        "input": [
            {"role": "user", "content": shown},
            {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "One."}]},
            {"type": "function_call", "call_id": "call_1", "name": "measure", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "call_1", "output": "7 cm"},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Seven."}]},
            {"role": "user", "content": "And here?"},
        ],
        "tools": [{"type": "function", "name": "measure", "parameters": {"type": "object", "properties": {}}}],
        "max_output_tokens": 4,
        "temperature": 0,
        "reasoning": {"effort": "low"},
        "text": {"format": {"type": "text"}},
    }


def corpus(model: str, seed: int, count: int) -> Iterator[Sent]:
    """`count` requests, the kinds in turn, and all small bombs one after the other."""
    draw = random.Random(seed)
    kinds: list[Callable[[str, random.Random], Sent]] = [
        *(changed_field, changed_response, bad_image, broken_bytes),
        *(changed_field, changed_response, bad_image_response, broken_bytes),
    ]
    bombs = [(name, bomb) for name, bomb in BOMBS.items() if bomb.small]
    for index in range(count):
        number, rest = divmod(index, BOMB_EVERY)
        if rest == BOMB_EVERY - 1:
            _, bomb = bombs[number % len(bombs)]
            yield Sent("bomb", bomb.build(model), path=bomb.path)
        else:
            yield kinds[index % len(kinds)](model, draw)


def changed_field(model: str, draw: random.Random) -> Sent:
    """A valid body in which one to three values are replaced, removed or added."""
    body = valid_body(model, draw.choice([None, data_url(image("JPEG"), "image/jpeg")]))
    return Sent("changed field", json.dumps(_changed(body, draw, TOP_FIELDS)).encode())


def changed_response(model: str, draw: random.Random) -> Sent:
    """The like of a body of the Responses API."""
    body = _changed(valid_response_body(model), draw, RESPONSE_FIELDS)
    return Sent("changed response", json.dumps(body).encode(), path=RESPONSES)


def _changed(body: dict[str, Any], draw: random.Random, names: Sequence[str]) -> dict[str, Any]:
    for _ in range(draw.randint(1, 3)):
        holder = draw.choice(list(_holders(body)))
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        action = draw.random()
        if action < 0.2 and isinstance(holder, dict):
            holder[draw.choice([*names, "x", "", "\ud800", "a" * 3000])] = draw.choice(NASTY)
        elif action < 0.35 and keys:
            del holder[draw.choice(keys)]
        elif keys:
            holder[draw.choice(keys)] = copy.deepcopy(draw.choice(NASTY))
    return body


def _holders(value: Any) -> Iterator[Any]:
    """Every object and array in a body."""
    if isinstance(value, dict | list):
        yield value
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _holders(inner)


def bad_image(model: str, draw: random.Random) -> Sent:
    """A valid body around an image that is damaged, odd or none."""
    return Sent("bad image", json.dumps(valid_body(model, _bad_url(draw))).encode())


def bad_image_response(model: str, draw: random.Random) -> Sent:
    """The like for the Responses API."""
    body = valid_response_body(model)
    body["input"][0]["content"][0]["image_url"] = _bad_url(draw)
    return Sent("bad image, response", json.dumps(body).encode(), path=RESPONSES)


def _bad_url(draw: random.Random) -> str:
    data = draw.choice([_cut, _flipped, _odd, _none])(draw)
    return data_url(data, draw.choice(["image/png", "image/jpeg", "image/webp", "image/x-nothing"]))


def _whole(draw: random.Random) -> bytes:
    return image(draw.choice(["PNG", "JPEG", "WEBP", "GIF"]), (draw.randint(1, 90), draw.randint(1, 90)))


def _cut(draw: random.Random) -> bytes:
    data = _whole(draw)
    return data[: draw.randrange(len(data))]


def _flipped(draw: random.Random) -> bytes:
    data = bytearray(_whole(draw))
    for _ in range(draw.randint(1, 20)):
        data[draw.randrange(len(data))] = draw.randrange(256)
    return bytes(data)


def _none(draw: random.Random) -> bytes:
    beginning = draw.choice(
        [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"RIFF\x10\x00\x00\x00WEBP", b"GIF89a", b"%PDF"]
    )
    return beginning + draw.randbytes(draw.randint(0, 300))


def _odd(draw: random.Random) -> bytes:
    """Files that are what they say, but not what one expects."""
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    buffer = io.BytesIO()
    frames[0].save(buffer, draw.choice(["GIF", "WEBP", "PNG"]), save_all=True, append_images=frames[1:])
    return draw.choice(
        [
            buffer.getvalue(),
            image(size=(1, 1)),
            image(size=(900, 1)),
            image(size=(190, 1)),
            image(mode="1"),
            image(mode="L"),
            image(mode="P"),
            image(mode="RGBA"),
            image(mode="I;16"),
            image("JPEG", mode="CMYK"),
            image("TIFF"),
            image("BMP"),
            bomb(30_000, 30_000),
            bomb(2**31 - 1, 2**31 - 1),
            bomb(50_000, 1000),
        ]
    )


def bomb(width: int, height: int) -> bytes:
    """A small PNG that claims to be large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 100_000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def broken_bytes(model: str, draw: random.Random) -> Sent:
    """A valid body's bytes with something done to them, or to the headers."""
    whole = json.dumps(valid_body(model)).encode()
    place = draw.randrange(len(whole))
    flipped = bytearray(whole)
    for _ in range(draw.randint(1, 5)):
        flipped[draw.randrange(len(flipped))] = draw.randrange(256)
    name = json.dumps(model).encode()
    content = draw.choice(
        [
            b"",
            whole[:place],
            bytes(flipped),
            whole + whole,
            draw.randbytes(200),
            whole.replace(b'"max_tokens": 4', b'"max_tokens": NaN'),
            whole.replace(b'"temperature": 0', b'"temperature": -Infinity'),
            whole.replace(b'"temperature": 0', b'"temperature": 1e999'),
            whole.replace(b'"max_tokens": 4', b'"max_tokens": ' + b"9" * 5000),
            whole.replace(b"Be brief.", rb"\ud800"),
            whole.replace(b"Be brief.", b"\xed\xa0\x80"),
            whole.decode().encode("utf-16"),
            b'{"model": ' + name + b', "messages": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
            b'{"a":' * 50_000,
            zlib.compress(whole),
        ]
    )
    headers = {"content-type": "application/json"}
    if draw.random() < 0.2:
        headers = draw.choice(
            [
                {},
                {"content-type": "text/plain"},
                {"content-type": "multipart/form-data"},
                {"content-type": "application/json", "content-encoding": "gzip"},
                {"content-type": "application/json; charset=utf-16"},
                {"content-type": "x" * 3000},
            ]
        )
    return Sent("broken bytes", content, headers)
