"""A key-value cache whose batch rows each have their own length.

Rows reflect at different times, so after a while a batch's sequences differ in length. Here each row writes at its own
length into one buffer: no padding in the middle, no second copy, and a re-insertion works on a view of its row. The
buffer grows by a sixteenth at a time, one layer after the other, so growth is amortised and never doubles the cache.

Legend: B batch rows, H key-value heads, S slots, D head dimension.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin


@dataclass
class Window:
    """Which rows the next forward pass writes, and where.

    rows: the batch rows taking part, as a slice. lengths: (B,) tensor of cached slots per row when they differ, None
    when all are `longest` long. longest: the longest of them.
    """

    rows: slice
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
        self.keys = key_states.new_empty((self.cache.num_rows, key_states.shape[1], 0, key_states.shape[3]))
        self.values = value_states.new_empty((self.cache.num_rows, value_states.shape[1], 0, value_states.shape[3]))
        self.is_initialized = True

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any):
        """Write the new states (B', H, n, D) of the window's rows; return those rows' keys and values so far."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        window = self.cache.window
        stop = window.longest + key_states.shape[2]
        self._reserve(stop)
        assert self.keys is not None
        assert self.values is not None
        keys, values = self.keys[window.rows], self.values[window.rows]
        if window.lengths is None:
            keys[:, :, window.longest : stop] = key_states
            values[:, :, window.longest : stop] = value_states
        else:
            assert key_states.shape[2] == 1, "rows of different lengths advance one slot at a time"
            index = window.lengths.to(keys.device).view(-1, 1, 1, 1).expand_as(key_states)
            keys.scatter_(2, index, key_states)
            values.scatter_(2, index, value_states)
        return keys[:, :, :stop], values[:, :, :stop]

    def _reserve(self, slots: int) -> None:
        assert self.keys is not None
        assert self.values is not None
        if slots <= self.keys.shape[2]:
            return
        capacity = slots + max(16, slots // 16)
        self.keys = _grown(self.keys, capacity)
        self.values = _grown(self.values, capacity)

    def get_seq_length(self) -> int:
        return self.cache.window.longest

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.cache.window.longest + query_length, 0

    def get_max_length(self) -> int:
        return -1

    def get_max_cache_shape(self) -> int:
        return -1


def _grown(states: torch.Tensor, capacity: int) -> torch.Tensor:
    batch, heads, old, dim = states.shape
    grown = states.new_zeros((batch, heads, capacity, dim))
    if old:
        grown[:, :, :old] = states
    return grown


class RaggedCache(Cache):
    """A cache for `batch_size` rows over `num_layers` layers; `lengths[b]` slots of row b are in use.

    Before each forward pass choose its rows with `all_rows` or `one_row`; afterwards `advance` them by what was fed.
    """

    def __init__(self, num_layers: int, batch_size: int) -> None:
        self.num_rows = batch_size
        self.lengths = [0] * batch_size
        self.window = Window(slice(0, batch_size), None, 0)
        self._ragged = [RaggedLayer(self) for _ in range(num_layers)]
        super().__init__(layers=list(self._ragged))

    def all_rows(self, device: torch.device) -> torch.Tensor | None:
        """Write every row in the next pass, one slot each unless all are equally long.

        Returns the 2-D attention mask (B, longest + 1) that one more slot per row needs, None when rows are equal.
        """
        longest = max(self.lengths)
        if min(self.lengths) == longest:
            self.window = Window(slice(0, self.num_rows), None, longest)
            return None
        lengths = torch.tensor(self.lengths, device=device)
        self.window = Window(slice(0, self.num_rows), lengths, longest)
        return (torch.arange(longest + 1, device=device) <= lengths[:, None]).long()

    def one_row(self, row: int) -> None:
        """Write only `row` in the next pass, any number of slots; the pass reads a view of its part of the buffer."""
        self.window = Window(slice(row, row + 1), None, self.lengths[row])

    def advance(self, row: int, slots: int) -> None:
        """Count `slots` more slots of `row` as used (negative to take back the last ones)."""
        self.lengths[row] += slots

    @property
    def allocated_slots(self) -> int:
        """Slots allocated per row."""
        keys = self._ragged[0].keys
        return 0 if keys is None else keys.shape[2]

    def keys_of(self, layer: int, row: int) -> torch.Tensor:
        """A view of one row's keys so far, (H, S, D)."""
        keys = self._ragged[layer].keys
        assert keys is not None, "nothing was cached yet"
        return keys[row, :, : self.lengths[row]]
