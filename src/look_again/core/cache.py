"""A key-value cache whose sequences each have their own length.

Sequences reflect at different times, so after a while a batch's sequences differ in length. Here each sequence writes
at its own length into one buffer: no padding in the middle, no second copy, and a re-insertion works on a view of its
own part. The buffer grows by a sixteenth at a time, one layer after the other, so growth is amortised and never doubles
the cache. Sequences may also join and leave: the sequences in use are always the buffer's first, and the last one takes
a leaver's place.

Legend: B sequences, H key-value heads, S slots, D head dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

T = TypeVar("T")
States = list[tuple[torch.Tensor, torch.Tensor] | None]
"""By layer, the keys and values of a sequence, (H, S, D) each; None of a layer that keeps none."""

SMALLEST_BUCKET = 128  # slots


@dataclass
class Window:
    """Which sequences the next forward pass writes, and where.

    sequences: the sequences taking part, as a slice. lengths: (B,) tensor of cached slots per sequence when they
    differ, None when all are `longest` long. longest: the longest of them.
    """

    sequences: slice
    lengths: torch.Tensor | None
    longest: int


class RaggedLayer(CacheLayerMixin):
    """One layer's keys and values, (B, H, capacity, D) each, written through the cache's current window."""

    is_sliding = False

    def __init__(self, cache: RaggedCache) -> None:
        super().__init__()
        self.cache = cache

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys = key_states.new_empty((self.cache.num_sequences, key_states.shape[1], 0, key_states.shape[3]))
        self.values = value_states.new_empty(
            (self.cache.num_sequences, value_states.shape[1], 0, value_states.shape[3])
        )
        self.is_initialized = True

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any):
        """Write the new states (B', H, n, D) of the window's sequences; return their keys and values so far."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        window = self.cache.window
        stop = window.longest + key_states.shape[2]
        self.reserve(stop, self.cache.num_sequences)
        assert self.keys is not None
        assert self.values is not None
        keys, values = self.keys[window.sequences], self.values[window.sequences]
        if window.lengths is None:
            keys[:, :, window.longest : stop] = key_states
            values[:, :, window.longest : stop] = value_states
        else:
            assert key_states.shape[2] == 1, "sequences of different lengths advance one slot at a time"
            index = window.lengths.to(keys.device).view(-1, 1, 1, 1).expand_as(key_states)
            keys.scatter_(2, index, key_states)
            values.scatter_(2, index, value_states)
        return keys[:, :, :stop], values[:, :, :stop]

    def move(self, source: int, target: int, slots: int) -> None:
        """Copy the first `slots` slots of one sequence to another's place."""
        if self.keys is not None and self.values is not None:
            self.keys[target, :, :slots] = self.keys[source, :, :slots]
            self.values[target, :, :slots] = self.values[source, :, :slots]

    def write(self, sequence: int, states: tuple[torch.Tensor, torch.Tensor], slots: int, room: int) -> None:
        """Put the first `slots` slots of known states at a sequence's beginning, with room for `room` slots."""
        if not self.is_initialized:
            self.lazy_initialization(*(part[None] for part in states))
        self.reserve(room, self.cache.num_sequences)
        assert self.keys is not None
        assert self.values is not None
        self.keys[sequence, :, :slots] = states[0][:, :slots]
        self.values[sequence, :, :slots] = states[1][:, :slots]

    def trim(self, sequences: int, slots: int) -> None:
        """Give memory back where the buffer is more than twice as large as what is used of it."""
        if self.keys is None or self.values is None:
            return
        wanted = (round_up(sequences), self.cache.capacity(slots))
        if self.keys.shape[0] * self.keys.shape[2] > 2 * wanted[0] * wanted[1]:
            self.keys = _resized(self.keys, *wanted)
            self.values = _resized(self.values, *wanted)

    def reserve(self, slots: int, sequences: int) -> None:
        """Have room for so many slots of so many sequences."""
        assert self.keys is not None
        assert self.values is not None
        held_sequences, _, held_slots, _ = self.keys.shape
        if slots <= held_slots and sequences <= held_sequences:
            return
        capacity = held_slots if slots <= held_slots else self.cache.capacity(slots)
        held_sequences = held_sequences if sequences <= held_sequences else round_up(sequences)
        self.keys = _resized(self.keys, held_sequences, capacity)
        self.values = _resized(self.values, held_sequences, capacity)

    def get_seq_length(self) -> int:
        return self.cache.window.longest

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.cache.window.longest + query_length, 0

    def get_max_length(self) -> int:
        return -1

    def get_max_cache_shape(self) -> int:
        return -1


def round_to_bucket(slots: int) -> int:
    """The capacity that holds so many slots where capacities go by buckets: multiples of 128, an eighth at most unused
    from 1,024 on.
    """
    step = max(SMALLEST_BUCKET, (1 << max(0, slots - 1).bit_length()) // 16)
    return -(-slots // step) * step


def round_up(sequences: int) -> int:
    """Rows are made room for in powers of two, so that joining one by one copies little."""
    return 1 << max(0, sequences - 1).bit_length()


def _resized(states: torch.Tensor, sequences: int, capacity: int) -> torch.Tensor:
    batch, heads, slots, dim = states.shape
    resized = states.new_zeros((sequences, heads, capacity, dim))
    kept_sequences, kept_slots = min(batch, sequences), min(slots, capacity)
    if kept_slots:
        resized[:kept_sequences, :, :kept_slots] = states[:kept_sequences, :, :kept_slots]
    return resized


def swap_remove(items: list[T], index: int) -> None:
    """Take out an item in constant time: the last one takes its place."""
    last = items.pop()
    if index < len(items):
        items[index] = last


class RaggedCache(Cache):
    """A cache for `batch_size` sequences over `num_layers` layers; `lengths[b]` slots of sequence b are in use.

    Before each forward pass choose its sequences with `select_all` or `select_one`; afterwards `advance` them by what
    was fed. Batches whose sequences come and go start with none. bucketed: capacities go by buckets, and sequences by
    powers of two, as a compiled step needs them.
    """

    recurrent = False  # whether some layers keep states, so that each sequence has to be prefilled alone

    def __init__(self, num_layers: int, batch_size: int, *, bucketed: bool = False) -> None:
        self.num_sequences = batch_size
        self.bucketed = bucketed
        self.lengths = [0] * batch_size
        self.window = Window(slice(0, batch_size), None, 0)
        self._ragged = [RaggedLayer(self) for _ in range(num_layers)]
        super().__init__(layers=list(self._ragged))

    def select_all(self, device: torch.device) -> torch.Tensor | None:
        """Write every sequence in the next pass, one slot each unless all are equally long.

        Returns the 2-D attention mask (B, longest + 1) that one more slot per sequence needs, None when sequences are
        equal.
        """
        longest = max(self.lengths)
        if min(self.lengths) == longest:
            self.window = Window(slice(0, self.num_sequences), None, longest)
            return None
        lengths = torch.tensor(self.lengths, device=device)
        self.window = Window(slice(0, self.num_sequences), lengths, longest)
        return (torch.arange(longest + 1, device=device) <= lengths[:, None]).long()

    def select_one(self, sequence: int) -> None:
        """Write only `sequence` in the next pass, any number of slots; the pass reads a view of its part."""
        self.window = Window(slice(sequence, sequence + 1), None, self.lengths[sequence])

    def advance(self, sequence: int, slots: int) -> None:
        """Count `slots` more slots of `sequence` as used (negative to take back the last ones)."""
        self.lengths[sequence] += slots

    def first_new(self, sequence: int) -> int:
        """The first slot of a sequence that no pass has fed yet."""
        return self.lengths[sequence]

    def hold(self, sequences: Sequence[int]) -> Any:
        """What a pass would change of sequences that stand still in it; nothing here."""

    def restore(self, sequences: Sequence[int], held: Any) -> None:
        """Undo what the pass did to sequences that stood still."""

    def add_sequence(self) -> int:
        """Take one more, empty sequence in; returns its number."""
        self.lengths.append(0)
        self.num_sequences += 1
        return self.num_sequences - 1

    def remove_sequence(self, sequence: int) -> None:
        """Let a sequence go; the last sequence takes its number."""
        last = self.num_sequences - 1
        if sequence != last:
            for layer in self._ragged:
                layer.move(last, sequence, self.lengths[last])
        swap_remove(self.lengths, sequence)
        self.num_sequences = last
        for layer in self._ragged:
            layer.trim(last, max(self.lengths, default=0))

    def read_sequence(self, sequence: int, slots: int) -> States:
        """A copy of the first `slots` slots of a sequence."""
        return [
            None
            if layer.keys is None or layer.values is None
            else (layer.keys[sequence, :, :slots].clone(), layer.values[sequence, :, :slots].clone())
            for layer in self._ragged
        ]

    def write_sequence(self, sequence: int, states: States, slots: int, room: int) -> None:
        """Begin an empty sequence with the first `slots` slots of known states, with room for `room` slots."""
        for layer, known in zip(self._ragged, states, strict=True):
            if known is not None:
                layer.write(sequence, known, slots, room)
        self.advance(sequence, slots)

    def capacity(self, slots: int) -> int:
        """The slots to allocate where so many are needed."""
        return round_to_bucket(slots) if self.bucketed else slots + max(16, slots // 16)

    def reserve_step(self) -> int:
        """Make room for one more slot of every sequence; the sequences, in use or not, that there is room for."""
        for layer in self._ragged:
            layer.reserve(max(self.lengths) + 1, round_up(self.num_sequences))
        return self.allocated_sequences

    def reserve_slots(self, sequence: int, slots: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Make room for so many slots of a sequence; the buffers of every layer."""
        for layer in self._ragged:
            layer.reserve(max(slots, *self.lengths), self.num_sequences)
        return self.buffers()

    def buffers(self) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Keys and values of every layer, whole: (sequences, H, capacity, D) each."""
        keys = [layer.keys for layer in self._ragged if layer.keys is not None]
        return keys, [layer.values for layer in self._ragged if layer.values is not None]

    @property
    def _first_keys(self) -> torch.Tensor | None:
        """Keys of the first layer that keeps any."""
        return next((keys for layer in self._ragged if (keys := getattr(layer, "keys", None)) is not None), None)

    @property
    def allocated_sequences(self) -> int:
        """Rows that there is room for."""
        keys = self._first_keys
        return 0 if keys is None else keys.shape[0]

    @property
    def allocated_slots(self) -> int:
        """Slots allocated per sequence."""
        keys = self._first_keys
        return 0 if keys is None else keys.shape[2]

    def holds(self, layer: int, keys: torch.Tensor) -> bool:
        """Whether a layer's attention over `keys` (B, H, S, D) is over what is cached, as it is cached.

        Layers that share another's keys cache none, and some cache compressed ones.
        """
        cached = getattr(self._ragged[layer], "keys", None)
        return cached is not None and cached.shape[1] == keys.shape[1] and cached.shape[3] == keys.shape[3]

    def read_keys(self, layer: int, sequence: int) -> torch.Tensor:
        """A view of one sequence's keys so far, (H, S, D)."""
        keys = self._ragged[layer].keys
        assert keys is not None, "nothing was cached yet"
        return keys[sequence, :, : self.lengths[sequence]]
