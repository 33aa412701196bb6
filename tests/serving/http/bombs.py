"""Small requests that would cause much work: bodies, texts, images and schemas, each with the path that it is sent to.

Used by the tests of bounds, by the fuzz and by the test of a whole server under them.
"""

from __future__ import annotations

import base64
import io
import json
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

CHAT, RESPONSES, TOKENIZE = "/v1/chat/completions", "/v1/responses", "/tokenize"
LIMIT_PIXELS = 50_000_000  # of a request's images, by default


@dataclass(frozen=True)
class Bomb:
    """build: its body, for a model of that name. small: below a megabyte, for tests that send many."""

    build: Callable[[str], bytes]
    path: str = CHAT
    small: bool = field(default=False, kw_only=True)


def ask(*content: Any, **fields: Any) -> Callable[[str], bytes]:
    """A body of one user's turn: a text, or parts; callables are called when it is built."""

    def build(model: str) -> bytes:
        parts = [part() if callable(part) else part for part in content]
        message = {"role": "user", "content": parts[0] if isinstance(parts[0], str) else parts}
        values = {name: value() if callable(value) else value for name, value in fields.items()}
        body = {"model": model, "messages": [message], "max_tokens": 4} | values
        return json.dumps({name: value for name, value in body.items() if value is not None}).encode()

    return build


def show(data: Callable[[], bytes], count: int = 1, **fields: Any) -> Callable[[str], bytes]:
    """A body with an image, `count` times, and a question."""

    def build(model: str) -> bytes:
        url = f"data:image/png;base64,{base64.b64encode(data()).decode()}"
        parts = [{"type": "image_url", "image_url": {"url": url}}] * count
        return ask(*parts, {"type": "text", "text": "What is shown?"}, **fields)(model)

    return build


def splice(inner: Callable[[], bytes], key: str = "messages") -> Callable[[str], bytes]:
    """A body with raw bytes as one value."""

    def build(model: str) -> bytes:
        head = json.dumps({"model": model, "max_tokens": 4})[:-1]
        return f'{head}, "{key}": '.encode() + inner() + b"}"

    return build


def nest(pair: bytes, count: int) -> bytes:
    return b"[" + b",".join([pair] * count) + b"]"


def jpeg_of_scans(scans: int, width: int, height: int) -> bytes:
    """A progressive JPEG with many further scans, without data: each is decoded over the whole image."""
    buffer = io.BytesIO()
    Image.effect_noise((width, height), 20).convert("RGB").save(buffer, "JPEG", progressive=True, quality=10)
    data = buffer.getvalue()
    last = data.rfind(b"\xff\xda")
    header = data[last : last + 2 + int.from_bytes(data[last + 2 : last + 4])]
    return data[:-2] + header * scans + b"\xff\xd9"


