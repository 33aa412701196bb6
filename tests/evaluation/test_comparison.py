"""Paired differences: hand-worked, whole and per subset, and refused over different items."""

from __future__ import annotations

import copy
import json

import pytest

from look_again.commands.main import main
from look_again.evaluation.comparison import compare, mean_interval, paired_difference, subset_members


def result_of(scores: list[float | None], *, strict: list[float] | None = None, **changed) -> dict:
    """What result.json holds of a run with these official scores; items alternate between two categories."""
    items = [
        {
            "id": f"q{i}",
            "digest": f"d{i}",
            "facts": {"category": "ab"[i % 2], "level": i % 3},
            "official": score,
            "strict": score if strict is None else strict[i],
            "score_facts": {"length": 10.0 * i, "words": ["x"]},
        }
        for i, score in enumerate(scores)
    ]
    subsets = {"category/a": {}, "category/b": {}, "level=1": {}, "nowhere": {}}
    base = {
        "benchmark": "fake",
        "primary": "accuracy",
        "paired": "official",
        "metrics": {"accuracy": 0.5},
        "counts": {"items": len(scores)},
        "subsets": subsets,
        "items": items,
    }
    return base | changed


def test_a_paired_difference_by_hand():
    """Four of twelve pairs differ: three gain, one loses; McNemar 2 (1 + 4) / 16."""
    base = [1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 0, 0]
    other = [1, 1, 1, 0, 1, 1, 1, 0, 1, 1, 0, 0]
    made = paired_difference(base, other)
    assert (made.n, made.base, made.other) == (12, 6 / 12, 8 / 12)
    assert made.difference == pytest.approx(2 / 12)
    assert (made.higher, made.lower, made.test, made.p) == (3, 1, "mcnemar", 0.625)
    low, high = made.interval
    assert -0.3 < low < 2 / 12 < high < 0.6


def test_pairing_narrows_the_interval():
    """Would catch unpaired resampling: two runs that agree but for one item of 100 differ by little, surely."""
    base = [float(i % 2) for i in range(100)]
    low, high = paired_difference(base, [1.0, *base[1:]]).interval
    assert (low, high) == (pytest.approx(-0.027, abs=0.001), pytest.approx(0.0545, abs=0.001))


def test_scores_that_are_no_right_or_wrong_take_the_sign_test():
    made = paired_difference([0.5, 0.2, 0.4], [0.7, 0.3, 0.4])
    assert (made.test, made.higher, made.lower, made.p) == ("sign", 2, 0, 0.5)


def test_undefined_scores_are_left_out_in_pairs_and_counted():
    """Would catch a shift of the pairs behind an undefined one."""
    made = paired_difference([None, 1.0, 0.0, 1.0], [1.0, 1.0, None, 0.0])
    assert (made.n, made.undefined, made.base, made.other) == (2, 2, 1.0, 0.5)
    assert paired_difference([None], [1.0]).difference is None


def test_too_few_values_have_no_interval():
    """Would catch the point interval of a single item, which looks certain."""
    assert mean_interval([1.0] * 9) is None
    assert mean_interval([1.0] * 10) == pytest.approx((0.7225, 1.0), abs=1e-4)  # not the point that a bootstrap gives
    assert mean_interval([0.5] * 10) == (0.5, 0.5)


def test_runs_that_hardly_differ_have_no_point_interval():
    """Would catch [0, 0] where no item differs, and a bootstrap of a handful of differences."""
    same = paired_difference([1.0, 0.0] * 10, [1.0, 0.0] * 10)
    assert same.interval == pytest.approx((-0.1611, 0.1611), abs=1e-4)
    assert same.detectable is None
    assert paired_difference([0.5] * 20, [0.5] * 15 + [0.7] * 5).interval is None
    assert paired_difference([0.0] * 30 + [1.0] * 70, [1.0] * 10 + [0.0] * 20 + [1.0] * 70).detectable < 0.1


def test_every_run_is_compared_with_the_first_whole_and_per_subset():
    base, better, same = result_of([0.0] * 12), result_of([1.0, 0.0] * 6), result_of([0.0] * 12)
    made = compare({"base": base, "better": better, "same": same})
    rows = {(row["run"], row["subset"]): row for row in made["differences"]}
    assert rows["better", None]["difference"] == 0.5
    assert rows["better", "category/a"]["difference"] == 1.0
    assert rows["better", "category/b"]["difference"] == 0.0
    assert rows["better", "level=1"]["n"] == 4
    assert rows["same", None]["p"] == 1.0
    assert all("interval" in row and "p" in row for row in made["differences"])
    assert made["ungrouped_subsets"] == ["nowhere"]
    assert made["baseline"] == "base"
    json.dumps(made, allow_nan=False)


