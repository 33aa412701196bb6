"""Beginnings of sequences that were read before, for sequences that begin alike.

Studies ask the same rows under many policies and at many lengths: prompt and given work are the same up to a point, and
are read once. A sequence only takes over what the same slots (token, visual token, position) over the same image
features made, and nothing from its first insertion on; so what it is fed changes, never what it holds.

Legend: N slots, V visual tokens of the prompt.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from look_again.core.cache import States
from look_again.core.runner import Runner
from look_again.core.slots import Provenance, SlotBuilder

Slot = tuple[int, int, tuple[int, ...]]


@dataclass(frozen=True)
class _Beginning:
    """slots: what was read. states: keys and values by layer. mass: (N, V) attention of each sampled slot on the
    prompt's visual tokens, None where nothing was recorded.
    """

    slots: list[Slot]
    states: States
    mass: torch.Tensor | None


class PrefixCache:
    """Beginnings of the last `rows` sequences that differ in their prompts or images."""

    def __init__(self, rows: int) -> None:
        if rows < 1:
            raise ValueError(f"a prefix cache holds at least 1 row, not {rows}")
        self.rows = rows
        self._held: OrderedDict[bytes, _Beginning] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def fill(self, runner: Runner) -> int:
        """Give every sequence of a runner that was not fed yet what is known of it; returns the slots taken over."""
        if runner.cache.recurrent or runner.prompt_recorder is not None:
            return 0
        if runner.recorder is not None:
            runner.recorder.keep_slots()
        longest = max(map(len, runner.builders))
        return sum(self._fill_one(runner, sequence, longest) for sequence in range(len(runner.builders)))

    def keep(self, runner: Runner) -> None:
        """Hold what a runner has read of its sequences, where more is known of them than before."""
        if runner.cache.recurrent or runner.prompt_recorder is not None:
            return
        for sequence, builder in enumerate(runner.builders):
            key, count = self._key(runner, sequence), _shareable(builder, runner.cache.lengths[sequence])
            held = self._held.get(key)
            mass = None if runner.recorder is None else runner.recorder.slot_masses(sequence, count)
            ranked = mass is not None, count
            if held is None or ranked > (held.mass is not None, len(held.slots)):
                states = runner.cache.read_sequence(sequence, count)
                self._held[key] = _Beginning(_slots(builder, count), states, mass)
            self._held.move_to_end(key)
        while len(self._held) > self.rows:
            self._held.popitem(last=False)

    def _fill_one(self, runner: Runner, sequence: int, longest: int) -> int:
        builder = runner.builders[sequence]
        held = self._held.get(self._key(runner, sequence))
        if held is None or (runner.recorder is not None and held.mass is None):
            return 0
        own = _slots(builder, len(builder) - 1)  # the last one is fed, for its logits
        common = _common(own, held.slots)
        if common < builder.provenance.count(Provenance.PROMPT):
            return 0
        runner.cache.write_sequence(sequence, held.states, common, longest)
        if runner.recorder is not None and held.mass is not None:
            sampled = [i for i in range(common) if builder.provenance[i] == Provenance.SAMPLED]
            runner.recorder.take_over(sequence, held.mass[:common], sampled)
        return common

    def _key(self, runner: Runner, sequence: int) -> bytes:
        """Of the prompt and of its own images' features; a control's images lie behind them in the table."""
        builder, table = runner.builders[sequence], runner.features[sequence]
        prompt = _slots(builder, builder.provenance.count(Provenance.PROMPT))
        shown = 1 + max((visual for _, visual, _ in prompt), default=-1)
        digest = hashlib.sha256(repr(prompt).encode())
        if table is not None:
            digest.update(table[:shown].float().cpu().numpy().tobytes())
        return digest.digest()


def _slots(builder: SlotBuilder, count: int) -> list[Slot]:
    return list(zip(builder.token_ids[:count], builder.visual_indices[:count], builder.positions[:count], strict=True))


def _shareable(builder: SlotBuilder, fed: int) -> int:
    """Slots that were fed before the first insertion: where an image is read in both directions, a part is none."""
    return builder.inserted.index(True, 0, fed) if True in builder.inserted[:fed] else fed


def _common(ours: Sequence[Slot], theirs: Sequence[Slot]) -> int:
    return next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs)))
