"""Attention on visual tokens, exact, while the model runs with its own kernel.

ROUTE ranks visual tokens by equation (5): the attention that the tokens sampled so far pay to each of them. Kernels
such as SDPA and flash attention do not return attention. So a thin wrapper, registered through transformers' public
attention interface, hands the queries of interest to a recorder and then calls the kernel unchanged. Queries of single
decoding steps wait in a small buffer; a block of them is compared with the cached keys at once. No L x L matrix, no
eager pass, no effect on the answer.

Legend: B sequences, H query heads, K key-value heads, n queries, S slots, V visual tokens of the prompt, D head size.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from look_again.core.cache import RaggedCache, swap_remove
from look_again.core.families import check_ranking

PREFIX = "look_again_"
BLOCK_QUERIES = 16  # decoding steps whose queries wait before they are compared with the keys


def attention_weights(
    query_HnD: torch.Tensor,
    key_KSD: torch.Tensor,
    query_slots_n: torch.Tensor,
    visual_slots_V: torch.Tensor,
    scaling: float,
    window: int | None = None,
) -> torch.Tensor:
    """Attention that each query pays to visual slots: (H, n, V) in float32.

    A query at slot s sees keys 0 .. s, as in causal attention, the last `window` of them where there is a window. Peak
    memory is H x n x S floats.
    """
    heads, n, _ = query_HnD.shape
    kv_heads, slots, _ = key_KSD.shape
    grouped = query_HnD.reshape(kv_heads, heads // kv_heads * n, -1)
    with torch.autocast(query_HnD.device.type, enabled=False):  # training's would round the scores
        scores = torch.bmm(grouped.float(), key_KSD.float().transpose(1, 2)).view(heads, n, slots).mul_(scaling)
    if n > 1 or int(query_slots_n[0]) < slots - 1 or window is not None:
        slots_S, queries_n1 = torch.arange(slots, device=scores.device), query_slots_n.to(scores.device)[:, None]
        hidden = slots_S > queries_n1
        if window is not None:
            hidden |= slots_S <= queries_n1 - window
        scores.masked_fill_(hidden, float("-inf"))
    normaliser = scores.logsumexp(-1, keepdim=True)
    return (scores[:, :, visual_slots_V.to(scores.device)] - normaliser).exp_()


def attention_mass(
    query_HnD: torch.Tensor,
    key_KSD: torch.Tensor,
    query_slots_n: torch.Tensor,
    visual_slots_V: torch.Tensor,
    scaling: float,
    window: int | None = None,
) -> torch.Tensor:
    """`attention_weights` summed over queries and averaged over heads: (V,)."""
    return attention_weights(query_HnD, key_KSD, query_slots_n, visual_slots_V, scaling, window).sum(1).mean(0)


class AttentionCall(NamedTuple):
    """How a layer's attention was called: what its scores are multiplied with, and slots that a query sees."""

    scaling: float
    window: int | None = None