def moving(format: str, frames: int, side: int) -> bytes:
    first, *rest = (Image.new("RGB", (side, side), (number % 256, number // 256, 0)) for number in range(frames))
    return encode(first, format, save_all=True, append_images=rest)


def encode(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def flat(pixels: int, format: str = "PNG", mode: str = "RGB", **options: Any) -> bytes:
    """A square image of one colour, which takes few bytes."""
    side = int(pixels**0.5)
    return encode(Image.new(mode, (side, side)), format, **options)


def long_texts_in_png(count: int) -> bytes:
    """A PNG whose compressed texts unfold to a megabyte each."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    whole = flat(3600)
    text = chunk(b"zTXt", b"a\0\0" + zlib.compress(b"x" * 1_000_000))
    return whole[:33] + text * count + whole[33:]


def schema(value: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": value}}


def properties(count: int) -> dict[str, Any]:
    names = {f"p{number}": {"type": "string", "pattern": "^(a|b){1,40}$"} for number in range(count)}
    return {"type": "object", "properties": names, "required": list(names)}


def references(levels: int) -> dict[str, Any]:
    """Every definition mentions the next one ten times."""
    definitions: dict[str, Any] = {f"d{levels}": {"type": "string"}}
    for level in range(levels):
        inner = {"$ref": f"#/$defs/d{level + 1}"}
        definitions[f"d{level}"] = {"type": "array", "prefixItems": [inner] * 10}
    return {"$defs": definitions, "$ref": "#/$defs/d0"}


def joined_patterns(lengths: int) -> dict[str, Any]:
    """Patterns that a text has to fit all at once; whether any does takes twice as long for each length more."""
    parts = [(letter, length) for length in range(3, 3 + lengths) for letter in "ab"]
    return {"allOf": [{"type": "string", "pattern": f"^(a|b)*{letter}(a|b){{{n}}}$"} for letter, n in parts]}


def tool(parameters: Any) -> list[dict[str, Any]]:
    return [{"type": "function", "function": {"name": "f", "parameters": parameters}}]


def earlier_call(arguments: str) -> list[dict[str, Any]]:
    """A conversation in which a function was called."""
    call = {"id": "x", "type": "function", "function": {"name": "f", "arguments": arguments}}
    user = {"role": "user", "content": "a"}
    return [user, {"role": "assistant", "tool_calls": [call]}, user]


def turns(count: int) -> Sequence[dict[str, str]]:
    return [{"role": "user" if number % 2 == 0 else "assistant", "content": "a"} for number in range(count)]


def respond(value: Any) -> Callable[[str], bytes]:
    return lambda model: json.dumps({"model": model, "input": value(), "max_output_tokens": 4}).encode()


LETTERS = "the quick brown fox "
BOMBS: dict[str, Bomb] = {
    "nested lists, 23 MB": Bomb(splice(lambda: nest(b"[]", 7_500_000))),
    "nested objects, 23 MB": Bomb(splice(lambda: nest(b"{}", 7_500_000))),
    "numbers, 30 MB": Bomb(splice(lambda: nest(b"1", 15_000_000))),
    "20 million levels": Bomb(splice(lambda: b"[" * 20_000_000)),
    "levels as deep as values are allowed": Bomb(splice(lambda: b"[" * 19_000 + b"]" * 19_000), small=True),
    "as many values as are allowed": Bomb(splice(lambda: nest(b'{"role": "user", "content": "a"}', 6_000)), small=True),
    "names of fields, 20 MB": Bomb(
        splice(lambda: b"{" + b",".join(b'"%d":1' % n for n in range(1_600_000)) + b"}", "metadata")
    ),
    "brackets in a text": Bomb(ask("[{" * 400_000), small=True),
    "brackets and a text of 60 MB": Bomb(
        splice(lambda: b'["' + b"[" * 25_000 + b'",' + nest(b"[]", 21_000) + b',"' + b"x" * 60_000_000 + b'"]')
    ),
    "escapes in a text": Bomb(splice(lambda: b'[{"role": "user", "content": "' + b"\\u005b" * 160_000 + b'"}]')),
    "escapes, 60 MB": Bomb(splice(lambda: b'"' + b"\\u00e9" * 10_000_000 + b'"', "user")),
    "short escapes, 60 MB": Bomb(splice(lambda: b'"' + b"\\n" * 30_000_000 + b'"', "user")),
    "surrogates, 60 MB": Bomb(splice(lambda: b'"' + b"\\ud83d\\ude00" * 5_000_000 + b'"', "user")),
    "a number of a million digits": Bomb(splice(lambda: b"9" * 1_000_000, "seed"), small=True),
    "a text of a million characters": Bomb(ask(LETTERS * 49_900), small=True),
    "a million spaces": Bomb(ask(" " * 1_000_000), small=True),
    "a million letters without a space": Bomb(ask("a" * 1_000_000), small=True),
    "a million combining accents": Bomb(ask("e" + "\u0301" * 999_000)),
    "a text just below the context": Bomb(ask("a" * 40_000), small=True),
    "special tokens, a million characters": Bomb(ask("<|image_pad|>" * 76_000), small=True),
    "unfinished tags": Bomb(ask("<REFLECTION" * 90_000), small=True),
    "six thousand turns": Bomb(ask("a", messages=lambda: turns(5_999)), small=True),
    "a JPEG of 700 scans": Bomb(show(lambda: jpeg_of_scans(700, 1500, 1500)), small=True),
    "a JPEG of as many scans as are allowed": Bomb(show(lambda: jpeg_of_scans(85, 2500, 2500)), small=True),
    "a JPEG of 50 megapixels, progressive": Bomb(show(lambda: flat(LIMIT_PIXELS, "JPEG", progressive=True))),
    "a GIF of 300 frames": Bomb(show(lambda: moving("GIF", 300, 1000))),
    "a WebP of 300 frames": Bomb(show(lambda: moving("WEBP", 300, 500))),
    "a PNG of 300 frames": Bomb(show(lambda: moving("PNG", 300, 500))),
    "a PNG of 50 megapixels": Bomb(show(lambda: flat(LIMIT_PIXELS))),
    "a PNG of 50 megapixels, transparent": Bomb(show(lambda: flat(LIMIT_PIXELS, mode="RGBA"))),
    "a PNG of 50 megapixels, 16 bits": Bomb(show(lambda: flat(LIMIT_PIXELS, mode="I;16"))),
    "a WebP of 50 megapixels": Bomb(show(lambda: flat(LIMIT_PIXELS, "WEBP"))),
    "a PNG of 50 megapixels, eight times": Bomb(show(lambda: flat(LIMIT_PIXELS), 8)),
    "eight PNGs of 50 megapixels together": Bomb(show(lambda: flat(LIMIT_PIXELS // 8), 8)),
    "sixteen PNGs of 50 megapixels together": Bomb(show(lambda: flat(LIMIT_PIXELS // 16), 16)),
    "n: 8 with a PNG of 50 megapixels": Bomb(show(lambda: flat(LIMIT_PIXELS), n=8, temperature=1.0)),
    "texts in a PNG that unfold to 500 MB": Bomb(show(lambda: long_texts_in_png(500)), small=True),
    "a schema of patterns": Bomb(ask("a", response_format=lambda: schema(properties(60))), small=True),
    "a schema as long as is allowed": Bomb(ask("a", response_format=lambda: schema(properties(700))), small=True),
    "a schema of references to references": Bomb(ask("a", response_format=lambda: schema(references(9))), small=True),
    "a pattern of a million letters": Bomb(
        ask("a", response_format=schema({"type": "string", "pattern": "^((a{1,1000}){1,1000}){1,1000}$"})), small=True
    ),
    "an array of a million items": Bomb(
        ask("a", response_format=schema({"type": "array", "minItems": 10**6, "items": {"type": "integer"}})), small=True
    ),
    "a choice of hundreds": Bomb(
        ask("a", response_format=lambda: schema({"enum": [f"word {n}" for n in range(250)]})), small=True
    ),
    "a schema of joined patterns": Bomb(ask("a", response_format=lambda: schema(joined_patterns(20))), small=True),
    "joined patterns of a tool": Bomb(
        ask("a", tools=lambda: tool(joined_patterns(20)), tool_choice="required"), small=True
    ),
    "deep arguments of an earlier call": Bomb(ask("a", messages=lambda: earlier_call("[" * 100_000)), small=True),
    "deep arguments that are closed": Bomb(
        ask("a", messages=lambda: earlier_call("[" * 3_000 + "]" * 3_000)), small=True
    ),
    "a text for /tokenize": Bomb(
        lambda model: json.dumps({"model": model, "prompt": "a" * 200_000}).encode(), TOKENIZE, small=True
    ),
    "an image for /tokenize": Bomb(show(lambda: flat(LIMIT_PIXELS), max_tokens=None), TOKENIZE),
    "a text for /v1/responses": Bomb(respond(lambda: LETTERS * 49_900), RESPONSES, small=True),
    "items for /v1/responses": Bomb(respond(lambda: turns(6_000)), RESPONSES, small=True),
    "wrong parts for /v1/responses": Bomb(
        respond(lambda: [{"role": "user", "content": [1] * 6_000}] * 3), RESPONSES, small=True
    ),
    "unknown fields for /v1/responses": Bomb(
        respond(lambda: [{f"k{n}": 1 for n in range(18)}] * 1_000), RESPONSES, small=True
    ),
    "nested lists for /v1/responses": Bomb(splice(lambda: nest(b"[]", 7_500_000), "input"), RESPONSES),
}
