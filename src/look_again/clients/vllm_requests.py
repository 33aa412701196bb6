"""Requests to vLLM 0.32's token-in/token-out endpoint, `POST /inference/v1/generate`, as JSON: the parts of every one.

Rollouts and serving build their requests from these parts: prompts with one token per image, images at the size that
the model here sees, features in the form in which one vLLM process hands them to another, and sampling parameters that
leave nothing to a generation_config.json on the server's side. The paper serves nothing.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

import torch
from PIL import Image

from look_again.core.families import Grid
from look_again.images import data_url

GENERATE = "/inference/v1/generate"
CHAT = "/v1/chat/completions"
BANNED = -1e9  # added to the logits of tokens that are never sampled; JSON knows no infinity
RAW_BYTES = 3  # vLLM's number for bytes in a message


def check_url(url: str) -> str:
    """The same URL. ValueError for one that is none of HTTP, or holds a user or a password, which end up in logs."""
    _, at, host = url.rpartition("@")
    if at:
        raise ValueError(f"the URL of the vLLM server at {host!r} holds a user or a password: give an API key instead")
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and url.split() == [url]
    except ValueError:  # of a port or brackets
        known = False
    if not known:
        raise ValueError(f"the URL of a vLLM server is http://HOST:PORT, not {url!r}")
    return url


def read_base_url(url: str) -> str:
    """The address of a server without what OpenAI's clients add to it: "http://host:port/v1/" is "http://host:port".

    ValueError as above.
    """
    return check_url(url).rstrip("/").removesuffix("/v1").rstrip("/")


@dataclass(frozen=True)
class SentImage:
    """An image as it is sent. kept: it has the size that the processor here gives it, and the server's leaves it alone.

    Where the processor's bounds leave so little room that it would be scaled again, the image is the caller's own.
    """

    image: Image.Image
    kept: bool = True

    @cached_property
    def uuid(self) -> str:
        """A digest of the pixels: equal images are one to the server, whoever sends them."""
        digest = hashlib.sha256(f"{self.image.width}x{self.image.height}:".encode())
        digest.update(self.image.tobytes())
        return digest.hexdigest()

    @cached_property
    def url(self) -> str:
        """The image itself as a data URL."""
        return data_url(self.image, compress_level=1)


@dataclass(frozen=True)
class GenerateRequest:
    """A streamed request without its sampling parameters. uuids: of images sent without their bytes.

    chat: it goes to the chat endpoint, whose parameters lie among its fields and which makes tokens of texts itself.
    """

    path: str
    body: Mapping[str, Any]
    uuids: frozenset[str] = field(default_factory=frozenset)
    chat: bool = False

    def with_sampling(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The whole body, of an answer that is streamed, whose first part holds the prompt that the server read."""
        options = {"stream": True, "stream_options": {"include_usage": True}, "return_token_ids": True}
        return {**self.body, **options, **(params if self.chat else {"sampling_params": params})}


def scale_images(processor: Any, images: Iterable[Image.Image], grids: Sequence[Sequence[int]]) -> list[SentImage]:
    """Images scaled as the image processor here scales them. grids: in patches, (frames, rows, columns) per image.

    Processors of other libraries scale to other pixels; an image that has its size already they leave alone.
    """
    scaled = []
    for image, (frames, rows, columns) in zip(images, grids, strict=True):
        width, height = columns * processor.patch_size, rows * processor.patch_size
        kept = processor.get_number_of_image_patches(height, width, {}) == frames * rows * columns
        same = image.size == (width, height) or not kept
        scaled.append(SentImage(image if same else image.resize((width, height), processor.resample), kept))
    return scaled


def mention_images(token_ids: Sequence[int], image_token: int, lengths: Iterable[int]) -> list[int]:
    """Token ids with one image token per run of visual tokens, which the server expands. lengths: of the runs."""
    mentioned, place, remaining = list[int](), 0, iter(lengths)
    while place < len(token_ids):
        mentioned.append(token_ids[place])
        place += next(remaining) if token_ids[place] == image_token else 1
    return mentioned


def build_body(token_ids: list[int], images: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A prompt of token ids and its images in order: `{"url": ...}`, also with a uuid."""
    parts = [{"type": "image_url", **image} for image in images]
    return {"token_ids": token_ids} | ({"content_parts": parts} if parts else {})


def build_sampling_params(
    *,
    max_tokens: int,
    temperature: float,
    stops: Iterable[int],
    never_sampled: Iterable[int],
    top_p: float | None = None,
    seed: int | None = None,
) -> dict[str, Any]:
    """vLLM's SamplingParams, all of them given, so that no generation_config.json on its side has a say.

    stops: tokens that end an answer. never_sampled: tokens whose logits are pushed down. Draws are from the whole
    distribution but for top_p.
    """
    return {
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_k": 0,
        "top_p": 1.0 if top_p is None or temperature == 0 else top_p,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "ignore_eos": True,  # what vLLM takes for it; the stop tokens say what ends an answer
        "stop_token_ids": sorted(set(stops)),
        "logit_bias": dict.fromkeys(sorted(never_sampled), BANNED),
        "detokenize": False,
        **({} if seed is None else {"seed": seed}),
    }


def pack_features(features: torch.Tensor, grid: Grid, merge: int) -> str:
    """Features (k, hidden) of a merged grid (frames, rows, columns) as vLLM serialises an item: msgpack in base64.

    merge: patches that the vision tower merges into one visual token, per side.
    """
    assert len(features) == grid[0] * grid[1] * grid[2], "the server would accept features that do not match their grid"
    patches = torch.tensor((grid[0], merge * grid[1], merge * grid[2]))
    return pack_item({"image_embeds": flat_field(features), "image_grid_thw": batched_field(patches, on_cpu=True)})


Field = tuple[torch.Tensor, list[Any]]
"""A tensor of an item, and how vLLM joins it with those of other items."""


def flat_field(tensor: torch.Tensor) -> Field:
    """A tensor (n, ...) whose items are laid one after the other."""
    return tensor, ["flat", {"slices": [[0, len(tensor), None]], "dim": 0, "keep_on_cpu": False}]


def batched_field(tensor: torch.Tensor, *, on_cpu: bool = False) -> Field:
    """A tensor that is an element of a batch of items."""
    return tensor, ["batched", {"keep_on_cpu": on_cpu}]


def shared_field(tensor: torch.Tensor) -> Field:
    """A tensor that is the same for all items."""
    return tensor, ["shared", {"batch_size": 1, "keep_on_cpu": True}]


def pack_item(fields: Mapping[str, Field]) -> str:
    """An image's tensors by name as vLLM serialises an item: msgpack in base64."""
    import msgpack

    item = {name: {"data": _pack_tensor(tensor), "field": kind} for name, (tensor, kind) in fields.items()}
    return base64.b64encode(msgpack.packb(item)).decode()


def _pack_tensor(tensor: torch.Tensor) -> list[Any]:
    import msgpack

    data = tensor.detach().cpu().contiguous()
    raw = data.flatten().view(torch.uint8).numpy().tobytes()
    return [str(data.dtype).removeprefix("torch."), list(data.shape), msgpack.ExtType(RAW_BYTES, raw)]