class AttentionRecorder:
    """Running equation (5) for each sequence of a batch: mean attention of observed queries on the prompt's visual
    tokens.

    visual_slots: per sequence, the slots of the prompt's visual tokens. layers: decoder layers to average; sequences
    that join later bring layers of their own, none where nothing is to be observed. count_copies: attention on
    re-inserted copies counts too, for the visual tokens that they copy. scaling: of the attention scores, where the
    attention's call does not say its own.
    """

    def __init__(
        self,
        cache: RaggedCache,
        visual_slots: Sequence[torch.Tensor],
        layers: Sequence[int],
        scaling: float = 1.0,
        *,
        count_copies: bool = False,
    ) -> None:
        self.cache = cache
        self.scaling = scaling
        self.calls: dict[int, AttentionCall] = {}  # by layer
        self.visual_slots: list[torch.Tensor] = []  # of the prompt, then of the copies that count
        self.visual_indices: list[torch.Tensor] = []  # the visual token that each of them shows
        self.count_copies: list[bool] = []
        self.sequence_layers: list[list[int]] = []
        self.totals: list[torch.Tensor] = []
        self.counts: list[int] = []
        self._waiting: dict[int, torch.Tensor] = {}  # by layer, (B, H, BLOCK_QUERIES, D)
        self._shapes: dict[int, torch.Tensor] = {}  # by layer, queries without a slot, (H, 0, D)
        self._slots: list[list[tuple[int, int]]] = []  # (column, slot) per sequence
        self._column = 0
        self._wanted: list[tuple[int, torch.Tensor, torch.Tensor]] | None = None
        self._slot_masses: list[torch.Tensor] | None = None  # per sequence (N, V), where they are kept
        self.layers = list(layers)
        for slots in visual_slots:
            self.add_sequence(slots, self.layers, count_copies=count_copies)

    def add_sequence(self, visual_slots: torch.Tensor, layers: Sequence[int], *, count_copies: bool = False) -> None:
        """Take one more sequence in, of which nothing was observed yet."""
        self.visual_slots.append(visual_slots)
        self.visual_indices.append(torch.arange(len(visual_slots), device=visual_slots.device))
        self.count_copies.append(count_copies)
        self.sequence_layers.append(list(layers))
        self.totals.append(torch.zeros(len(visual_slots), device=visual_slots.device))
        self.counts.append(0)
        self._slots.append([])
        self.layers = sorted(set().union(*self.sequence_layers))

    def remove_sequence(self, sequence: int) -> None:
        """Let a sequence go; the last sequence takes its number, as in the cache, with the queries that wait."""
        last = len(self.visual_slots) - 1
        for waiting in self._waiting.values():
            if sequence < last < len(waiting):
                waiting[sequence] = waiting[last]
        swap_remove(self.visual_slots, sequence)
        swap_remove(self.visual_indices, sequence)
        swap_remove(self.count_copies, sequence)
        swap_remove(self.sequence_layers, sequence)
        swap_remove(self.totals, sequence)
        swap_remove(self.counts, sequence)
        swap_remove(self._slots, sequence)
        if self._slot_masses is not None:
            swap_remove(self._slot_masses, sequence)
        self.layers = sorted(set().union(*self.sequence_layers))

    def add_copies(self, sequence: int, slots: Sequence[int], visual_indices: Sequence[int]) -> None:
        """The next pass feeds copies of visual tokens at `slots`; only those of the prompt's images ever count."""
        if sequence >= len(self.count_copies):  # a recorder that watches without ranking
            return
        tokens = len(self.totals[sequence])
        copies = [pair for pair in zip(slots, visual_indices, strict=True) if pair[1] < tokens]
        if not copies or not self.count_copies[sequence]:
            return
        for column, values in (
            (self.visual_slots, [s for s, _ in copies]),
            (self.visual_indices, [v for _, v in copies]),
        ):
            column[sequence] = torch.cat([column[sequence], column[sequence].new_tensor(values)])

    def keep_slots(self) -> None:
        """Keep what each slot of a chunk adds, so that another sequence that begins alike can take it over."""
        self._slot_masses = [total.new_zeros((0, len(total))) for total in self.totals]

    def slot_masses(self, sequence: int, slots: int) -> torch.Tensor | None:
        """(N, V) what each of a sequence's first `slots` slots added; None where that was not kept."""
        if self._slot_masses is None:
            return None
        return _lengthened(self._slot_masses[sequence], slots)[:slots].clone()

    def take_over(self, sequence: int, mass_NV: torch.Tensor, sampled: Sequence[int]) -> None:
        """Begin a sequence with what its slots added to another one; `sampled` are those that count."""
        assert self._slot_masses is not None, "the slots' masses are not kept"
        kept = torch.zeros_like(mass_NV)
        kept[list(sampled)] = mass_NV[list(sampled)]
        self._slot_masses[sequence] = kept
        self.totals[sequence] += kept.sum(0)
        self.counts[sequence] += len(sampled)

    def watch_step(self, sequences: Sequence[int]) -> None:
        """The next pass feeds one token to every sequence; observe the queries of `sequences` (sampled tokens)."""
        self.open_step()
        self.note_step(sequences)

    def open_step(self) -> None:
        """The next pass feeds one token to every sequence; `note_step` says whose queries count."""
        if self._column == BLOCK_QUERIES:
            for sequence in range(len(self._slots)):
                self._flush(sequence)
            self._column = 0
        self._wanted = None

    def note_step(self, sequences: Sequence[int]) -> None:
        """The queries of `sequences` count in the step that was opened; before the cache is advanced."""
        for sequence in sequences:
            if self.sequence_layers[sequence]:
                self._slots[sequence].append((self._column, self.cache.lengths[sequence]))

    @property
    def column(self) -> int:
        """The column of the query buffers that the current step writes."""
        return self._column

    def query_buffers(self, sequences: int) -> list[torch.Tensor]:
        """By watched layer, where the queries of steps wait: (sequences, H, BLOCK_QUERIES, D)."""
        return [self._make_room(layer, sequences, self._shapes[layer])[:sequences] for layer in self.layers]

    def watch_chunk(self, wanted: Sequence[tuple[int, Sequence[int]]]) -> None:
        """The next pass feeds several slots: observe queries `indices` (within the pass) of each (sequence, indices).

        The i-th entry belongs to the i-th sequence of the pass.
        """
        self._wanted = [
            (sequence, torch.tensor(indices, dtype=torch.long), torch.tensor(indices) + self.cache.lengths[sequence])
            for sequence, indices in wanted
        ]

    @property
    def listens(self) -> bool:
        """Whether any sequence wants to be observed."""
        return any(self.sequence_layers)

    @property
    def listens_to_chunk(self) -> bool:
        """Whether the current pass is one whose queries were chosen with `watch_chunk`."""
        return self._wanted is not None

    def observe(
        self, layer: int, query_BHnD: torch.Tensor, key_BKSD: torch.Tensor, call: AttentionCall | None = None
    ) -> None:
        """Called by the attention wrapper in every layer, after the cache was written."""
        if layer not in self.layers:
            return
        call = self.calls[layer] = call or AttentionCall(self.scaling)
        self._shapes[layer] = query_BHnD.new_empty((query_BHnD.shape[1], 0, query_BHnD.shape[3]))
        if self._wanted is not None:
            self._add_chunk(layer, query_BHnD, key_BKSD, call)
        elif self.cache.holds(layer, key_BKSD):
            self._keep(layer, query_BHnD)
        else:
            self._add_step(layer, query_BHnD, key_BKSD, call)

    def _add_chunk(self, layer: int, query_BHnD: torch.Tensor, key_BKSD: torch.Tensor, call: AttentionCall) -> None:
        """Add what the wanted queries of a pass over several slots look at."""
        for i, (sequence, indices, slots) in enumerate(self._wanted or ()):
            if len(indices) and layer in self.sequence_layers[sequence]:
                query, visual = query_BHnD[i, :, indices.to(query_BHnD.device)], self.visual_slots[sequence]
                mass_nV = attention_weights(query, key_BKSD[i], slots, visual, *call).mean(0)
                self._add(sequence, mass_nV.sum(0))
                self._keep_slots(sequence, slots, mass_nV)
                self.counts[sequence] += len(indices) if layer == self.sequence_layers[sequence][0] else 0

    def _keep_slots(self, sequence: int, slots: torch.Tensor, mass_nV: torch.Tensor) -> None:
        if self._slot_masses is None or mass_nV.shape[1] != len(self.totals[sequence]):  # copies that count
            return
        kept = self._slot_masses[sequence] = _lengthened(self._slot_masses[sequence], int(slots.max()) + 1)
        kept.index_add_(0, slots.to(kept.device), mass_nV.to(kept.device) / len(self.sequence_layers[sequence]))

    def _add_step(self, layer: int, query_BHnD: torch.Tensor, key_BKSD: torch.Tensor, call: AttentionCall) -> None:
        """Add what a step's queries look at, where the cache does not hold the keys that they are compared with."""
        for sequence, waiting in enumerate(self._slots):
            if waiting and waiting[-1][0] == self._column and layer in self.sequence_layers[sequence]:
                slot, visual = waiting[-1][1], self.visual_slots[sequence]
                keys = key_BKSD[sequence, :, : slot + 1]
                self._add(sequence, attention_mass(query_BHnD[sequence], keys, torch.tensor([slot]), visual, *call))

    def end_step(self) -> None:
        """Close a step begun with `watch_step`."""
        self._column += 1

    def scores(self, sequence: int) -> torch.Tensor:
        """Equation (5) for one sequence so far: (V,), mean over observed tokens, selected layers and heads."""
        self._flush(sequence)
        return self.totals[sequence] / max(1, self.counts[sequence])

    def _keep(self, layer: int, query_BHnD: torch.Tensor) -> None:
        batch = len(query_BHnD)
        self._make_room(layer, batch, self._shapes[layer])[:batch, :, self._column] = query_BHnD[:, :, 0]

    def _make_room(self, layer: int, batch: int, like_H0D: torch.Tensor) -> torch.Tensor:
        heads, _, dim = like_H0D.shape
        waiting = self._waiting.get(layer)
        if waiting is None or len(waiting) < batch:
            held, waiting = waiting, like_H0D.new_zeros((batch, heads, BLOCK_QUERIES, dim))
            if held is not None:
                waiting[: len(held)] = held
            self._waiting[layer] = waiting
        return waiting

    def _flush(self, sequence: int) -> None:
        if not self._slots[sequence]:
            return
        columns = torch.tensor([column for column, _ in self._slots[sequence]])
        slots = torch.tensor([slot for _, slot in self._slots[sequence]])
        for layer in self.sequence_layers[sequence]:
            waiting = self._waiting.get(layer)
            if waiting is None:  # its queries were compared at once
                continue
            query = waiting[sequence][:, columns.to(waiting.device)]
            keys = self.cache.read_keys(layer, sequence)
            visual = self.visual_slots[sequence]
            self._add(sequence, attention_mass(query, keys, slots, visual, *self.calls[layer]))
        self.counts[sequence] += len(slots)
        self._slots[sequence].clear()

    def _add(self, sequence: int, mass_V: torch.Tensor) -> None:
        """Add the mass on each watched slot to the visual token that the slot shows."""
        total = self.totals[sequence]
        total.index_add_(
            0, self.visual_indices[sequence], mass_V.to(total.device) / len(self.sequence_layers[sequence])
        )


