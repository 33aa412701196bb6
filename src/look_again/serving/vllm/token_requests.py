"""A sequence as a request to vLLM 0.32's token-in/token-out endpoint, `POST /inference/v1/generate`, and its answer.

Every request is the whole sequence so far: the server's prefix cache holds all of it but the last part-block, and its
encoder cache the images. Images put back whole travel as one more mention of their uuid. Rows that were chosen travel
as features of ours, in the form in which one vLLM process hands them to another, with the grid of a strip, [1, 2, 2k]:
what they stand at and what follows them is what `layout="strip"` says. The paper serves nothing.

Legend: V visual rows of the prompt's images, k rows that were chosen of one image.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from PIL import Image

from look_again.core.families import Grid
from look_again.core.reattention import split_by_image
from look_again.core.sequence import DecodedSequence
from look_again.core.slots import Provenance
from look_again.images import data_url
from look_again.model import Sampling

GENERATE = "/inference/v1/generate"
BANNED = -1e9  # added to the logits of tokens that are never sampled; JSON knows no infinity
RAW_BYTES = 3  # vLLM's number for bytes in a message


@dataclass(frozen=True)
class Picture:
    """An image as it is sent. kept: it has the size that the processor here gives it, and the server's leaves it alone.

    Where the processor's bounds leave so little room that it would be scaled again, the image is the caller's own.
    """

    image: Image.Image
    kept: bool = True

    @cached_property
    def uuid(self) -> str:
        """Of the pixels: equal images are one to the server, whoever sends them."""
        named = hashlib.sha256(f"{self.image.width}x{self.image.height}:".encode())
        named.update(self.image.tobytes())
        return named.hexdigest()

    @cached_property
    def url(self) -> str:
        return data_url(self.image, compress_level=1)


@dataclass(frozen=True)
class Show:
    """A run of visual rows in a sequence. chosen: rows within the image, as a strip; None is all of it in its grid."""

    offset: int
    length: int
    image: int
    chosen: tuple[int, ...] | None


@dataclass(frozen=True)
class Request:
    """A request without its sampling parameters. uuids: of images sent without their bytes.

    chat: it is one of the chat endpoint, whose parameters lie among its fields and which makes tokens of texts itself.
    """

    path: str
    body: Mapping[str, Any]
    uuids: frozenset[str] = field(default_factory=frozenset)
    chat: bool = False

    def with_sampling(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The whole body, of an answer that is streamed, whose first part says what the server read."""
        asked = {"stream": True, "stream_options": {"include_usage": True}, "return_token_ids": True}
        return {**self.body, **asked, **(params if self.chat else {"sampling_params": params})}


def images_of(processor: Any, images: Sequence[Image.Image], pixels: Mapping[str, torch.Tensor]) -> list[Picture]:
    """Images scaled as the processor scaled them to make `pixels` of them."""
    pictures = []
    for image, grid in zip(images, pixels["image_grid_thw"].tolist() if images else (), strict=True):
        size = (grid[2] * processor.patch_size, grid[1] * processor.patch_size)
        kept = processor.get_number_of_image_patches(size[1], size[0], {}) == grid[0] * grid[1] * grid[2]
        same = image.size == size or not kept
        pictures.append(Picture(image if same else image.resize(size, processor.resample), kept))
    return pictures


def shows_of(row: DecodedSequence) -> list[Show]:
    """The runs of visual rows in a row's sequence, in order: the prompt's images, then what was put back."""
    wanted: list[tuple[int, int, tuple[int, ...] | None]] = [(i, s.count, None) for i, s in enumerate(row.spans)]
    for reflection in row.reflections:
        for image, (span, rows) in enumerate(split_by_image(reflection.rows, row.shown)):
            whole = len(rows) == span.count and row.policy.layout == "grid"
            wanted += [(image, len(rows), None if whole else tuple(rows))] if rows else []
    shows, place = list[Show](), 0
    for image, length, chosen in wanted:
        offset = row.builder.token_ids.index(row.builder.tokens.image, place)
        shows.append(Show(offset, length, image, chosen))
        place = offset + length
    return shows


def by_uuid(row: DecodedSequence, pictures: Sequence[Picture], known: Collection[str]) -> Request:
    """With one image token per image, which the server expands. `known`: uuids whose bytes need not travel."""
    ids, place, parts = list[int](), 0, list[dict[str, Any]]()
    for show in shows_of(row):
        picture = pictures[show.image]
        ids += row.builder.token_ids[place : show.offset + 1]
        place = show.offset + show.length
        url = None if picture.uuid in known else picture.url
        parts.append({"type": "image_url", "url": url, "uuid": picture.uuid})
    ids += row.builder.token_ids[place:]
    body = {"token_ids": ids} | ({"content_parts": parts} if parts else {})
    return Request(GENERATE, body, frozenset(part["uuid"] for part in parts if not part["url"]))


