"""Keys put back by a rotation: the first layer's are those of a prefill, the sequence is COPY's, and nothing is fed."""

from __future__ import annotations

import pytest
import torch

from look_again.core import generate
from look_again.core.generate import LookAgainDecoding
from look_again.core.reattention import Reattention
from look_again.core.reuse.rotated_keys import check_rotates, find_sources
from look_again.core.runner import Runner
from look_again.core.slots import Provenance
from look_again.core.trigger import Trigger
from tests.core.test_families import load
from tests.tiny_model import decode

COPY, ROTATED = Reattention(), Reattention(reuse="rotated")
PLAN = ((3, 9), (6,))


@pytest.fixture
def runners(monkeypatch) -> list[Runner]:
    """The runners of the test's answers, in order."""
    made: list[Runner] = []
    monkeypatch.setattr(generate, "Runner", lambda *args, **kw: made.append(Runner(*args, **kw)) or made[-1])
    return made


def look(model, tokenizer, prompts, policy, **options):
    trigger = Trigger.of(tokenizer)
    plan = {(row, at): trigger.open_id for row in range(len(prompts)) for at in PLAN[row]}
    decoding = LookAgainDecoding(trigger, policy, **options)
    return decode(model, tokenizer, prompts, plan=plan, decoding=decoding, max_new_tokens=12)


def test_the_first_layers_keys_are_those_of_a_prefill(model, tokenizer, prompts, runners):
    """The first layer reads embeddings alone, so there a rotation loses nothing: would catch a wrong angle, source,
    place or order of any slot. Deeper layers differ, or the copies would not have been reused."""
    outputs = [look(model, tokenizer, prompts[:2], policy) for policy in (COPY, ROTATED)]
    for row in range(2):
        copied, rotated = (output.slots[row] for output in outputs)
        inserted = copied.inserted.nonzero()[:, 0]
        first = int(inserted[0])
        block = [slot for slot in inserted.tolist() if slot < first + 200 and copied.inserted[first : slot + 1].all()]
        assert torch.equal(copied.token_ids[: block[-1]], rotated.token_ids[: block[-1]])
        assert torch.equal(copied.positions[:, : block[-1]], rotated.positions[:, : block[-1]])
        keys = [[runner.cache.read_keys(layer, row)[:, block] for layer in (0, 1)] for runner in runners]
        assert torch.allclose(keys[0][0], keys[1][0], atol=1e-5)
        assert not torch.allclose(keys[0][1], keys[1][1], atol=1e-2)


def test_nothing_of_an_insertion_is_fed(model, tokenizer, prompts, monkeypatch):
    fed = []
    chunk = Runner.chunk

    def count(runner, sequence):
        fed.append(len(runner.builders[sequence]) - runner.cache.lengths[sequence])
        return chunk(runner, sequence)

    monkeypatch.setattr(Runner, "chunk", count)
    output = look(model, tokenizer, prompts[:2], ROTATED)
    assert all(reflection.reinserted_tokens for row in output.reflections for reflection in row)
    assert fed == [1, 1, 1]


def test_a_given_beginning_reads_as_decoding_does(model, tokenizer, prompts):
    """Would catch an insertion of a prefix that is prefilled with it."""
    free = look(model, tokenizer, prompts[:2], ROTATED)
    prefixes = [response[:8] for response in free.responses]
    given = look(model, tokenizer, prompts[:2], ROTATED, prefixes=prefixes)
    assert [r[:8] for r in given.responses] == prefixes
    for ours, theirs in zip(given.slots, free.slots, strict=True):
        count = int((theirs.provenance == Provenance.SAMPLED).nonzero()[7]) + 1
        assert torch.equal(ours.token_ids[:count], theirs.token_ids[:count])
    assert max(float((free.logits[8][row] - given.logits[0][row]).abs().max()) for row in range(2)) < 1e-4


def test_sources_of_chosen_tokens_are_their_own(model, tokenizer, prompts, runners):
    """ROUTE's gaps, and two images with their delimiters."""
    output = look(model, tokenizer, prompts[:2], Reattention(mode="route", keep=30, reuse="rotated"))
    for row, builder in enumerate(runners[0].builders):
        slots = output.slots[row]
        first = int(slots.inserted.nonzero()[0])
        count = 0
        while slots.inserted[first + count]:
            count += 1
        sources = find_sources(builder, first, count)
        assert [builder.token_ids[s] for s in sources] == builder.token_ids[first : first + count]
        assert [builder.visual_indices[s] for s in sources] == builder.visual_indices[first : first + count]
        assert sources == sorted(sources)


def test_what_cannot_be_rotated_is_named():
    with pytest.raises(ValueError, match=r"made for qwen2_vl and qwen2_5_vl .* not for this internvl"):
        check_rotates(load("internvl").model)
    with pytest.raises(ValueError, match="never cached"):
        Reattention(control="blank-image", reuse="rotated")
    with pytest.raises(ValueError, match="unknown reuse 'again'"):
        Reattention(reuse="again")
