"""A decoded sequence as a prompt for vLLM: where its images stand, features in their place, and seeds of its requests.

Serving and rollouts send the same sequences; what is special to either is at its place. The paper serves nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from look_again.clients.vllm_requests import GENERATE, GenerateRequest, SentImage, pack_features
from look_again.core.reattention import split_by_image
from look_again.core.sequence import DecodedSequence
from look_again.core.slots import SlotBuilder

STRIP_FAMILIES = frozenset({"qwen2_5_vl"})
"""Families whose chosen visual tokens a real vLLM was shown as a strip, and answered as the decoding loop does."""


@dataclass(frozen=True)
class ImageRun:
    """A run of visual tokens in a sequence.

    chosen: indices within the image, as a strip; None is all of it in its grid. first: the run's first visual token
    within the image, where headers or breaks cut that into several runs.
    """

    offset: int
    length: int
    image: int
    chosen: tuple[int, ...] | None
    first: int = 0


def find_image_runs(sequence: DecodedSequence) -> list[ImageRun]:
    """The runs of visual tokens in a sequence, in order: the prompt's images, then what was put back."""
    expected: list[tuple[int, int, tuple[int, ...] | None]] = [
        (index, span.count, None) for index, span in enumerate(sequence.spans)
    ]
    for reflection in sequence.reflections:
        for image, (span, chosen) in enumerate(split_by_image(reflection.visual_indices, sequence.shown)):
            whole = len(chosen) == span.count and sequence.policy.layout == "grid"
            expected += [(image, len(chosen), None if whole else tuple(chosen))] if chosen else []
    runs, place = list[ImageRun](), 0
    for image, length, indices in expected:
        first = 0
        while first < length:
            offset, stop = _find_run(sequence.builder, place, length - first)
            runs.append(ImageRun(offset, stop - offset, image, indices, first))
            first, place = first + stop - offset, stop
    return runs


def _find_run(builder: SlotBuilder, place: int, most: int) -> tuple[int, int]:
    """The next run of at most so many image tokens from a place on: its first slot, and the one after its last."""
    ids, image = builder.token_ids, builder.tokens.image
    offset = stop = ids.index(image, place)
    while stop < min(len(ids), offset + most) and ids[stop] == image:
        stop += 1
    return offset, stop


def derive_seed(seed: int, number: int) -> int:
    """The seed of an answer's request `number`, 0 to 2**63 - 1."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{number}".encode()).digest()[:8]) >> 1


def build_feature_request(
    sequence: DecodedSequence, images: Sequence[SentImage], table: torch.Tensor, merge: int
) -> GenerateRequest:
    """With features (V, hidden) of ours for every run of visual tokens: nothing here can be unknown to the server.

    The prompt's images keep their uuids, so caches that hold them serve them. merge: as `pack_features` takes it.
    """
    runs = find_image_runs(sequence)
    names, data = [], []
    for run in runs:
        span, image = sequence.spans[run.image], images[run.image]
        features = table[span.first : span.first + span.count]
        if run.chosen is None:
            names.append(image.uuid)
            data.append(pack_features(features, span.grid, merge))
        else:
            names.append(hashlib.sha256(f"{image.uuid}:{run.chosen}".encode()).hexdigest())
            data.append(pack_features(features[list(run.chosen)], (1, 1, run.length), merge))
    return build_item_request(sequence, runs, names, data)


def build_item_request(
    sequence: DecodedSequence, runs: Sequence[ImageRun], names: Sequence[str], data: Sequence[str]
) -> GenerateRequest:
    """Token ids as they are, with a packed item for each run."""
    items = {
        "mm_hashes": {"image": list(names)},
        "mm_placeholders": {"image": [{"offset": run.offset, "length": run.length} for run in runs]},
        "kwargs_data": {"image": list(data)},
    }
    shown = {"features": items} if runs else {}
    return GenerateRequest(GENERATE, {"token_ids": list(sequence.builder.token_ids), **shown})
