"""A sequence is slots: text tokens and visual tokens, each with its provenance and its position.

This is the one definition of what the model reads. Decoding appends to it, SFT and RL build it from a response, and
losses, rewards and length counts read its provenance. It departs from the paper only in saying what the paper leaves
open: positions, delimiters and which logits chose a token.

Legend: N slots of one sequence, V visual tokens of its images. A visual token is one row of image features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from itertools import pairwise

import torch

from look_again.core.families import Family, Grid, VideoGrid, VisionTokens

MISMATCH = "the prompt's image tokens do not match its images: one token per visual token"


class Provenance(IntEnum):
    """Where a slot comes from: the prompt, the model's own sampling, re-insertion, or the decoding loop's hand.

    FORCED slots are the delimiters (headers, breaks) of re-inserted images, the closing tag that vision-only mode
    writes, and the tags around a CONCLUSION that a bound on the reasoning brings.
    """

    PROMPT = 0
    SAMPLED = 1
    REINSERTED = 2
    FORCED = 3


@dataclass(frozen=True)
class VisualSpan:
    """One image or video: its visual tokens are `first` .. `first + count - 1` of the feature table (V, hidden).

    block: the token ids that show it in a prompt, its own delimiters, headers and breaks with it; empty where the
    prompt is not known.
    """

    first: int
    grid: Grid
    block: tuple[int, ...] = ()

    @property
    def count(self) -> int:
        return self.grid[0] * self.grid[1] * self.grid[2]

    @property
    def text_tokens(self) -> int:
        """Tokens of the block that are no visual tokens; without a block, those of a pair of delimiters."""
        return len(self.block) - self.count if self.block else 2

    @property
    def frames(self) -> list[int]:
        """Visual tokens of each frame; an image is one frame."""
        return [self.count // self.grid[0]] * self.grid[0]


def build_spans(grids: Sequence[Grid]) -> tuple[VisualSpan, ...]:
    """Spans of images whose features are concatenated in order."""
    spans: list[VisualSpan] = []
    for grid in grids:
        spans.append(VisualSpan(spans[-1].first + spans[-1].count if spans else 0, grid))
    return tuple(spans)


@dataclass(frozen=True)
class Slots:
    """A finished sequence.

    token_ids: (N,) the image token's id at visual tokens. visual_indices: (N,) index into the feature table, -1 at
    text. provenance: (N,) Provenance. positions: (position_dims, N). sampled_from: (N,) the slot whose logits sampled
    this token, -1 where nothing did. For a `<REFLECTION>` that triggered an insertion it is the last slot before it.
    inserted: (N,) whether a slot belongs to an insertion, as a visual token or as the text of its image's block.
    """

    token_ids: torch.Tensor
    visual_indices: torch.Tensor
    provenance: torch.Tensor
    positions: torch.Tensor
    sampled_from: torch.Tensor
    inserted: torch.Tensor

    def __len__(self) -> int:
        return self.token_ids.shape[0]

    def __repr__(self) -> str:
        kinds = ((kind.name.lower().replace("_", "-"), self.count(kind)) for kind in Provenance)
        return f"Slots({len(self)}: {', '.join(f'{count} {name}' for name, count in kinds if count)})"

    def count(self, provenance: Provenance) -> int:
        """Number of slots of one provenance."""
        return int((self.provenance == provenance).sum())

    def targets(self, silent: Sequence[bool] = ()) -> torch.Tensor:
        """(N,) the token that the logits of each slot have to predict; -100 where no token was sampled from them.

        `silent`, one flag per sampled token, leaves tokens out that are read but must not be learned.
        """
        sampled = self.token_ids.clone()
        if len(silent):
            sampled[(self.provenance == Provenance.SAMPLED).nonzero()[:, 0][torch.tensor(silent)]] = -100
        targets = torch.full_like(self.token_ids, -100)
        chosen = self.sampled_from >= 0
        targets[self.sampled_from[chosen]] = sampled[chosen]
        return targets


class SlotBuilder:
    """Appends text, images and insertions to one sequence, keeping positions; everything that makes slots uses it."""

    def __init__(self, family: Family, tokens: VisionTokens) -> None:
        self.family = family
        self.tokens = tokens
        self.token_ids: list[int] = []
        self.visual_indices: list[int] = []
        self.provenance: list[int] = []
        self.positions: list[tuple[int, ...]] = []
        self.sampled_from: list[int] = []
        self.inserted: list[bool] = []
        self.spans: list[VisualSpan] = []  # the prompt's images, with their blocks
        self.next_position = 0
        self._chooser = -1  # the slot whose logits choose the next token

    def __len__(self) -> int:
        return len(self.token_ids)

    def add_token(self, token_id: int, provenance: Provenance, *, chosen: bool = True) -> None:
        """Append one text token. A sampled one is chosen by the last slot that was not an insertion.

        `chosen` False: the logits that sampled it are not in this sequence (pieces of a tag that were fed again).
        """
        sampled_from = self._chooser if provenance is Provenance.SAMPLED and chosen else -1
        self._add(token_id, -1, provenance, (self.next_position,) * self.family.position_dims, sampled_from)
        self.next_position += 1
        self._chooser = len(self.token_ids) - 1

    def add_prompt(self, token_ids: Sequence[int], spans: Sequence[VisualSpan]) -> None:
        """Append the prompt; its image and video tokens become the visual tokens of the images, in order.

        A video is an image of several frames here: its tokens are image tokens from now on, which the model reads
        alike. Afterwards `spans` holds the images with their blocks. ValueError when tokens and images do not match.
        """
        token_ids = self._as_images(token_ids)
        places = [index for index, token_id in enumerate(token_ids) if token_id == self.tokens.image]
        index = taken = 0
        for span in spans:
            if taken == len(places):
                raise ValueError("the prompt has fewer image blocks than images")
            own = places[taken : taken + span.count]
            taken += len(own)
            index = self._add_image(token_ids, index, own, span)
            self.spans.append(replace(span, block=self._find_block(token_ids, own)))
        if taken < len(places):
            raise ValueError(MISMATCH)
        for token_id in token_ids[index:]:
            self.add_token(token_id, Provenance.PROMPT)
        self._chooser = len(self.token_ids) - 1

    def insert(
        self,
        parts: Sequence[tuple[VisualSpan, Sequence[int]]],
        *,
        delimiters: bool = True,
        layout: str = "grid",
    ) -> int:
        """Re-insert chosen visual tokens of images (indices within each image, ascending), images in order.

        An image without chosen ones leaves no trace; of any other, the image's block of the prompt is copied with the
        chosen ones alone. `layout` "grid": they keep their places in a fresh grid and what follows continues after the
        full grid; "strip": they are contiguous columns of a one-row grid. Without `delimiters` nothing but the visual
        tokens is copied. Returns the number of slots appended. The token appended next is still chosen by the slot
        before the insertion.
        """
        start = len(self)
        for span, chosen in parts:
            if chosen:
                self._insert_image(span, sorted(chosen), delimiters, layout)
        return len(self) - start

    @property
    def prompt_ids(self) -> list[int]:
        """Token ids of the prompt, which the other slots follow."""
        return self.token_ids[: self.provenance.count(Provenance.PROMPT)]

    def insert_turn(self, token_ids: Sequence[int], spans: Sequence[VisualSpan]) -> None:
        """Append a turn of the conversation that nothing sampled; its image tokens show `spans` again, whole.

        The token appended next is still chosen by the slot before it. ValueError when tokens and images do not match.
        """
        token_ids = self._as_images(token_ids)
        places = [index for index, token_id in enumerate(token_ids) if token_id == self.tokens.image]
        index = 0
        if len(places) != sum(span.count for span in spans):
            raise ValueError(MISMATCH)
        for span in spans:
            own, places = places[: span.count], places[span.count :]
            runs, first = list(_runs(own)), 0
            for run in runs:
                self._add_forced(token_ids[index : run[0]])
                grid = self._run_grid(span.grid, runs, len(run))
                self._add_visual_tokens(span.first + first, grid, range(len(run)), Provenance.REINSERTED, "grid")
                first, index = first + len(run), run[-1] + 1
        self._add_forced(token_ids[index:])

    def truncate(self, length: int) -> list[int]:
        """Drop the text slots from `length` on and return their ids; the next token is chosen by the last one left."""
        dropped = self.token_ids[length:]
        if any(index >= 0 for index in self.visual_indices[length:]):
            raise ValueError("visual tokens cannot be dropped from a sequence")
        self.next_position -= len(dropped)
        for column in (
            self.token_ids,
            self.visual_indices,
            self.provenance,
            self.positions,
            self.sampled_from,
            self.inserted,
        ):
            del column[length:]
        self._chooser = len(self.token_ids) - 1
        return dropped

    def build(self, start: int = 0) -> Slots:
        """The slots from `start` on, as tensors on the CPU."""
        return Slots(
            torch.tensor(self.token_ids[start:], dtype=torch.long),
            torch.tensor(self.visual_indices[start:], dtype=torch.long),
            torch.tensor(self.provenance[start:], dtype=torch.uint8),
            torch.tensor(self.positions[start:], dtype=torch.long).view(-1, self.family.position_dims).T,
            torch.tensor(self.sampled_from[start:], dtype=torch.long),
            torch.tensor(self.inserted[start:], dtype=torch.bool),
        )

    def _as_images(self, token_ids: Sequence[int]) -> list[int]:
        """Token ids with image tokens for the video tokens among them."""
        return [self.tokens.image if token_id == self.tokens.video else token_id for token_id in token_ids]

    def _add_image(self, token_ids: Sequence[int], index: int, own: list[int], span: VisualSpan) -> int:
        """Append the prompt from `index` to an image's last visual token, `own` being their places; the next index."""
        if len(own) < span.count:
            raise ValueError(MISMATCH)
        runs, first = list(_runs(own)), 0
        for run in runs:
            for token_id in token_ids[index : run[0]]:
                self.add_token(token_id, Provenance.PROMPT)
            grid = self._run_grid(span.grid, runs, len(run))
            self._add_visual_tokens(span.first + first, grid, range(len(run)), Provenance.PROMPT, "grid")
            first, index = first + len(run), run[-1] + 1
        return index

    def _insert_image(self, span: VisualSpan, chosen: Sequence[int], delimiters: bool, layout: str) -> None:
        block = self._known_block(span)
        runs, first = list(_runs([i for i, token_id in enumerate(block) if token_id == self.tokens.image])), 0
        texts = self._texts_around(block, runs)
        for run, (before, after) in zip(runs, texts, strict=True):
            own = [place - first for place in chosen if first <= place < first + len(run)]
            kept = delimiters and (own or not self._is_stamped(span, runs))
            if kept:
                self._add_forced(before)
            if own:
                grid = self._run_grid(span.grid, runs, len(run))
                self._add_visual_tokens(span.first + first, grid, own, Provenance.REINSERTED, layout)
            if kept:
                self._add_forced(after)
            first += len(run)

    def _is_stamped(self, span: VisualSpan, runs: Sequence[Sequence[int]]) -> bool:
        """Whether an image is a video whose frames stand apart, each with its time: a frame not shown is not named."""
        return isinstance(span.grid, VideoGrid) and len(runs) > 1

    def _texts_around(
        self, block: Sequence[int], runs: Sequence[Sequence[int]]
    ) -> list[tuple[Sequence[int], Sequence[int]]]:
        """What stands before and after each of a block's runs of visual tokens; between two, a time goes with its
        frame.
        """
        starts, stops = [run[0] for run in runs], [run[-1] + 1 for run in runs]
        if self.family.stamps == "after":
            cuts = [start - self.family.opening for start in starts[1:]]
        else:
            cuts = [stop + self.family.closing for stop in stops[:-1]]
        firsts, lasts = [0, *cuts], [*cuts, len(block)]
        return [
            (block[first:start], block[stop:last])
            for first, start, stop, last in zip(firsts, starts, stops, lasts, strict=True)
        ]

    def _known_block(self, span: VisualSpan) -> tuple[int, ...]:
        """The block to copy: the span's own, or that of the prompt's image in its place (a control's images follow
        those of the prompt in the table, in the same sizes), or the visual tokens between delimiters.
        """
        if span.block:
            return span.block
        visual_tokens = sum(known.count for known in self.spans)
        for known in self.spans:
            if span.count == known.count and span.first in (known.first, known.first + visual_tokens):
                return known.block
        return self._plain_block(span.count)

    def _find_block(self, token_ids: Sequence[int], own: Sequence[int]) -> tuple[int, ...]:
        """An image's slice of the prompt, from `opening` tokens before its first visual token to `closing` after."""
        start, stop = self._block_start(token_ids, own), self._block_stop(token_ids, own)
        before, after = token_ids[max(0, start) : own[0]], token_ids[own[-1] + 1 : stop]
        whole = len(before) >= self.family.opening and len(after) >= self.family.closing
        if not whole or self.tokens.image in (*before, *after):
            return self._plain_block(len(own))
        return tuple(token_ids[start:stop])

    def _block_start(self, token_ids: Sequence[int], own: Sequence[int]) -> int:
        """Where an image's block begins: `opening` tokens before it, a video's outer delimiter, or its first time."""
        plain = own[0] - self.family.opening
        if self.tokens.video_start is not None and token_ids[plain - 1 : plain] == [self.tokens.video_start]:
            return plain - 1
        breaks = [i for i, (one, following) in enumerate(pairwise(own)) if following != one + 1]
        if self.family.stamps != "before" or not breaks:
            return plain
        second, stamp = own[breaks[0] + 1] - self.family.opening, own[breaks[0]] + 1 + self.family.closing
        reach = plain - (second - stamp) - 1  # as long as the second time, or a digit longer
        begins = [i for i in range(max(0, reach), plain) if token_ids[i] == token_ids[stamp]]
        return begins[-1] if begins and stamp < second else plain

    def _block_stop(self, token_ids: Sequence[int], own: Sequence[int]) -> int:
        """Where an image's block ends: `closing` tokens after it, or after the outer delimiter of a video around it."""
        plain = own[-1] + 1 + self.family.closing
        outer = self.tokens.video_start, self.tokens.video_end
        start = own[0] - self.family.opening - 1
        if outer[0] is None or outer[1] is None or start < 0 or token_ids[start] != outer[0]:
            return plain
        return list(token_ids).index(outer[1], own[-1]) + 1 if outer[1] in token_ids[own[-1] :] else plain

    def _plain_block(self, count: int) -> tuple[int, ...]:
        delimiters = [() if token is None else (token,) for token in (self.tokens.start, self.tokens.end)]
        return (*delimiters[0], *(self.tokens.image,) * count, *delimiters[1])

    def _run_grid(self, grid: Grid, runs: Sequence[Sequence[int]], count: int) -> Grid:
        """The grid of one of an image's runs of visual tokens: all of it, or an equal share of its frames."""
        if self.family.position_dims == 1:
            return 1, 1, count
        if len(runs) == 1 and count == grid[0] * grid[1] * grid[2]:
            return grid
        frames, rows, columns = grid
        if frames % len(runs) or frames // len(runs) * rows * columns != count:
            raise ValueError(MISMATCH)
        return frames // len(runs), rows, columns

    def _add_forced(self, token_ids: Sequence[int]) -> None:
        for token_id in token_ids:
            self._add(
                token_id, -1, Provenance.FORCED, (self.next_position,) * self.family.position_dims, -1, inserted=True
            )
            self.next_position += 1

    def _add_visual_tokens(
        self, first: int, grid: Grid, chosen: Sequence[int], provenance: Provenance, layout: str
    ) -> None:
        """Append visual tokens `chosen` of a run that begins at `first` of the feature table."""
        if layout != "grid" or self.family.position_dims == 1:  # one position dimension counts slots, without gaps
            grid, index = (1, 1, len(chosen)), torch.arange(len(chosen))
        else:
            index = torch.as_tensor(chosen)
        positions = (self.family.grid_positions(grid)[:, index] + self.next_position).T.tolist()
        for place, position in zip(chosen, positions, strict=True):
            inserted = provenance == Provenance.REINSERTED
            self._add(self.tokens.image, first + int(place), provenance, tuple(position), -1, inserted=inserted)
        self.next_position += self.family.grid_extent(grid)

    def _add(
        self,
        token_id: int,
        visual_index: int,
        provenance: int,
        position: tuple[int, ...],
        sampled_from: int,
        inserted: bool = False,
    ) -> None:
        self.token_ids.append(token_id)
        self.visual_indices.append(visual_index)
        self.provenance.append(int(provenance))
        self.positions.append(position)
        self.sampled_from.append(sampled_from)
        self.inserted.append(inserted)


def count_block_text(family: Family, tokens: VisionTokens, prompt_ids: Sequence[int], grids: Sequence[Grid]) -> int:
    """Tokens of the blocks of a prompt's images that are no visual tokens: delimiters, headers, breaks."""
    builder = SlotBuilder(family, tokens)
    builder.add_prompt(prompt_ids, build_spans(grids))
    return sum(span.text_tokens for span in builder.spans)


def _runs(places: Sequence[int]) -> Iterator[list[int]]:
    """Ascending places, cut where one does not follow the one before."""
    breaks = [0, *(i for i, (one, next_one) in enumerate(pairwise(places), 1) if next_one != one + 1), len(places)]
    for start, stop in pairwise(breaks):
        yield list(places[start:stop])
