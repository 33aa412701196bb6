"""Hallucination and recall against generated length: by hand, and in the report of a CHAIR run."""

from __future__ import annotations

import pytest

from look_again.evaluation.lengths import against_length


def captions(*rows: tuple[int, int, int]) -> list[dict]:
    """Rows of tokens, mentions, hallucinations; of four objects in the image the other mentions find one each."""
    return [
        {
            "id": f"q{i}",
            "official": 1.0,
            "tokens": {"sampled": tokens},
            "score_facts": {
                "whole_mentions": ["cat"] * mentions,
                "whole_hallucinations": ["cat"] * wrong,
                "whole_found": mentions - wrong,
                "whole_true": 4,
            },
        }
        for i, (tokens, mentions, wrong) in enumerate(rows)
    ]


def test_groups_by_hand():
    """Ten short captions with 1 of 2 mentions wrong, ten long ones with 1 of 4: shares of mentions, not of captions."""
    long, short = [(200 + i, 4, 1) for i in range(10)], [(100 + i, 2, 1) for i in range(10)]
    first, second = against_length(captions(*long, *short))
    assert (first["n"], first["tokens_from"], first["tokens_to"], first["tokens"]) == (10, 100, 109, 104.5)
    assert first["chair_i"] == (0.5, [0.5, 0.5])
    assert first["recall"] == (0.25, [0.25, 0.25])
    assert (second["chair_i"][0], second["recall"][0]) == (0.25, 0.75)


def test_an_interval_is_of_the_share_over_captions():
    """Would catch mentions drawn one by one: 20 captions, half with two wrong mentions, half with two right ones."""
    [group] = against_length(captions(*[(50, 2, 2 * (i % 2)) for i in range(20)]), groups=1)
    value, (low, high) = group["chair_i"]
    assert value == 0.5
    assert (low, high) == (pytest.approx(0.28, abs=0.04), pytest.approx(0.72, abs=0.04))


def test_silence_has_no_share():
    [group] = against_length(captions(*[(5, 0, 0)] * 12))
    assert group["chair_i"] == (None, None)
    assert group["recall"] == (0.0, [0.0, 0.0])


@pytest.mark.parametrize(("n", "groups"), [(0, 0), (3, 1), (19, 1), (20, 2), (500, 5)])
def test_groups_are_not_too_small(n, groups):
    made = against_length(captions(*[(i + 1, 1, 0) for i in range(n)]))
    assert len(made) == groups
    assert sum(group["n"] for group in made) == n


def test_other_benchmarks_and_items_without_answers_are_left_out():
    asked = captions((5, 1, 0), (6, 1, 0))
    asked[0] |= {"official": None, "score_facts": {"whole_mentions": None}}
    assert [group["n"] for group in against_length(asked)] == [1]
    assert against_length([{"id": "a", "official": 1.0, "score_facts": {}, "tokens": {"sampled": 3}}]) == []
    silent = captions((5, 1, 0))
    silent[0]["tokens"] = {}  # of an endpoint that does not count
    assert against_length(silent) == []
