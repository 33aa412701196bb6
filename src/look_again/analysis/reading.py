"""One teacher-forced pass over finished answers that notes what every token looked at, exactly and in bounded memory.

The pass is the Runner's own prefill with the model's own kernel; beside it, layer by layer, the watched queries are
compared with the keys in blocks. What is kept are sums: per layer and query the attention on each block of visual
rows (the prompt's, each insertion's), per layer and panel of queries the attention on each visual row. Nothing L x L is
ever formed. Which layers the paper's figures show is only said for figure 9 (mean over all); here every layer is kept
apart and heads are averaged.

Legend: B batch rows, n watched queries, K visual slots, G blocks of them, P panels, H heads, D head size, S slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from look_again.analysis.shares import first_look, rebuild_slots, sampled_slots, visual_blocks
from look_again.core.attention import AttentionCall, AttentionRecorder, attention_weights, recorded_attention
from look_again.core.families import attention_layers, find_family
from look_again.core.runner import Runner
from look_again.core.slots import Slots

SCORE_FLOATS = 2**22  # heads x queries x slots compared at once: 16 MB
LOGIT_FLOATS = 2**22  # tokens x vocabulary at once


@dataclass(frozen=True)
class FinishedSequence:
    """A finished sequence, the features (V, hidden) that its rows point into, and which queries to watch.

    queries: (n,) slots, ascending. panels: (n,) the panel, of num_panels, whose mean each query enters.
    """

    slots: Slots
    features: torch.Tensor
    queries: torch.Tensor
    panels: torch.Tensor | None = None
    num_panels: int = 0

    @property
    def panel_sizes(self) -> torch.Tensor:
        """(P,) number of queries of each panel."""
        panels = torch.empty(0, dtype=torch.long) if self.panels is None else self.panels
        return torch.bincount(panels, minlength=self.num_panels)


@dataclass(frozen=True)
class Reading:
    """What the queries of one sequence looked at, as shares of all their attention, mean over heads.

    on_blocks: (layers, n, G), block 0 the prompt's visual rows, then one per insertion. on_rows: (layers, P, K), mean
    over the panel's queries. entropy_nats: (n,) of the distribution that each watched token was sampled from, NaN where
    none was; None unless asked for.
    """

    on_blocks: torch.Tensor
    on_rows: torch.Tensor
    entropy_nats: torch.Tensor | None = None


@torch.no_grad()
def read(model: Any, finished: Sequence[FinishedSequence]) -> list[Reading]:
    """Run the sequences once, together, and return what their watched queries looked at, in order."""
    with recorded_attention(model):
        replay = Replay(model, finished)
        replay.prefill()
    return replay.readings()


@torch.no_grad()
def read_pairs(
    model: Any, finished: Sequence[FinishedSequence], bare: Sequence[FinishedSequence]
) -> list[tuple[Reading, Reading]]:
    """What the sampled tokens looked at, with entropies: as `finished` and, second, as `bare`.

    `bare` are the same texts without insertions; all sampled tokens are watched in both. Up to the first insertion the
    two are one sequence, which is run once.
    """
    with recorded_attention(model):
        replay = Replay(model, finished)
        replay.prefill()
        looking = replay.readings(entropies=True)
        pairs = []
        for row, reading in enumerate(looking):
            look = first_look(finished[row].slots)
            pairs.append((reading, reading if look is None else replay.ending(row, bare[row], look, reading)))
    return pairs


class WatchedAttention(AttentionRecorder):
    """A recorder that keeps sums per query and per panel instead of one ranking.

    finished: the sequences of the pass, in order. fed: slots of each that the cache holds before the pass. sequences:
    their numbers in the batch, None for 0, 1 and so on.
    """

    def __init__(
        self,
        like: AttentionRecorder,
        finished: Sequence[FinishedSequence],
        fed: int = 0,
        sequences: Sequence[int] | None = None,
    ) -> None:
        blocks = [visual_blocks(one.slots) for one in finished]
        super().__init__(like.cache, [visual for visual, _ in blocks], like.layers)
        self.finished, self.fed = list(finished), fed
        self.sequences = list(range(len(finished)) if sequences is None else sequences)
        self._passing: list[int] = []
        self.blocks = [torch.nn.functional.one_hot(block).float() for _, block in blocks]
        both, depth = list(zip(finished, self.blocks, strict=True)), len(self.layers)
        self.on_blocks = [torch.zeros(depth, len(one.queries), block.shape[1]) for one, block in both]
        self.on_rows = [torch.zeros(depth, len(one.panel_sizes), len(block)) for one, block in both]

    def watch_chunk(self, wanted: Sequence[tuple[int, Sequence[int]]]) -> None:
        """The Runner's wish for the sampled tokens; here the queries were chosen at the start, only sequences count."""
        self._passing = [sequence for sequence, _ in wanted]

    def observe(
        self, layer: int, query_BHnD: torch.Tensor, key_BKSD: torch.Tensor, call: AttentionCall | None = None
    ) -> None:
        if layer not in self.layers:
            return
        self.calls[layer] = call or AttentionCall(self.scaling)
        for i, sequence in enumerate(self._passing):
            row = self.sequences.index(sequence)
            one = self.finished[row]
            size = max(1, SCORE_FLOATS // (query_BHnD.shape[1] * len(one.slots)))
            for start in range(0, len(one.queries), size):
                part = slice(start, start + size)
                self._note(layer, row, part, query_BHnD[i], key_BKSD[i])

    def _note(self, layer: int, row: int, part: slice, query_HnD: torch.Tensor, key_KSD: torch.Tensor) -> None:
        """Add a stretch of queries; no key after the last of them is compared."""
        one, slots = self.finished[row], self.finished[row].queries[part]
        seen = int(slots[-1]) + 1
        visual = self.visual_slots[row][self.visual_slots[row] < seen]
        chosen = query_HnD[:, (slots - self.fed).to(query_HnD.device)]
        weights = attention_weights(chosen, key_KSD[:, :seen], slots, visual, *self.calls[layer]).mean(0).cpu()
        place = self.layers.index(layer)
        self.on_blocks[row][place, part] = weights @ self.blocks[row][: len(visual)]
        if one.panels is not None:
            self.on_rows[row][place, :, : len(visual)].index_add_(0, one.panels[part], weights)


class Replay(Runner):
    """A Runner over finished sequences that also keeps the last hidden states of its passes, (S, hidden) each."""

    def __init__(self, model: Any, finished: Sequence[FinishedSequence]) -> None:
        self.family = find_family(model.config)
        self.tokens = self.family.vision_tokens(model.config)
        builders = [rebuild_slots(self.family, self.tokens, one.slots) for one in finished]
        layers = attention_layers(model.config)
        super().__init__(model, builders, [one.features for one in finished], score_layers=layers)
        assert self.recorder is not None
        self.recorder = self.watched = WatchedAttention(self.recorder, finished)
        self.hidden: dict[int, torch.Tensor] = {}  # of each sequence in its last pass

    def readings(self, entropies: bool = False) -> list[Reading]:
        """What the last pass noted, by row."""
        watched = self.watched
        return [
            Reading(
                watched.on_blocks[row],
                watched.on_rows[row] / one.panel_sizes.clamp(min=1).view(1, -1, 1),
                self._entropies(row) if entropies else None,
            )
            for row, one in enumerate(watched.finished)
        ]

    def ending(self, row: int, bare: FinishedSequence, look: int, before: Reading) -> Reading:
        """The reading of `bare`, which parts from the row's sequence at its sampled token number `look`.

        `before` is the row's own reading. The cache is taken back to one slot before the parting, whose logits chose
        that token, and the rest is fed as a chunk.
        """
        queries = sampled_slots(bare.slots)[look:]
        shared = int(queries[0]) - 1
        self.builders[row] = rebuild_slots(self.family, self.tokens, bare.slots)
        self.cache.advance(row, shared - self.cache.lengths[row])
        self.recorder = self.watched = WatchedAttention(
            self.watched,
            [FinishedSequence(bare.slots, bare.features, queries)],
            fed=self.cache.lengths[row],  # nothing where the cache cannot go back
            sequences=[row],
        )
        self.chunk(row)
        after = self.readings(entropies=True)[0]
        assert before.entropy_nats is not None
        assert after.entropy_nats is not None
        return Reading(
            torch.cat([before.on_blocks[:, :look, :1], after.on_blocks], dim=1),
            after.on_rows,
            torch.cat([before.entropy_nats[:look], after.entropy_nats]),
        )

    def _entropies(self, row: int) -> torch.Tensor:
        """(n,) entropy in nats of the distribution that each watched token was sampled from, at temperature 1."""
        one = self.watched.finished[row]
        sources = one.slots.sampled_from[one.queries]
        found = torch.full((len(sources),), float("nan"))
        size = max(1, LOGIT_FLOATS // self.model.config.get_text_config().vocab_size)
        for part in (sources >= 0).nonzero()[:, 0].split(size):
            hidden = self.hidden[self.watched.sequences[row]]
            hidden = hidden[(sources[part] - self.watched.fed).to(hidden.device)]
            logits = self._logits(hidden).float()
            logits[:, list(self.tokens.never_sampled)] = float("-inf")
            found[part] = torch.distributions.Categorical(logits=logits, validate_args=False).entropy().cpu()
        return found

    def _forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        hidden = super()._forward(*args, **kwargs)
        passing = range(*self.cache.window.sequences.indices(self.cache.num_sequences))
        self.hidden.update(zip(passing, hidden, strict=True))
        return hidden
