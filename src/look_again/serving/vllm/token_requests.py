"""A decoded sequence as requests to vLLM's token-in/token-out endpoint (`clients.vllm_requests`).

Every request is the whole sequence so far: the server's prefix cache holds all of it but the last part-block, and its
encoder cache the images. Images put back whole travel as one more mention of their uuid. Visual tokens that were chosen
travel as features of ours, with the grid of a strip, [1, 2, 2k]: where they stand and what follows them is as with
`layout="strip"`. The paper serves nothing.

Legend: V visual tokens of the prompt's images, k of them that were chosen of one image.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from look_again.clients.sequence_requests import build_item_request, derive_seed, find_image_runs
from look_again.clients.vllm_requests import (
    GENERATE,
    GenerateRequest,
    SentImage,
    build_body,
    build_sampling_params,
    mention_images,
)
from look_again.core.sequence import DecodedSequence
from look_again.core.slots import Provenance
from look_again.serving.backend import Job
from look_again.serving.vllm.family_protocols import PackedImages


def build_uuid_request(
    sequence: DecodedSequence, images: Sequence[SentImage], known: Collection[str]
) -> GenerateRequest:
    """With one image token per image, which the server expands. `known`: uuids whose bytes need not travel."""
    runs = find_image_runs(sequence)
    sent = [images[run.image] for run in runs]
    parts = [{"url": None if image.uuid in known else image.url, "uuid": image.uuid} for image in sent]
    builder = sequence.builder
    ids = mention_images(builder.token_ids, builder.tokens.image, [run.length for run in runs])
    without = frozenset(str(part["uuid"]) for part in parts if not part["url"])
    return GenerateRequest(GENERATE, build_body(ids, parts), without)


def build_tensor_request(sequence: DecodedSequence, images: PackedImages) -> GenerateRequest:
    """With the tensors that the image processor here made, for every run of visual tokens; all of them are whole."""
    runs = find_image_runs(sequence)
    items = [images.pack(run.image, sequence.spans[run.image].first + run.first, run.length) for run in runs]
    return build_item_request(sequence, runs, [name for name, _ in items], [data for _, data in items])


def build_request_sampling(
    job: Job, number: int, max_tokens: int, stops: Collection[int], never_sampled: Collection[int]
) -> dict[str, Any]:
    """Sampling parameters of an answer's request `number`.

    A seeded answer's requests draw from seeds of their own: with one seed for all, every request would begin with the
    same random numbers.
    """
    sampling = job.sampling
    params = build_sampling_params(
        max_tokens=max_tokens,
        temperature=sampling.temperature,
        stops=stops,
        never_sampled=never_sampled,
        top_p=sampling.top_p,
        seed=None if sampling.seed is None else derive_seed(sampling.seed, number),
    )
    return params | job.options.as_sampling_params()


def is_same_prompt(request: GenerateRequest, read: Sequence[int], sequence: DecodedSequence) -> bool:
    """Whether a server read what a sequence holds. A chat endpoint makes tokens of the answer so far anew, perhaps
    others: then the prompt has to be the same, and the number of visual tokens."""
    ids, image = sequence.builder.token_ids, sequence.builder.tokens.image
    prompt = sum(provenance == Provenance.PROMPT for provenance in sequence.builder.provenance)
    if request.chat and len(ids) > prompt:
        return list(read[:prompt]) == ids[:prompt] and list(read).count(image) == ids.count(image)
    return list(read) == ids
