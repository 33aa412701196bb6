"""A ragged cache for models of which some layers are recurrent: linear attention keeps a state, not keys.

A state has read everything so far and cannot be read back in time. So a sequence is never fed padding: each is
prefilled alone, one that stands still while others step gets its state back, and one whose last slots are taken back is
fed again from its beginning (a tag that an untrained model spells in pieces; nothing else takes slots back).

Legend: B sequences of a pass, C channels, K width of the convolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import LinearAttentionLayer

from look_again.core.cache import RaggedCache, round_up
from look_again.core.families import layer_kinds

States = tuple[torch.Tensor, torch.Tensor]


class RaggedStates(LinearAttentionLayer):
    """One recurrent layer's convolution state (sequences, C, K) and recurrent state (sequences, ...)."""

    def __init__(self, cache: RecurrentCache) -> None:
        super().__init__()
        self.cache = cache
        self.convolution: torch.Tensor | None = None
        self.recurrence: torch.Tensor | None = None

    def read_convolution(self) -> torch.Tensor | None:
        """The states of the pass's sequences, a view; None where nothing was fed yet."""
        return None if self.convolution is None or not self.cache.begun else self.convolution[self.cache.rows]

    def read_recurrence(self) -> torch.Tensor | None:
        """As `read_convolution`, of the recurrent state."""
        return None if self.recurrence is None or not self.cache.begun else self.recurrence[self.cache.rows]

    def write_convolution(self, new: torch.Tensor, width: int) -> torch.Tensor:
        """Take in the inputs (B, C, n); returns them behind what the convolution still sees of earlier ones."""
        self.convolution = _made_room(self.convolution, (*new.shape[1:-1], width), new, self.cache.num_sequences)
        earlier = self.read_convolution()
        padded = torch.nn.functional.pad(new, (width, 0)) if earlier is None else torch.cat([earlier, new], -1)
        self.convolution[self.cache.rows] = padded[..., -width:]
        return padded

    def write_recurrence(self, new: torch.Tensor) -> torch.Tensor:
        """Replace the states of the pass's sequences."""
        self.recurrence = _made_room(self.recurrence, new.shape[1:], new, self.cache.num_sequences)
        self.recurrence[self.cache.rows] = new
        return self.recurrence[self.cache.rows]

    def copy_states(self, sequences: Sequence[int]) -> States | None:
        """Copies of some sequences' states."""
        if self.convolution is None or self.recurrence is None:
            return None
        self.convolution = _made_room(
            self.convolution, self.convolution.shape[1:], self.convolution, self.cache.num_sequences
        )
        self.recurrence = _made_room(
            self.recurrence, self.recurrence.shape[1:], self.recurrence, self.cache.num_sequences
        )
        return self.convolution[list(sequences)].clone(), self.recurrence[list(sequences)].clone()

    def put_back(self, sequences: Sequence[int], states: States | None) -> None:
        """Undo what a pass did to sequences that only stood by."""
        if states is not None and self.convolution is not None and self.recurrence is not None:
            self.convolution[list(sequences)], self.recurrence[list(sequences)] = states

    def move(self, source: int, target: int, slots: int) -> None:
        """Copy one sequence's states to another's place."""
        for states in (self.convolution, self.recurrence):
            if states is not None and max(source, target) < len(states):
                states[target] = states[source]

    def trim(self, sequences: int, slots: int) -> None:
        """Give memory back where there is room for more than twice as many sequences as are used."""
        wanted = round_up(sequences)
        if self.convolution is not None and self.recurrence is not None and len(self.convolution) > 2 * wanted:
            self.convolution, self.recurrence = self.convolution[:wanted].clone(), self.recurrence[:wanted].clone()


def _made_room(states: torch.Tensor | None, shape: Any, like: torch.Tensor, sequences: int) -> torch.Tensor:
    if states is not None and len(states) >= sequences:
        return states
    room = like.new_zeros((sequences if states is None else round_up(sequences), *shape))
    if states is not None:
        room[: len(states)] = states
    return room


class RecurrentCache(RaggedCache):
    """A ragged cache some of whose layers hold states; transformers 5.21 or newer asks it for them."""

    recurrent = True

    def __init__(self, kinds: Sequence[str], batch_size: int) -> None:
        super().__init__(len(kinds), batch_size)
        self.rewound = [0] * batch_size  # slots that a sequence had fed when it had to begin again
        self.states = [RaggedStates(self) for kind in kinds if kind == "linear_attention"]
        following = iter(self.states)
        for layer, kind in enumerate(kinds):
            if kind == "linear_attention":
                self.layers[layer] = self._ragged[layer] = next(following)  # type: ignore[call-overload]

    @property
    def rows(self) -> slice:
        """The sequences of the current pass."""
        return self.window.sequences

    @property
    def begun(self) -> bool:
        """Whether the current pass goes on; a sequence that begins is fed alone."""
        return any(self.lengths[i] for i in range(*self.rows.indices(self.num_sequences)))

    def advance(self, sequence: int, slots: int) -> None:
        """As for any ragged cache; but to take slots back, a sequence has to be fed again from its beginning."""
        if slots >= 0:
            super().advance(sequence, slots)
        else:
            self.rewound[sequence] = self.lengths[sequence] + slots
            self.lengths[sequence] = 0

    def first_new(self, sequence: int) -> int:
        return max(self.lengths[sequence], self.rewound[sequence])

    def hold(self, sequences: Sequence[int]) -> list[States | None]:
        """The states of sequences that stand still in the next pass."""
        return [layer.copy_states(sequences) for layer in self.states] if sequences else []

    def restore(self, sequences: Sequence[int], held: Sequence[States | None]) -> None:
        """Undo what the pass did to them."""
        for layer, states in zip(self.states, held, strict=False):
            layer.put_back(sequences, states)

    def add_sequence(self) -> int:
        self.rewound.append(0)
        return super().add_sequence()

    def remove_sequence(self, sequence: int) -> None:
        last = self.rewound.pop()
        if sequence < len(self.rewound):
            self.rewound[sequence] = last
        super().remove_sequence(sequence)

    def get_conv_state(self, layer_idx: int, state_idx: int = 0) -> torch.Tensor | None:
        """Called by the model."""
        return self._states(layer_idx).read_convolution()

    def get_recurrent_state(self, layer_idx: int, state_idx: int = 0) -> torch.Tensor | None:
        """Called by the model."""
        return self._states(layer_idx).read_recurrence()

    def update_conv_state(
        self, conv_states: torch.Tensor, layer_idx: int, state_idx: int = 0, **kwargs: Any
    ) -> torch.Tensor:
        """Called by the model."""
        return self._states(layer_idx).write_convolution(conv_states, kwargs["conv_kernel_size"])

    def update_recurrent_state(
        self, recurrent_states: torch.Tensor, layer_idx: int, state_idx: int = 0, **kwargs: Any
    ) -> torch.Tensor:
        """Called by the model."""
        return self._states(layer_idx).write_recurrence(recurrent_states)

    def _states(self, layer: int) -> RaggedStates:
        states = self.layers[layer]
        assert isinstance(states, RaggedStates)
        return states


def build_cache(config: Any, batch_size: int, *, bucketed: bool = False) -> RaggedCache:
    """The cache that a model of this configuration needs. bucketed: as of `RaggedCache`; no recurrent ones."""
    kinds = layer_kinds(config)
    if "linear_attention" in kinds:
        return RecurrentCache(kinds, batch_size)
    return RaggedCache(len(kinds), batch_size, bucketed=bucketed)
