"""Curves, tracks and lists against length, worked out by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from look_again.analysis.curves import aligned, bin_width, binned
from look_again.analysis.dilution import Track, build_track, summarise
from look_again.analysis.measured_answers import AnswerSection
from look_again.analysis.reading import Reading
from look_again.core.families import FAMILIES, VisionTokens
from look_again.core.slots import Provenance, SlotBuilder, build_spans
from look_again.scoring.statistics import wilson_interval
from look_again.tabletop.list_curves import against_length, summary
from look_again.tabletop.world import Scene, Thing

NAN = float("nan")
SCENE = Scene((Thing("a1", "red", "ball"), Thing("b2", "blue", "cube")))


def test_bins_count_every_answer_once():
    """Answers 1 3 | 5 and 3 5 | - -: means 2 and 4, then 5. Would catch long answers weighing more than short ones.

    The standard error of (2, 4) is 1; tokens 1 and 2 are drawn at 1.5.
    """
    curve = binned([np.array([1.0, 3.0, 5.0]), np.array([3.0, 5.0])], 2)
    assert curve.x == [1.5, 3.5]
    assert curve.mean == [3.0, 5.0]
    assert curve.low[0] == pytest.approx(3 - 1.959964, abs=1e-5)
    assert curve.high[0] == pytest.approx(3 + 1.959964, abs=1e-5)
    assert (curve.low[1], curve.high[1], curve.n) == (None, None, [2, 1])


def test_unknown_values_are_left_out():
    """Would catch a NaN that swallows its point, or reaches the JSON."""
    curve = binned([np.array([NAN, 2.0, NAN]), np.array([4.0, NAN, NAN])], 1)
    assert (curve.mean, curve.n) == ([4.0, 2.0, None], [1, 1, 0])
    assert "NaN" not in json.dumps(curve.as_dict())


def test_alignment_puts_each_answers_own_token_at_zero():
    curve = aligned([(np.array([1.0, 2.0, 3.0]), 1), (np.array([6.0, 7.0]), 0)], 1, 1)
    assert curve.x == [-1.0, 0.0, 1.0]
    assert (curve.mean, curve.n) == ([1.0, 4.0, 5.0], [1, 2, 2])


def test_one_answer_is_not_binned():
    assert (bin_width([900]), bin_width([30, 60]), bin_width([61, 3])) == (1, 1, 2)


def test_a_track_joins_slots_and_reading():
    """Two layers, two tokens, one insertion. Would catch heads or layers summed, and the bound without its share."""
    builder = SlotBuilder(FAMILIES["qwen2_5_vl"], VisionTokens(image=1, video=2, start=3, end=4))
    spans = build_spans([(1, 1, 2)])
    builder.add_prompt([5, 3, 1, 1, 4, 6], spans)
    builder.add_token(10, Provenance.SAMPLED)
    builder.insert([(spans[0], [0, 1])])
    builder.add_token(11, Provenance.SAMPLED)
    on_blocks = torch.tensor([[[0.4, 0.0], [0.2, 0.2]], [[0.2, 0.0], [0.1, 0.4]]])
    reading = Reading(on_blocks, torch.zeros(2, 0, 4), torch.tensor([0.7, 1.5]))
    track = build_track(builder.build(), reading)
    assert track.original.tolist() == pytest.approx([0.3, 0.15])
    assert track.reinserted.tolist() == pytest.approx([0.0, 0.3])
    assert track.per_layer.tolist() == [pytest.approx([0.4, 0.4]), pytest.approx([0.2, 0.5])]
    assert track.share.tolist() == pytest.approx([2 / 7, 4 / 12])
    assert track.bound_nats.tolist() == pytest.approx([0.2, 0.5])
    assert track.look == 1


def track(values: list[float], look: int | None, gains: tuple[tuple[float, float], ...] = ()) -> Track:
    own = np.array(values)
    return Track(own, own, own, 0 * own, np.stack([own, own]), own, look, gains)


def test_the_summary_compares_the_same_tokens():
    """Would catch the other reading cut at a look of its own: it has none. Means after the look: 5 and 2.5."""
    looking = [track([1, 5, 5], 1, ((0.2, 0.3), (0.25, 0.35))), track([9, 9], None)]
    text = [track([1, 2, 3], None), track([9, 9], None)]
    found = summarise(looking, text)
    assert (found["answers"], found["looked_again"]) == (2, 1)
    assert found["after_first_look"]["with"]["visual"] == 5
    assert found["after_first_look"]["without"]["visual"] == 2.5
    assert found["theorem_3_2"] == {"insertions": 2, "share_grew": 2, "mean_gain": pytest.approx(0.1)}
    middle = found["around_first_look"]["tokens_before"]
    assert found["around_first_look"]["without"]["visual"]["mean"][middle - 1 : middle + 2] == [1, 2, 3]
    assert found["with"]["visual"]["mean"] == [5, 7, 5]
    assert found["with"]["per_layer"] == [[5, 7, 5], [5, 7, 5]]


def test_answers_that_never_look_have_empty_curves():
    """Would catch a division by zero where no answer looked again."""
    found = summarise([track([1, 2], None)], [track([1, 2], None)])
    assert found["after_first_look"]["with"]["visual"] is None
    assert found["theorem_3_2"] == {"insertions": 0, "share_grew": 0, "mean_gain": None}
    assert set(found["around_first_look"]["with"]["visual"]["n"]) == {0}


def test_lists_by_hand():
    """Three lists: both right; one right and one invented; nothing. 1 of 4 listed is false, 3 of 6 are recalled."""
    lists = [
        AnswerSection(SCENE, "a1 red ball, b2 blue cube", 10),
        AnswerSection(SCENE, "a1 red ball, c3 black ring", 30),
        AnswerSection(SCENE, "nothing to see", 20),
    ]
    found = summary(lists)
    assert (found["n"], found["tokens"], found["tokens_from"], found["tokens_to"]) == (3, 20, 10, 30)
    assert (found["hallucinated"], found["recall"], found["empty"]) == (0.25, 0.5, 1)
    assert found["hallucinated_interval"] == wilson_interval(1, 4)
    assert found["recall_interval"] == wilson_interval(3, 6)


def test_bins_go_by_length():
    """Would catch bins in the order of the answers, and an answer lost between two bins."""
    lists = [AnswerSection(SCENE, "", tokens) for tokens in (50, 10, 40, 20, 30)]
    found = against_length(lists, bins=2)
    assert [(part["n"], part["tokens_from"], part["tokens_to"]) for part in found] == [(2, 10, 20), (3, 30, 50)]
    assert [part["hallucinated"] for part in found] == [None, None]
    assert sum(part["n"] for part in against_length(lists)) == 5
    assert len(against_length(lists[:2])) == 2
    assert not math.isnan(found[0]["recall"])
