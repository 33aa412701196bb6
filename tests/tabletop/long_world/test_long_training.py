"""Training on long work: what rows are drawn, how they are put into steps, and twins that differ in length alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from look_again.tabletop.long_world.long_training import LongDataset, LongOptions
from look_again.tabletop.long_world.long_work import count_pieces
from look_again.training.sft_config import load_config
from look_again.training.trainer import EpochOrder
from look_again.yaml_config import as_keys

TWINS = Path(__file__).parents[3] / "recipes" / "tabletop" / "twins"


def _dataset(name: str) -> LongDataset:
    config = load_config(TWINS / f"{name}.yaml")
    return LongDataset(config.stages[0], config.seed, None)


def test_rows_draw_their_own_length_and_kind_and_planted_mistakes_are_silent():
    dataset = _dataset("long_text")
    rows = [dataset.draw_long(index) for index in range(24)]
    assert {row.kind for row in rows} == {"listed", "unwritten"}
    for index, row in enumerate(rows):
        assert 100 <= dataset.pieces(index) <= 1000
        assert abs(row.pieces - dataset.pieces(index)) <= 50 or not row.sub_questions
        sample = dataset.sample(index)
        assert sample.response == row.written.text
        assert [sample.response[first:last] for first, last in sample.silent] == [
            row.written.text[first:last] for first, last in row.written.planted_spans
        ]
    assert any(dataset.sample(index).silent for index in range(24))


def test_steps_hold_rows_of_similar_length():
    """Without grouping a step of 12 rows spans most of 100 to 1,000 tokens."""
    dataset = _dataset("long_text")
    batch = dataset.stage.passes.batch
    order = list(EpochOrder(len(dataset), 0, dataset.grouped_lengths, batch))
    assert sorted(order) == list(range(len(dataset)))
    steps = [[dataset.pieces(index) for index in order[start : start + batch]] for start in range(0, len(order), batch)]
    assert sum(max(step) - min(step) for step in steps) / len(steps) < 100


def test_twins_differ_in_their_length_and_reflections_alone_with_equal_steps_and_targets():
    twins = {
        name: load_config(TWINS / f"{name}.yaml") for name in ("short_text", "short_copy", "long_text", "long_copy")
    }
    stages = {name: as_keys(config)["stages"][0] for name, config in twins.items()}
    for length in ("short", "long"):
        text, copy = stages[f"{length}_text"], stages[f"{length}_copy"]
        assert {key for key in text if text[key] != copy[key]} == {"modes"}
    differing = {key for key in stages["short_text"] if stages["short_text"][key] != stages["long_text"][key]}
    assert differing == {"longest", "batch", "max_length"}
    targets = {
        name: config.stages[0].passes.batch
        * sum(count_pieces(_dataset(name).sample(index).response or "") for index in range(100))
        / 100
        for name, config in twins.items()
    }
    assert max(targets.values()) < 1.1 * min(targets.values())


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"shortest": 99}, "100 to 4000 tokens, not 99 and 800"),
        ({"shortest": 900}, "not 900 and 800"),
        ({"size": "huge"}, "size is small or wide, not 'huge'"),
        ({"kinds": {"odd": 1.0}}, "known: listed, unwritten, swap"),
        ({"error_rate": 2.0}, "error_rate is 0..1, not 2.0"),
    ],
)
def test_what_long_rows_cannot_be_is_named(options, error):
    with pytest.raises(ValueError, match=error):
        LongOptions(**options)