def test_items_are_paired_by_id_not_by_place():
    """Would catch runs whose items come in another order compared line by line."""
    base = result_of([1.0, 0.0, 1.0, 1.0])
    turned = copy.deepcopy(base)
    turned["items"].reverse()
    row = compare({"base": base, "turned": turned})["differences"][0]
    assert (row["higher"], row["lower"]) == (0, 0)


def test_another_score_can_be_compared():
    base, other = result_of([1.0] * 4), result_of([1.0] * 4, strict=[0.0] * 4)
    assert compare({"a": base, "b": other}, score="strict")["differences"][0]["difference"] == -1.0
    assert compare({"a": base, "b": other}, score="length")["differences"][0]["base"] == 15.0
    for score, message in (("lenght", "known: official, strict, length"), ("words", "no number")):
        with pytest.raises(ValueError, match=message):
            compare({"a": base, "b": other}, score=score)


def test_runs_over_different_items_are_refused_with_their_number():
    """One item was asked otherwise, two are missing: three of five differ."""
    base = result_of([1.0] * 5)
    other = copy.deepcopy(base)
    other["items"][0]["digest"] = "changed"
    del other["items"][3:]
    with pytest.raises(ValueError, match=r"3 of 5 differ \(first: 'q0'\)"):
        compare({"a": base, "b": other})
    with pytest.raises(ValueError, match="at least two"):
        compare({"a": base})
    with pytest.raises(ValueError, match="on other, a on fake"):
        compare({"a": base, "b": base | {"benchmark": "other"}})


def test_a_subset_is_the_items_with_that_fact():
    members = subset_members(result_of([1.0] * 7))
    assert members == {"category/a": [0, 2, 4, 6], "category/b": [1, 3, 5], "level=1": [1, 4]}


# --- the command


def write_run(folder, result):
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(result))


def test_the_command_compares_single_runs_and_folders_of_runs(tmp_path, capsys):
    for run, scores in (("one", [0.0] * 12), ("two", [1.0] * 12)):
        write_run(tmp_path / run / "fake", result_of(scores))
    page = tmp_path / "pages" / "page.html"  # Would catch a folder that the user has to make first
    assert main(["compare", str(tmp_path / "one"), str(tmp_path / "two"), "--json", "--html", str(page)]) == 0
    printed = json.loads(capsys.readouterr().out)
    made = printed["comparisons"]
    assert printed["left_out"] == {}
    assert [(one["benchmark"], one["baseline"]) for one in made] == [("fake", "one")]
    assert made[0]["differences"][0]["interval"] == pytest.approx([0.5150, 1.0], abs=1e-4)
    assert "<svg" in page.read_text()
    assert main(["compare", str(tmp_path / "one" / "fake"), str(tmp_path / "two" / "fake")]) == 0
    assert "[+0.515, +1.000]" in capsys.readouterr().out


def test_the_command_names_what_only_some_runs_have(tmp_path, capsys):
    """Would catch a benchmark that is dropped without a word because one run was never finished on it."""
    for run, names in (("one", ("fake", "early", "both")), ("two", ("both", "late"))):
        for name in names:
            write_run(tmp_path / run / name, result_of([1.0] * 12, benchmark=name))
    page = tmp_path / "page.html"
    argv = ["compare", str(tmp_path / "one"), str(tmp_path / "two")]
    assert main([*argv, "--json", "--html", str(page)]) == 0
    made = json.loads(capsys.readouterr().out)
    assert [one["benchmark"] for one in made["comparisons"]] == ["both"]
    assert made["left_out"] == {"early": ["two"], "fake": ["two"], "late": ["one"]}
    assert "<td>early</td><td>two</td>" in page.read_text()
    assert main(argv) == 0
    shown = capsys.readouterr().out.split("left out")[1].split()
    assert all(name in shown for name in ("early", "fake", "late"))


def test_the_command_says_what_it_cannot_compare(tmp_path, capsys):
    write_run(tmp_path / "one" / "fake", result_of([0.0] * 12))
    write_run(tmp_path / "two" / "other", result_of([0.0] * 12))
    (tmp_path / "empty").mkdir()
    for runs, message in (
        (["one", "two"], "no benchmark was run in all"),
        (["one", "empty"], "no finished run"),
        (["one"], "at least two"),
        (["one", "one"], "twice"),
    ):
        assert main(["compare", *(str(tmp_path / run) for run in runs)]) == 2
        assert message in capsys.readouterr().err
