"""The designs beside distance: settings, arms, masks, and one of them end to end on the shipped model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from look_again.commands.main import main
from look_again.core.reattention import Reattention
from look_again.evaluation.subjects import NotPossibleError
from look_again.study.arm_models import build_policy, mask_checkpoint
from look_again.study.cells import check_other_images, cut_blocks, find_rows, list_cells
from look_again.study.designs import DESIGNS
from look_again.study.settings import StudySettings, build_settings
from look_again.tabletop.long_world.long_work import make_long_sample
from look_again.tabletop.render import render

SMALL = ["--lengths", "100", "--n", "10", "--n-other", "10", "--batch", "10"]


def test_a_swap_is_scored_by_what_answers_follow_and_takes_rows_of_ones_own(tmp_path, capsys):
    folder = tmp_path / "rows"
    folder.mkdir()
    lines = []
    for index in range(10):
        row = make_long_sample("test", 1, index, pieces=120, kind="swap")
        render(row.scene).save(folder / f"{index}.png")
        line = {"id": row.id, "image": f"{index}.png", "question": row.prompt, "answer": row.answer}
        line |= {"answer_of_text": row.described, "beginnings": {"120": row.beginning}}
        lines.append(json.dumps(line))
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n")
    options = ["study", "swap", "--rows", str(folder), *SMALL, "--lengths", "120", "--arms", "text,copy", "--json"]
    out = tmp_path / "out"
    assert main([*options, "--out", str(out)]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["complete"]
    assert (result["study"], result["scores"]) == ("swap", ["picture", "described", "neither"])
    for cell in result["cells"]:
        assert cell["picture"] + cell["described"] + cell["neither"] == pytest.approx(1)
        assert cell["picture"] > 0.5  # at a distance that it was trained at the model looks, put back or not
    assert "planted" not in (out / "table.md").read_text()
    assert "answers that follow the picture shown" in (out / "figure.svg").read_text()
    assert main(["study", "distance", "--out", str(out), *SMALL, "--arms", "text,copy"]) == 2
    assert "holds another study (study was 'swap', now 'distance'" in capsys.readouterr().err
    (folder / "rows.jsonl").write_text(lines[0].replace("answer_of_text", "other") + "\n")
    assert main([*options, "--out", str(tmp_path / "next")]) == 2
    assert "line 1: no 'answer_of_text'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["swap", "--lengths", "100,5000"], "100 to 4000 tokens of work, not [100, 5000]"),
        (["unwritten", "--n", "9"], "--n is 9: a cell needs at least 10 rows"),
        (["selection", "--lengths", "4000"], "4000 tokens of work do not fit: the model's context is 4096"),
        (["selection", "--arms", "text,copy,route-101"], "keep is a whole percentage from 0 to 100, not 101"),
        (["selection", "--arms", "text,copy,random-10-both"], "unknown arm 'random-10-both'"),
        (["selection", "--arms", "text,copy,copy"], "arms are named once each"),
        (["selection", "--size", "wide"], "a wide table has 144 places, and this model sees it as 36 visual tokens"),
        (["window", "--arms", "text,copy"], "an arm of windows names its mask (text@local)"),
        (["window", "--arms", "text@local"], "name both among the arms, of each mask"),
        (["window", "--arms", "text@near,copy@near"], "unknown mask 'near'; known: global, mixed, local"),
        (["distance", "--arms", "text@local,copy@local"], "masks belong to 'window'"),
        (["window", "--window", "0"], "--window is at least 1 slot, not 0"),
        (["window", "--model", "nobody/nothing"], "nobody/nothing"),
    ],
)
def test_what_a_design_cannot_run_is_said_before_any_work(tmp_path, capsys, arguments, error):
    options = [arguments[0], "--out", str(tmp_path / "out"), *SMALL, *arguments[1:]]
    assert main(["study", *options]) == 2
    assert error in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_designs_that_draw_their_rows_take_no_folder():
    with pytest.raises(ValueError, match="the study of 'unwritten' draws its rows: leave out --rows"):
        build_settings("unwritten", rows="photographs")
    with pytest.raises(ValueError, match="unknown study 'near'; known: distance, swap"):
        StudySettings(study="near")


def test_arms_of_selection_keep_what_their_names_say():
    made = {arm: build_policy(Reattention(), arm) for arm in DESIGNS["selection"].arms}
    assert {(policy.keep, policy.ranking, policy.control) for arm, policy in made.items() if "-" in arm} == {
        (kept, ranking, control)
        for kept in (10, 25, 50)
        for ranking, control in (
            ("relevance", None),
            ("diversity", None),
            ("relevance-diversity", None),
            ("relevance", "random-rows"),
        )
    }
    assert made["copy"].mode == "copy"
    assert build_policy(Reattention(), "copy@local") == build_policy(Reattention(), "copy")


def test_every_design_has_its_bases_and_a_quick_form():
    for name, design in DESIGNS.items():
        settings = build_settings(name, quick=True)
        assert set(settings.arms) <= set(design.arms)
        assert (settings.n, settings.quick, settings.lengths) == (20, True, design.quick_lengths)
        assert len(list_cells(settings)) == len(settings.arms) * len(settings.lengths)


def test_cells_that_begin_alike_follow_one_another():
    """What others take over is read first: the longest work, by the arms that measure attention."""
    settings = StudySettings(lengths=(100, 800), arms=("text", "copy", "image-twice", "route-50"), n=60, n_other=50)
    assert [(cell.start, cell.arm, cell.length) for cell in list_cells(settings)] == [
        (start, arm, length)
        for start, arms in ((0, ("route-50", "text", "copy", "image-twice")), (50, ("route-50", "text", "copy")))
        for arm in arms
        for length in (800, 100)
    ]


def test_no_block_is_a_single_row():
    """It would have no other image; blocks of 50 rows stay as they are."""
    assert [cut_blocks(n) for n in (10, 50, 51, 52, 101, 150)] == [
        [(0, 10)],
        [(0, 50)],
        [(0, 51)],
        [(0, 50), (50, 52)],
        [(0, 50), (50, 101)],
        [(0, 50), (50, 100), (100, 150)],
    ]
    settings = StudySettings(lengths=(100,), arms=("text", "copy", "wrong-image"), n=101, n_other=51)
    check_other_images(settings, find_rows(settings, 100))
    assert {cell.folder(Path()).name for cell in list_cells(settings)} == {"rows-0-50", "rows-50-101"}


def test_a_block_of_one_picture_has_no_other():
    settings = StudySettings(lengths=(100,), arms=("text", "copy", "wrong-image"), n=60)
    rows = find_rows(settings, 100)
    same = [*rows[:50], *[replace(row, images=rows[0].images) for row in rows[50:]]]
    with pytest.raises(NotPossibleError, match="of 10, none has one that item"):
        check_other_images(settings, same)
    check_other_images(replace(settings, arms=("text", "copy")), same)


@pytest.mark.parametrize(("mask", "local"), [("global", [0] * 6), ("mixed", [1, 1, 0, 1, 1, 0]), ("local", [1] * 6)])
def test_masks_are_windows_of_the_models_own_configuration(tmp_path, mask, local):
    settings = build_settings("window", window=64)
    mask_checkpoint(settings, 0, mask, tmp_path)
    config = json.loads((tmp_path / "models" / f"model-0-{mask}-64" / "config.json").read_text())["text_config"]
    assert [kind == "sliding_attention" for kind in config["layer_types"]] == [bool(one) for one in local]
    assert (config["sliding_window"], config["use_sliding_window"]) == (64, any(local))
    assert (tmp_path / "models" / f"model-0-{mask}-64" / "model.safetensors").exists()
