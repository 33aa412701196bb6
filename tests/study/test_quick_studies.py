"""Each study as `--quick` runs it, on the shipped model: minutes."""

from __future__ import annotations

import json

import pytest

from look_again.commands.main import main
from look_again.study.designs import DESIGNS

pytestmark = pytest.mark.slow


def _run_quick(study, out, capsys):
    assert main(["study", study, "--out", str(out), "--quick", "--json"]) == 0
    result, design = json.loads(capsys.readouterr().out), DESIGNS[study]
    assert result["complete"]
    assert result["quick"]
    assert result["study"] == study
    assert any("--quick: 20 rows" in limit for limit in result["cannot_tell"])
    assert {(cell["arm"], cell["length"], cell["n"]) for cell in result["cells"]} == {
        (arm, length, 20) for arm in design.quick_arms for length in design.quick_lengths
    }
    for cell in result["cells"]:
        for score in design.scores:
            low, high = cell[f"{score}_interval"]
            assert 0 <= low <= cell[score] <= high <= 1
        assert cell["errors"] == 0
    assert (out / "figure.svg").read_text().startswith("<svg")
    assert all(f"| {arm} | 20 |" in (out / "table.md").read_text() for arm in design.quick_arms)
    return {(cell["arm"], cell["length"]): cell for cell in result["cells"]}, result


def test_distance_shows_that_copy_mends_more_than_text_at_800_tokens(tmp_path, capsys):
    """The claim in minutes: beyond the trained lengths, text-only reflections no longer see and COPY does."""
    _, result = _run_quick("distance", tmp_path, capsys)
    assert result["ratios"]["copy_minus_text_at_800_interval"][0] > 0


def test_swap(tmp_path, capsys):
    cells, _ = _run_quick("swap", tmp_path, capsys)
    for cell in cells.values():
        assert cell["picture"] + cell["described"] + cell["neither"] == pytest.approx(1)


def test_unwritten(tmp_path, capsys):
    _run_quick("unwritten", tmp_path, capsys)


def test_selection(tmp_path, capsys):
    _run_quick("selection", tmp_path, capsys)


def test_window(tmp_path, capsys):
    """Without a window the masked copy is the model itself: what is local mends no more than that."""
    cells, _ = _run_quick("window", tmp_path, capsys)
    assert cells["copy@global", 800]["mended"] > cells["text@local", 800]["mended"]
