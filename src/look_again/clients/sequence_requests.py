"""A decoded sequence as a prompt for vLLM: where its images stand, and seeds of the requests that continue it.

Serving and rollouts send the same sequences; what is special to either is at its place. The paper serves nothing.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from look_again.core.reattention import split_by_image
from look_again.core.sequence import DecodedSequence


@dataclass(frozen=True)
class ImageRun:
    """A run of visual tokens in a sequence.

    chosen: indices within the image, as a strip; None is all of it in its grid.
    """

    offset: int
    length: int
    image: int
    chosen: tuple[int, ...] | None


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
        offset = sequence.builder.token_ids.index(sequence.builder.tokens.image, place)
        runs.append(ImageRun(offset, length, image, indices))
        place = offset + length
    return runs


def derive_seed(seed: int, number: int) -> int:
    """The seed of an answer's request `number`, 0 to 2**63 - 1."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{number}".encode()).digest()[:8]) >> 1
