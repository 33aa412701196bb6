"""The mixture of the paper's reinforcement learning: what a source may say, drawing a share, the recipe."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from look_again.data.loaders import Counts, load_samples
from look_again.data.references import AT_LINE_STARTS, INLINE, Choices, split_choices
from look_again.data.source import Source
from look_again.data.splits import EVALUATED, TRAINED
from look_again.rl.brpo_config import load_brpo_config

RECIPE = Path(__file__).parents[2] / "recipes" / "paper" / "brpo.yaml"


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"loader": "jsonl", "on_benchmark": "yes"}, "on_benchmark is 'yes': use one of refuse, allow"),
        ({"loader": "math", "split": "validation"}, "split is 'validation': for math use one of train, test"),
        ({"loader": "polymath", "split": "testmini_img"}, "is what benchmarks evaluate on"),
        ({"loader": "math", "images": "x"}, "images is 'x': the problems of math have no pictures"),
        ({"loader": "jsonl", "sample_seed": 1}, "sample_seed is 1: use a whole number, beside a limit"),
        ({"loader": "jsonl", "sample_seed": "1", "limit": 3}, "sample_seed is '1'"),
        ({"loader": "tabletop", "path": "7", "sample_seed": 1, "limit": 3}, "random by the SEED of its path"),
    ],
)
def test_sources_are_checked_on_construction(fields: dict, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Source(**{"path": "x", **fields})


def test_other_loaders_keep_their_splits() -> None:
    """A file of one's own called test is nobody's benchmark."""
    assert Source(loader="jsonl", path="x", split="test").on_benchmark == "refuse"
    assert set(EVALUATED) < set(TRAINED)


def draw(path: Path, seed: int | None, limit: int = 20) -> list[str]:
    return [row.id for row in load_samples(Source(loader="jsonl", path=str(path), limit=limit, sample_seed=seed))]


def test_sample_is_drawn_from_the_whole_file(tmp_path: Path, write_lines) -> None:
    """Sets are sorted by subject: the first 20 of 200 rows would all be of one."""
    path = write_lines(tmp_path / "q.jsonl", *({"id": f"{i:03}", "question": "Q?"} for i in range(200)))
    drawn = draw(path, 0)
    assert len(set(drawn)) == 20
    assert drawn == sorted(drawn) == draw(path, 0)
    assert drawn != draw(path, 1)
    assert any(name >= "100" for name in drawn)
    assert draw(path, None) == [f"{i:03}" for i in range(20)]
    assert draw(path, 0, limit=500) == [f"{i:03}" for i in range(200)]


def test_sample_is_even(tmp_path: Path, write_lines) -> None:
    """Each of 10 rows is drawn into 3 with probability 0.3: 600 of 2,000 draws, standard deviation 20."""
    path = write_lines(tmp_path / "q.jsonl", *({"id": i, "question": "Q?"} for i in range(10)))
    times = dict.fromkeys(map(str, range(10)), 0)
    for seed in range(2000):
        for name in draw(path, seed, limit=3):
            times[name] += 1
    assert all(500 < count < 700 for count in times.values())


def test_sample_counts_what_is_handed_out(tmp_path: Path, write_lines) -> None:
    path = write_lines(tmp_path / "q.jsonl", *({"id": i, "question": "Q?"} for i in range(9)), "broken")
    counts, skipped = Counts(), []
    source = Source(loader="jsonl", path=str(path), limit=4, sample_seed=0)
    assert len(list(load_samples(source, counts=counts, on_skip=skipped.append))) == 4
    assert counts == Counts(rows=4, without_image=9, skipped=1)


@pytest.mark.parametrize(
    ("text", "before", "labels", "texts"),
    [
        ("Pick:\nA. 1\nB. 2", "Pick:", "AB", ("1", "2")),
        ("(A) 1\n  (B) 2\n(C) 3", "", "ABC", ("1", "2", "3")),
        ("A. 1", None, None, None),
        ("B. 1\nC. 2", None, None, None),
    ],
)
def test_options_at_line_starts(text, before, labels, texts) -> None:
    found = split_choices(text, AT_LINE_STARTS)
    assert found == (None if texts is None else Choices(before, labels, texts))


def test_long_runs_take_linear_time() -> None:
    """A question of 100,000 blanks or brackets must not hold up the other 9,999."""
    start = time.process_time()
    for text in (" " * 100_000, "(A" * 50_000, "(A) " * 25_000, "A. \n" * 25_000):
        split_choices(text, AT_LINE_STARTS)
        split_choices(text, INLINE)
    assert time.process_time() - start < 2


def test_recipe_mixes_ten_thousand_questions_of_five_sets() -> None:
    """The paper's number; none from a split that a benchmark evaluates on."""
    config = load_brpo_config(RECIPE)
    assert [source.loader for source in config.data] == list(TRAINED)
    assert sum(source.limit or 0 for source in config.data) == 10_000
    assert {(source.split, source.on_benchmark) for source in config.data} == {("train", "refuse")}
    assert config.hardware is not None
    a_step = config.sampling.questions * config.hardware.gpus
    assert config.steps == -(-10_000 // a_step)  # one epoch
    assert config.on_bad_row == "skip"
