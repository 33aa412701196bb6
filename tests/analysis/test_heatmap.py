"""Maps over places and attention sinks, on arrays small enough to work out by hand."""

from __future__ import annotations

import pytest
import torch

from look_again.analysis.heatmap import Panel, by_place, constant_sinks, outsized, prompt_sinks, split_panels
from look_again.core.families import FAMILIES, VisionTokens
from look_again.core.slots import Provenance, SlotBuilder, Slots, build_spans

SPANS = build_spans([(1, 1, 3)])


def looked_twice() -> Slots:
    """Three places in the prompt; rows 0 and 2 put back, then row 2 again."""
    builder = SlotBuilder(FAMILIES["qwen2_5_vl"], VisionTokens(image=1, video=2, start=3, end=4))
    builder.add_prompt([1, 1, 1], SPANS)
    for rows in ([0, 2], [2]):
        builder.add_token(9, Provenance.SAMPLED)
        builder.insert([(SPANS[0], rows)])
    return builder.build()


def test_every_copy_of_a_row_lands_on_its_place():
    """Slots of rows 0 1 2 | 0 2 | 2. Would catch routed rows counted in order instead of by place, or overwritten."""
    on_rows = torch.tensor([[1.0, 2.0, 3.0, 10.0, 20.0, 40.0]])
    original, reinserted = by_place(looked_twice(), on_rows, 3)
    assert original.tolist() == [[1, 2, 3]]
    assert reinserted.tolist() == [[10, 0, 60]]
    panel = split_panels(looked_twice(), on_rows, ["CAPTION"], [4], 3)[0]
    assert (panel.name, panel.tokens, panel.both.tolist()) == ("CAPTION", 4, [11, 2, 63])


def panel(values: list[float], name: str = "") -> Panel:
    return Panel(name, 1, torch.tensor(values), torch.zeros(len(values)))


def test_outsized_is_relative_to_an_even_share():
    """Of 1.0 over 4 places an even share is 0.25: 0.5 is twice that. Scale does not matter; nothing in nothing is."""
    values = torch.tensor([0.5, 0.3, 0.1, 0.1])
    assert outsized(values, 2.0).tolist() == [True, False, False, False]
    assert outsized(values * 1e-3, 2.0).tolist() == outsized(values, 2.0).tolist()
    assert outsized(values, 1.2).tolist() == [True, True, False, False]
    assert not outsized(torch.zeros(4), 2.0).any()


def test_sinks_on_a_synthetic_array():
    """Place 5 draws everything, place 2 only the caption, place 7 only the prompt's text.

    Would catch an object that one section is about marked as a sink.
    """
    quiet = [0.01] * 10
    prompt, caption, reasoning = ([*quiet] for _ in range(3))
    prompt[5], prompt[7] = 0.3, 0.3
    caption[5], caption[2] = 0.2, 0.2
    reasoning[5] = 0.2
    assert prompt_sinks(panel(prompt), 4.0) == [5, 7]
    assert constant_sinks([panel(caption), panel(reasoning)], 4.0) == [5]
    assert constant_sinks([panel(caption)], 4.0) == []
    assert prompt_sinks(panel(quiet), 4.0) == []


@pytest.mark.parametrize(("original", "expected"), [([0.0, 0.0, 0.0, 0.1], [0]), ([0.6, 0.0, 0.0, 0.1], [0])])
def test_constant_sinks_look_at_both_copies_of_a_place(original, expected):
    """Would catch a sink that moves to its re-inserted copy and is missed."""
    both = Panel("REFLECTION", 1, torch.tensor(original), torch.tensor([0.9, 0.0, 0.0, 0.0]))
    assert constant_sinks([both, panel([0.9, 0.0, 0.0, 0.1])], 3.0) == expected