def by_features(row: DecodedSequence, pictures: Sequence[Picture], table: torch.Tensor, merge: int) -> Request:
    """With features (V, hidden) of ours for every run of visual rows: nothing here can be unknown to the server.

    The prompt's images keep their uuids, so caches that hold them serve them. merge: patches that the vision tower
    merges into a row, per side.
    """
    shows = shows_of(row)
    names, data = [], []
    for show in shows:
        span, picture = row.spans[show.image], pictures[show.image]
        rows = table[span.first : span.first + span.count]
        if show.chosen is None:
            names.append(picture.uuid)
            data.append(features_item(rows, span.grid, merge))
        else:
            names.append(hashlib.sha256(f"{picture.uuid}:{show.chosen}".encode()).hexdigest())
            data.append(features_item(rows[list(show.chosen)], (1, 1, show.length), merge))
    features = {
        "mm_hashes": {"image": names},
        "mm_placeholders": {"image": [{"offset": show.offset, "length": show.length} for show in shows]},
        "kwargs_data": {"image": data},
    }
    return Request(GENERATE, {"token_ids": list(row.builder.token_ids), "features": features})


def features_item(rows: torch.Tensor, grid: Grid, merge: int) -> str:
    """Rows (k, hidden) of a merged grid (frames, rows, columns) as vLLM serialises an item: msgpack in base64."""
    import msgpack

    assert len(rows) == grid[0] * grid[1] * grid[2], "the server would accept rows that do not match their grid"
    patches = torch.tensor((grid[0], merge * grid[1], merge * grid[2]))
    fields = {
        "image_embeds": (rows, ["flat", {"slices": [[0, len(rows), None]], "dim": 0, "keep_on_cpu": False}]),
        "image_grid_thw": (patches, ["batched", {"keep_on_cpu": True}]),
    }
    item = {name: {"data": _tensor(tensor), "field": kind} for name, (tensor, kind) in fields.items()}
    return base64.b64encode(msgpack.packb(item)).decode()


def _tensor(tensor: torch.Tensor) -> list[Any]:
    import msgpack

    data = tensor.detach().cpu().contiguous()
    raw = data.flatten().view(torch.uint8).numpy().tobytes()
    return [str(data.dtype).removeprefix("torch."), list(data.shape), msgpack.ExtType(RAW_BYTES, raw)]


def sampling_params(
    sampling: Sampling, leg: int, max_tokens: int, stops: Collection[int], never: Collection[int]
) -> dict[str, Any]:
    """Everything said, so that no generation_config.json on the server's side has a say.

    A seeded answer's requests draw from seeds of their own: with one seed for all, every request would begin with the
    same random numbers.
    """
    seed = None if sampling.seed is None else leg_seed(sampling.seed, leg)
    return {
        "max_tokens": max_tokens,
        "temperature": sampling.temperature,
        "top_k": 0,
        "top_p": 1.0 if sampling.top_p is None or sampling.temperature == 0 else sampling.top_p,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "ignore_eos": True,  # what vLLM takes for it; the stop tokens say what ends an answer
        "stop_token_ids": sorted(stops),
        "logit_bias": {str(token): BANNED for token in sorted(never)},
        "detokenize": False,
        **({} if seed is None else {"seed": seed}),
    }


def leg_seed(seed: int, leg: int) -> int:
    """The seed of an answer's request number `leg`, 0 to 2**63 - 1."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{leg}".encode()).digest()[:8]) >> 1


def same_prompt(request: Request, read: Sequence[int], row: DecodedSequence) -> bool:
    """Whether a server read what a row holds. A chat endpoint makes tokens of the answer so far anew, perhaps others:
    then the prompt has to be the same, and the number of visual rows."""
    ids, image = row.builder.token_ids, row.builder.tokens.image
    prompt = sum(provenance == Provenance.PROMPT for provenance in row.builder.provenance)
    if request.chat and len(ids) > prompt:
        return list(read[:prompt]) == ids[:prompt] and list(read).count(image) == ids.count(image)
    return list(read) == ids


def tokens_of(chunk: dict[str, Any]) -> list[int]:
    """The tokens that one chunk of a stream brings."""
    return [token for choice in chunk.get("choices") or [] for token in choice.get("token_ids") or []]


def cached_tokens_of(chunk: dict[str, Any], known: int | None) -> int | None:
    """How many tokens of the prompt were computed before, as the last chunk says; `known` where this one does not."""
    details = (chunk.get("usage") or {}).get("prompt_tokens_details") or {}
    return details.get("cached_tokens", known)


def goes_on(chunk: dict[str, Any]) -> bool:
    """Whether the server means to sample more."""
    return any(choice.get("finish_reason") is None for choice in chunk.get("choices") or [])
