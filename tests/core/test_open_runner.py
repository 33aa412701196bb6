"""Buffers whose rows come and go hold what each row wrote, and no more memory than their rows need."""

from __future__ import annotations

import random

import torch

from look_again.core.attention import BLOCK_QUERIES, AttentionRecorder, attention_mass
from look_again.core.cache import RaggedCache, swap_remove

LAYERS, HEADS, DIM = 2, 3, 4


def feed(cache: RaggedCache, written: list[list[torch.Tensor]], row: int, slots: int, seed: int) -> None:
    """Write random states of one row, noted in `written` by row and layer."""
    generator = torch.Generator().manual_seed(seed)
    cache.select_one(row)
    for layer in range(LAYERS):
        new = torch.randn(1, HEADS, slots, DIM, generator=generator)
        cache.update(new, -new, layer)
        written[row][layer] = torch.cat([written[row][layer], new[0]], dim=1)
    cache.advance(row, slots)


def step(cache: RaggedCache, written: list[list[torch.Tensor]], seed: int) -> None:
    """Write one slot of every row at once."""
    generator = torch.Generator().manual_seed(seed)
    cache.select_all(torch.device("cpu"))
    for layer in range(LAYERS):
        new = torch.randn(len(written), HEADS, 1, DIM, generator=generator)
        keys, _ = cache.update(new, -new, layer)
        assert len(keys) == len(written)
        for row, own in enumerate(written):
            own[layer] = torch.cat([own[layer], new[row]], dim=1)
    for row in range(len(written)):
        cache.advance(row, 1)


def test_rows_keep_what_they_wrote_while_others_come_and_go():
    """Would catch a place taken over with its old contents, at the old length, or without its values."""
    chance, cache = random.Random(0), RaggedCache(LAYERS, 0)
    written: list[list[torch.Tensor]] = []
    most = 0
    for turn in range(120):
        if not written or (chance.random() < 0.3 and len(written) < 7):
            written.append([torch.empty(HEADS, 0, DIM) for _ in range(LAYERS)])
            assert cache.add_sequence() == len(written) - 1
            feed(cache, written, len(written) - 1, chance.choice([1, 5, 60]), turn)
        elif chance.random() < 0.3:
            row = chance.randrange(len(written))
            cache.remove_sequence(row)
            swap_remove(written, row)
        elif chance.random() < 0.3:
            feed(cache, written, chance.randrange(len(written)), 7, turn)
        else:
            step(cache, written, turn)
        most = max(most, len(written))
        for row, own in enumerate(written):
            assert cache.lengths[row] == own[0].shape[1]
            for layer in range(LAYERS):
                assert torch.equal(cache.read_keys(layer, row), own[layer])
                assert torch.equal(cache.layers[layer].values[row, :, : cache.lengths[row]], -own[layer])
    assert most == 7


def test_room_follows_the_rows():
    """Would catch room for rows that never came, and room kept for rows that left."""
    cache, written = RaggedCache(LAYERS, 0), []
    for row, slots in enumerate([10, 10, 400]):
        cache.add_sequence()
        written.append([torch.empty(HEADS, 0, DIM) for _ in range(LAYERS)])
        feed(cache, written, row, slots, row)
        assert cache.allocated_sequences == (1, 2, 4)[row]
    assert cache.allocated_slots >= 400
    cache.remove_sequence(2)
    assert (cache.allocated_sequences, cache.allocated_slots) == (2, 26)
    assert torch.equal(cache.read_keys(1, 1), written[1][1])
    cache.remove_sequence(0)
    cache.remove_sequence(0)
    assert cache.allocated_sequences * cache.allocated_slots <= 16
    assert cache.lengths == []


def test_waiting_queries_move_with_their_row():
    """Would catch a ranking that loses or inherits the queries which wait while rows change places.

    Three rows with other layers each; the first leaves after a few steps and the last takes its number.
    """
    cache, recorder = RaggedCache(LAYERS, 0), None
    recorder = AttentionRecorder(cache, [], [], 0.5)
    visual, written = torch.tensor([1, 2]), []
    for row, layers in enumerate([(0,), (), (1, 0)]):
        cache.add_sequence()
        recorder.add_sequence(visual, layers)
        written.append([torch.empty(HEADS, 0, DIM) for _ in range(LAYERS)])
        feed(cache, written, row, 4 + row, row)
    expected, generator = torch.zeros(2), torch.Generator().manual_seed(5)
    last = 2
    for turn in range(BLOCK_QUERIES + 5):
        if turn == 7:
            cache.remove_sequence(0)
            recorder.remove_sequence(0)
            swap_remove(written, 0)
            last = 0
        recorder.watch_step(range(len(written)))
        slot = torch.tensor([cache.lengths[last]])
        step(cache, written, turn)
        for layer in range(LAYERS):
            query = torch.randn(len(written), HEADS, 1, DIM, generator=generator)
            recorder.observe(layer, query, cache.layers[layer].keys)
            keys = written[last][layer]
            expected += attention_mass(query[last], keys, slot, visual, 0.5) / 2
        recorder.end_step()
    assert recorder.counts[1] == 0
    assert torch.allclose(recorder.scores(last), expected / (BLOCK_QUERIES + 5), atol=1e-6)
    assert recorder.listens
    recorder.remove_sequence(0)
    assert not recorder.listens
