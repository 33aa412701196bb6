"""What every token of an answer looked at, measured in the very sequence that was decoded, for the page to draw.

The sequence that the backend decoded is read once, teacher-forced, as `analyze heatmap` does; so the numbers are exact
and the same whichever backend decoded. A token's map is the attention that its query pays to each place of the image,
as a share of all it pays, mean over heads: its visual token in the prompt and every one that was put back added up.
Which layers the paper's figure 5 shows is not said: all are kept.

Legend: N response tokens, L layers, V places of the image, S sections, K visual slots.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from look_again.analysis import heatmap as maps
from look_again.analysis.reading import FinishedSequence, read
from look_again.analysis.shares import prompt_text_slots, response_slots
from look_again.analysis.token_sections import sections_of_tokens
from look_again.core.inputs import ImageInputs, process_images
from look_again.core.prefill import encode
from look_again.core.slots import Slots
from look_again.loading import Checkpoint
from look_again.serving.backend import Job
from look_again.text.grammar import parse
from look_again.ui.transcript import DecodedAnswer

PASS_FLOATS = 2**25  # of one pass, layers x queries x visual slots: 128 MB
STEPS = 255  # a map is sent in bytes


@dataclass(frozen=True)
class AttentionMaps:
    """prompt: (L, V) what the prompt's text after the image looked at. tokens: (L, N, V). original, reinserted:
    (L, N) attention on the prompt's visual tokens, and on those put back. grid: rows and columns.
    """

    prompt: torch.Tensor
    tokens: torch.Tensor
    original: torch.Tensor
    reinserted: torch.Tensor
    grid: tuple[int, int]

    @property
    def size_bytes(self) -> int:
        return 4 * sum(part.numel() for part in (self.prompt, self.tokens, self.original, self.reinserted))


def measure(checkpoint: Checkpoint, job: Job, decoded: DecodedAnswer) -> AttentionMaps:
    """Read the sequence of an answer to a job about one image. ValueError for a job without an image."""
    if len(job.images) != 1:
        raise ValueError("there is no image that the answer could have looked at")
    if checkpoint.family.layout is not None:
        raise ValueError(f"{checkpoint.family.model_type} cuts images into tiles or lines: no one grid lies over them")
    config = checkpoint.model.config
    images, slots = process_images(checkpoint.image_processor, config, job.images), decoded.slots()
    features = _features(checkpoint.model, images)
    own = response_slots(slots)[: len(decoded.ids)]  # of a stopped one, some
    before = prompt_text_slots(slots)
    frames, rows, columns = images.grids[0]
    places, depth = frames * rows * columns, config.get_text_config().num_hidden_layers
    size = max(1, PASS_FLOATS // (depth * int((slots.visual_indices >= 0).sum())))
    parts = [_pass(checkpoint.model, slots, features, before[:0] if i else before, part, places)
             for i, part in enumerate(own.split(size))]  # fmt: skip
    original, reinserted = (torch.cat([part[kind] for part in parts], dim=1) for kind in (0, 1))
    both = original + reinserted
    return AttentionMaps(
        both[:, 0], both[:, 1:], original[:, 1:].sum(-1), reinserted[:, 1:].sum(-1), (frames * rows, columns)
    )


@torch.no_grad()
def _features(model: Any, images: ImageInputs) -> torch.Tensor:
    return torch.cat([features for features, _ in encode(model, **images.tensors)])


def _pass(
    model: Any, slots: Slots, features: torch.Tensor, before: torch.Tensor, own: torch.Tensor, places: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention on places, (L, queries, V), of the prompt's visual tokens and re-inserted ones; `before`: one query."""
    first = int(len(before) > 0)
    panels = torch.cat([torch.zeros(len(before), dtype=torch.long), torch.arange(len(own)) + first])
    finished = FinishedSequence(slots, features, torch.cat([before, own]), panels, first + len(own))
    on_rows = read(model, [finished])[0].on_rows
    original, reinserted = maps.by_place(slots, on_rows.flatten(0, 1), places)[:2]
    return original.view(*on_rows.shape[:2], places), reinserted.view(*on_rows.shape[:2], places)


def payload(
    measured: AttentionMaps, text: str, ends: Sequence[int], decoded: DecodedAnswer, layer: int | None
) -> dict[str, Any]:
    """What the page draws of one layer, or (None) of their mean. ValueError for a layer that is not there.

    maps: bytes in base64, one per place, of every token and then of every section, relative to the map's own peak in
    `peaks`, which is its strongest place that is no sink; sinks may lie above it and are cut off there.
    """
    depth = measured.tokens.shape[0]
    if layer is not None and not 0 <= layer < depth:
        raise ValueError(f"layer is mean or a number from 0 to {depth - 1}, not {layer}")
    tokens, prompt, original, reinserted = (
        part.mean(0) if layer is None else part[layer]
        for part in (measured.tokens, measured.prompt, measured.original, measured.reinserted)
    )
    names, own = sections_of_tokens(parse(text), ends)
    sections = section_panels(tokens, names, own)
    sinks = {"prompt": maps.prompt_sinks(_panel("", 1, prompt)), "constant": maps.constant_sinks(sections)}
    rows = torch.cat([tokens, *(panel.both[None] for panel in sections)])
    peaks, coded = coded_maps(rows, sorted({*sinks["prompt"], *sinks["constant"]}))
    return {
        "layer": "mean" if layer is None else layer,
        "layers": depth,
        "grid": measured.grid,
        "texts": [text[start:end] for start, end in zip([0, *ends], ends, strict=False)],
        "section_of": own,
        "sections": [{"name": panel.name, "tokens": panel.tokens} for panel in sections],
        "original": _rounded(original),
        "reinserted": _rounded(reinserted),
        "totals": _rounded(rows.sum(-1)),
        "peaks": _rounded(peaks),
        "maps": base64.b64encode(coded).decode(),
        "sinks": sinks,
        "looks": [{"before": look.at, "tokens": look.reinserted_tokens} for look in decoded.reinsertions],
    }


def section_panels(tokens: torch.Tensor, names: Sequence[str], own: Sequence[int]) -> list[maps.Panel]:
    """What each section looked at, the mean of its tokens (N, V), as analysis.heatmap means it; empty ones are zero."""
    which = torch.tensor(own, dtype=torch.long)
    return [
        _panel(name, int((which == index).sum()), tokens[which == index].sum(0) / max(1, own.count(index)))
        for index, name in enumerate(names)
    ]


def coded_maps(rows: torch.Tensor, sinks: Sequence[int]) -> tuple[torch.Tensor, bytes]:
    """Each map's strongest place that is no sink (0 for one of zeros), and the maps relative to it in bytes."""
    plain = torch.ones(rows.shape[1], dtype=torch.bool)
    plain[list(sinks)] = False
    peaks = rows[:, plain].amax(1) if plain.any() else rows.amax(1)
    relative = torch.where(peaks[:, None] > 0, rows / peaks[:, None].clamp(min=1e-12), 0.0)
    return peaks, bytes((relative.clamp(0, 1) * STEPS).round().to(torch.uint8).flatten().tolist())


def _panel(name: str, tokens: int, both: torch.Tensor) -> maps.Panel:
    return maps.Panel(name, tokens, both, torch.zeros_like(both))


def _rounded(values: torch.Tensor) -> list[float]:
    return [float(f"{value:.4g}") for value in values.tolist()]