def _lengthened(mass_NV: torch.Tensor, slots: int) -> torch.Tensor:
    return torch.nn.functional.pad(mass_NV, (0, 0, 0, max(0, slots - len(mass_NV))))


class _AsKernel:
    """An attention module as its kernel expects it: flash attention looks its own name up in the module's config."""

    def __init__(self, module: Any, kernel_name: str) -> None:
        self._module = module
        self.config = copy.copy(module.config)
        self.config._attn_implementation = kernel_name

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def _wrapper(kernel_name: str) -> Any:
    views: dict[int, Any] = {}

    def attend(module, query, key, value, attention_mask, attention_recorder=None, **kwargs):
        if attention_recorder is not None:
            scaling, window = kwargs.get("scaling"), getattr(module, "sliding_window", None)
            call = None if scaling is None else AttentionCall(scaling, kwargs.get("sliding_window", window))
            attention_recorder.observe(module.layer_idx, query, key, call)
            if (own := getattr(attention_recorder, "attend", None)) is not None:
                return own(module, query, key, value, attention_mask, **kwargs)
        if "flash" in kernel_name:
            view = views.get(id(module))
            if view is None or view._module is not module:
                view = views[id(module)] = _AsKernel(module, kernel_name)
            module = view
        kernel = own_eager(module) if kernel_name == "eager" else ALL_ATTENTION_FUNCTIONS[kernel_name]
        return kernel(module, query, key, value, attention_mask, **kwargs)

    return attend


def own_eager(module: Any) -> Any:
    """The plain attention that a model's own code calls where no kernel is chosen; it knows of sinks and soft caps."""
    return getattr(sys.modules[type(module).__module__], "eager_attention_forward", eager_attention)


@contextmanager
def recorded_attention(model: Any) -> Iterator[None]:
    """Within this context the language model accepts `attention_recorder=` in its forward; its kernel stays its own.

    ValueError for a model whose attention is not measured.
    """
    check_ranking(model.config)
    text_config = model.config.get_text_config()
    kernel = text_config._attn_implementation
    name = PREFIX + kernel
    AttentionInterface.register(name, _wrapper(kernel))
    AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[kernel])
    sub_config = next(key for key in model.config.sub_configs if getattr(model.config, key) is text_config)
    model.set_attn_implementation({sub_config: name})
    try:
        yield
    finally:
        model.set_attn_implementation({sub_config: kernel})


def eager_attention(module, query, key, value, attention_mask, scaling, dropout=0.0, **kwargs):
    """Plain attention, the library's eager formula: (B, H, n, D) queries to ((B, n, H, D) output, weights)."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = torch.nn.functional.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights
