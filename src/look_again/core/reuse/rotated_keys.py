"""Cached visual keys, rotated to the position at which they are put back, instead of a prefill of the copies.

A rotary key holds its position as a rotation, and rotations add up, so a key that was cached at one position becomes
that of another without the model. Values hold no position and are copied. What is saved is the pass over the copies;
what is lost is that copies that are prefilled read the question and the reasoning before them, and these have read
only what stood before the image. Not the paper's: see arXiv 2606.26631 and 2606.23581.

Legend: n slots put back, H key-value heads, D head size, P position dimensions.
"""

from __future__ import annotations

from typing import Any

import torch

from look_again.core.cache import RaggedCache
from look_again.core.families import Family
from look_again.core.slots import Provenance, SlotBuilder

ROTATED_FAMILIES = ("qwen2_vl", "qwen2_5_vl")


def check_rotates(model: Any) -> None:
    """ValueError for a model whose cached keys cannot be moved by a rotation of all their channels."""
    kind, text = model.config.model_type, model.config.get_text_config()
    if kind not in ROTATED_FAMILIES or text.rope_parameters.get("rope_type", "default") != "default":
        raise ValueError(
            f'reuse="rotated" is made for {" and ".join(ROTATED_FAMILIES)} with plain rotary positions, not for this '
            f"{kind}: leave it out, and the copies are prefilled"
        )


def count_reused(builder: SlotBuilder, start: int) -> int:
    """The slots from `start` on that an insertion put there: they are copies of the prompt's."""
    inserted = builder.inserted[start:]
    return next((place for place, copied in enumerate(inserted) if not copied), len(inserted))


def find_sources(builder: SlotBuilder, start: int, count: int) -> list[int]:
    """For each of `count` slots from `start` on, the prompt's slot that it copies.

    A visual token copies itself; a delimiter the nearest like it, before the image's first or behind its last token.
    """
    prompt = builder.provenance.count(Provenance.PROMPT)
    places = {visual: slot for slot, visual in enumerate(builder.visual_indices[:prompt]) if visual >= 0}
    indices, sources = builder.visual_indices, list[int]()
    for slot in range(start, start + count):
        if indices[slot] >= 0:
            sources.append(places[indices[slot]])
            continue
        following = next((indices[s] for s in range(slot, start + count) if indices[s] >= 0), -1)
        opens = following >= 0 and indices[slot - 1] < 0
        beside = places[following] if opens else sources[-1]
        reach = range(beside - 1, -1, -1) if opens else range(beside + 1, prompt)
        sources.append(next(s for s in reach if builder.token_ids[s] == builder.token_ids[slot]))
    return sources


def rotate_keys(keys_HnD: torch.Tensor, cos_nD: torch.Tensor, sin_nD: torch.Tensor) -> torch.Tensor:
    """Keys turned further by the angles of these cosines and sines, both halves of the channels together."""
    first, second = keys_HnD.float().chunk(2, -1)
    turned = keys_HnD.float() * cos_nD + torch.cat([-second, first], -1) * sin_nD
    return turned.to(keys_HnD.dtype)


def write_rotated(model: Any, family: Family, cache: RaggedCache, builder: SlotBuilder, sequence: int) -> int:
    """Fill a sequence's cache with the insertion that its builder holds next; returns the number of slots."""
    start = cache.lengths[sequence]
    count = count_reused(builder, start)
    if not count:
        return 0
    sources = find_sources(builder, start, count)
    positions = torch.tensor(builder.positions)
    moved_Pn = (positions[start : start + count] - positions[sources]).T
    keys, values = cache.reserve_slots(sequence, start + count)
    device = keys[0].device
    rotary = family.language_model(model).rotary_emb
    like = torch.empty(0, dtype=torch.float32, device=device)
    cos, sin = rotary(like, family.shape_positions(moved_Pn[:, None]).to(device))
    places = torch.tensor(sources, device=device)
    for layer_keys, layer_values in zip(keys, values, strict=True):
        own = layer_keys[sequence]
        own[:, start : start + count] = rotate_keys(own[:, places], cos[0], sin[0])
        layer_values[sequence, :, start : start + count] = layer_values[sequence][:, places]
    cache.advance(sequence, count)
    return count
