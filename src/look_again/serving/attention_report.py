"""Where an answer looked, for any client to draw: per section and per re-insertion, as small grids over the images.

The sequence that was decoded is read once more, teacher-forced, as `look-again analyze heatmap` and the page do; here
only the means of sections are kept, so the cost is one pass and the report a few kilobytes. Shares are of all the
attention that a query pays, mean over heads and over all layers (the paper's figure 5 does not say which).

Legend: L layers, P sections, K visual slots, V visual tokens of the images.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from look_again.analysis.reading import FinishedSequence, read
from look_again.analysis.shares import response_slots, visual_blocks
from look_again.analysis.token_sections import sections_of_tokens, token_ends
from look_again.core.families import Grid
from look_again.core.inputs import process_images
from look_again.core.prefill import encode
from look_again.core.sequence import Reflection
from look_again.core.slots import Slots
from look_again.images.video import Video
from look_again.loading import Checkpoint
from look_again.serving.backend import Job
from look_again.text.chat import decode_text
from look_again.text.grammar import parse

MAX_SLOTS = 16_384  # of a sequence that is read once more
MAX_CELLS = 16  # of a grid, per side
DIGITS = 6


@torch.no_grad()
def report_attention(
    checkpoint: Checkpoint, job: Job, slots: Slots, token_ids: Sequence[int], reflections: Sequence[Reflection]
) -> dict[str, Any]:
    """The report of an answer about images, its sequence `slots` and its response `token_ids`.

    Call it where the model may be used. Raises ValueError for a sequence of more than MAX_SLOTS slots.
    """
    if len(slots) > MAX_SLOTS:
        raise ValueError(f"attention is measured in sequences of up to {MAX_SLOTS} tokens; this one has {len(slots)}")
    if any(isinstance(image, Video) for image in job.images):
        raise ValueError("attention is measured on images alone, not on videos")
    config = checkpoint.model.config
    images = process_images(checkpoint.image_processor, config, job.images)
    encoded = encode(checkpoint.model, **images.tensors)
    ids = list(token_ids)
    names, own = sections_of_tokens(
        parse(decode_text(checkpoint.tokenizer, ids)), token_ends(checkpoint.tokenizer, ids)
    )
    queries = response_slots(slots)[: len(ids)]
    panels = torch.tensor([section if section >= 0 else len(names) for section in own[: len(queries)]])
    features = torch.cat([visual_tokens for visual_tokens, _ in encoded])
    finished = FinishedSequence(slots, features, queries, panels, len(names) + 1)
    on_slots_PK = read(checkpoint.model, [finished])[0].on_rows.mean(0)[: len(names)]
    counts = [own.count(section) for section in range(len(names))]
    return _describe(slots, images.grids, names, counts, on_slots_PK, reflections)


def _describe(
    slots: Slots,
    grids: Sequence[Grid],
    names: Sequence[str],
    counts: Sequence[int],
    on_slots_PK: torch.Tensor,
    reflections: Sequence[Reflection],
) -> dict[str, Any]:
    visual, block = visual_blocks(slots)
    places = slots.visual_indices[visual]
    weights = torch.tensor(counts, dtype=torch.float) / max(1, sum(counts))
    everywhere_K = weights @ on_slots_PK  # mean over the response

    def draw(shares_K: torch.Tensor, which: torch.Tensor) -> list[list[list[float]]]:
        """The shares on visual tokens in some blocks, as one grid per image."""
        shares_V = torch.zeros(sum(frames * rows * columns for frames, rows, columns in grids))
        shares_V.index_add_(0, places[which], shares_K[which])
        return _draw_grids(shares_V, grids)

    sections = [
        {
            "section": name,
            "tokens": count,
            "share": _round(float(shares_K.sum())),
            "original": draw(shares_K, block == 0),
            "reinserted": draw(shares_K, block > 0),
        }
        for name, count, shares_K in zip(names, counts, on_slots_PK, strict=True)
    ]
    looks = [
        {
            "at": reflection.at,
            "visual_tokens": list(reflection.visual_indices),
            "share": _round(float(everywhere_K[block == number].sum())),
            "attention": draw(everywhere_K, block == number),
        }
        for number, reflection in enumerate((one for one in reflections if one.visual_indices), start=1)
    ]
    shape = [[frames * rows, columns] for frames, rows, columns in grids]
    return {"layer": "mean", "visual_tokens": shape, "sections": sections, "looks": looks}


def _draw_grids(shares_V: torch.Tensor, grids: Sequence[Grid]) -> list[list[list[float]]]:
    """Per image its shares as rows of cells, neighbours added up until there are at most MAX_CELLS per side."""
    drawn, first = [], 0
    for frames, rows, columns in grids:
        count = frames * rows * columns
        grid = shares_V[first : first + count].view(frames * rows, columns)
        first += count
        down, across = (-(-side // MAX_CELLS) for side in grid.shape)
        pooled = torch.nn.functional.pad(grid, (0, -columns % across, 0, -(frames * rows) % down))
        cells = pooled.unflatten(0, (-1, down)).unflatten(2, (-1, across)).sum(dim=(1, 3))
        drawn.append([[_round(value) for value in row] for row in cells.tolist()])
    return drawn


def _round(value: float) -> float:
    return round(value, DIGITS)
