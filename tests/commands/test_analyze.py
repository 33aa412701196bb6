"""`look-again analyze` end to end on the shipped model, and what it says to bad input."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from PIL import Image, ImageChops

from look_again.analysis.plot_heatmap import draw_heatmap, scale_end
from look_again.commands.main import main
from look_again.tabletop.render import render
from look_again.tabletop.samples import make_sample

QUESTION = "How many balls are there? Answer briefly."


@pytest.fixture(scope="module")
def picture(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("pictures") / "scene.png"
    render(make_sample("test", 3, 1).scene).save(path)
    return str(path)


def strict(text: str) -> dict:
    """JSON as the standard has it: no NaN."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    return json.loads(text, parse_constant=refuse)


def check_files(out: Path, name: str) -> dict:
    """A PNG with something on it, a page that needs nothing beside it, and the JSON."""
    with Image.open(out / f"{name}.png") as png:
        assert png.format == "PNG"
        assert png.width > 600
        assert len(png.convert("RGB").getcolors(2**24)) > 40
        assert png.convert("RGB").getpixel((1, 1)) == (255, 255, 255)
    page = (out / f"{name}.html").read_text(encoding="utf-8")
    assert "data:image/png;base64," in page
    assert not any(word in page for word in ("http://", "https://", "<script", "<link"))
    return strict((out / f"{name}.json").read_text(encoding="utf-8"))


def test_dilution_on_tabletop(tmp_path, capsys):
    """Would catch the two readings swapped: what is put back must show, and only there."""
    assert main(["analyze", "dilution", "--n", "3", "--batch", "2", "--out", str(tmp_path), "--json"]) == 0
    result = check_files(tmp_path, "dilution")
    assert strict(capsys.readouterr().out) == result
    assert (result["answers"], result["looked_again"]) == (3, 3)
    looking, text = result["after_first_look"]["with"], result["after_first_look"]["without"]
    assert looking["visual"] == pytest.approx(looking["original"] + looking["reinserted"])
    assert looking["share"] > text["share"]
    assert looking["reinserted"] > 0.0 == text["reinserted"]
    before = result["around_first_look"]["tokens_before"]
    around = [result["around_first_look"][kind]["visual"]["mean"] for kind in ("with", "without")]
    assert around[0][:before] == around[1][:before]
    assert around[0][before:] != around[1][before:]
    assert result["theorem_3_2"]["share_grew"] == result["theorem_3_2"]["insertions"] >= 3
    assert result["lists"]["CAPTION"]["all"]["n"] == 3
    assert len(result["with"]["per_layer"]) == 6


def test_dilution_of_one_image_cut_off_early(tmp_path, picture):
    """Would catch figures that need a look, an interval or an object list."""
    argv = ["--image", picture, "--question", QUESTION, "--max-new-tokens", "4", "--out", str(tmp_path)]
    assert main(["analyze", "dilution", *argv]) == 0
    result = check_files(tmp_path, "dilution")
    assert (result["looked_again"], "lists" in result) == (0, False)
    assert result["with"] == result["without"]
    assert result["settings"]["question"] == QUESTION


@pytest.mark.parametrize("mode", ["copy", "text"])
def test_heatmap(tmp_path, picture, capsys, mode):
    """Would catch a map that does not add up to its totals, and rows put back before the first reflection."""
    argv = ["--image", picture, "--question", QUESTION, "--reattention", mode, "--out", str(tmp_path), "--json"]
    assert main(["analyze", "heatmap", *argv]) == 0
    result = check_files(tmp_path, "heatmap")
    assert strict(capsys.readouterr().out) == result
    assert result["grid"] == {"rows": 6, "columns": 6}
    names = [part["name"] for part in result["sections"]]
    assert names[:2] == ["SUMMARY", "CAPTION"]
    for part in (result["prompt"], *result["sections"]):
        for kind in ("both", "original", "reinserted"):
            assert sum(map(sum, part["map"][kind])) == pytest.approx(part["attention"][kind], abs=1e-5)
        mean = sum(part["per_layer"]["original"]) / len(part["per_layer"]["original"])
        assert mean == pytest.approx(part["attention"]["original"], abs=1e-6)
        looked = part["name"].startswith(("REFLECTION", "CONCLUSION")) and mode == "copy"
        assert (part["attention"]["reinserted"] > 0) == looked


def test_heatmap_of_one_layer(tmp_path, picture):
    """Would catch a layer that is ignored or off by one."""
    argv = ["--image", picture, "--question", QUESTION, "--layer", "5", "--out", str(tmp_path)]
    assert main(["analyze", "heatmap", *argv]) == 0
    result = check_files(tmp_path, "heatmap")
    assert result["layer"] == 5
    for part in result["sections"]:
        assert part["attention"]["original"] == pytest.approx(part["per_layer"]["original"][5], abs=1e-6)


def quiet_result(sinks: list[list[int]]) -> dict:
    """A heat map of 2 x 2 places whose first place gets 0.4 of 0.7 in every panel."""
    flat = [[0.0, 0.0], [0.0, 0.0]]
    own = [[0.4, 0.1], [0.1, 0.1]]
    panel = {
        "name": "CAPTION",
        "tokens": 3,
        "attention": {"both": 0.7, "original": 0.7, "reinserted": 0.0},
        "map": {"both": own, "original": own, "reinserted": flat},
    }
    return {
        "layer": "mean",
        "grid": {"rows": 2, "columns": 2},
        "prompt": panel,
        "sections": [panel],
        "sinks": {"factor": 2.0, "prompt": sinks, "constant": []},
        "settings": {"model": "m"},
    }


def test_sinks_are_marked_and_do_not_set_the_scale():
    """Would catch sinks that are found but not drawn, and one that washes out all other places.

    In units of the even share 0.175 the first place has 16/7; of the others all have 4/7, but the scale reaches 1.
    """
    plain, low, high = quiet_result([]), quiet_result([[1, 1]]), quiet_result([[0, 0]])
    ends = [scale_end([result["prompt"]], result["sinks"]) for result in (plain, low, high)]
    assert ends == pytest.approx([16 / 7, 16 / 7, 1.0])
    image = Image.new("RGB", (56, 56), "white")
    first, second = (Image.open(io.BytesIO(draw_heatmap(result, image))).convert("RGB") for result in (plain, low))
    assert first.size == second.size
    changed = ImageChops.difference(first, second).crop((0, 80, *first.size)).getbbox()
    assert changed is not None


def failed(capsys, *argv: str) -> str:
    """What a failing command says; asserts status 2, one line, nothing on standard output."""
    assert main(["analyze", *argv]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


def test_bad_input_is_named(tmp_path, capsys, picture):
    out = ["--out", str(tmp_path / "none")]
    assert "--question" in failed(capsys, "dilution", "--image", picture, *out)
    assert "--n counts" in failed(capsys, "dilution", "--image", picture, "--question", "?", "--n", "3", *out)
    assert "not 0" in failed(capsys, "dilution", "--n", "0", *out)
    assert "not 0" in failed(capsys, "dilution", "--batch", "0", *out)
    assert "mode that inserts" in failed(capsys, "dilution", "--n", "1", "--reattention", "text", *out)
    assert "0 to 5, not 6" in failed(capsys, "heatmap", "--image", picture, "--question", "?", "--layer", "6", *out)
    assert "'last'" in failed(capsys, "heatmap", "--image", picture, "--question", "?", "--layer", "last", *out)
    assert "question is empty" in failed(capsys, "heatmap", "--image", picture, "--question", " ", *out)
    assert "nowhere.png" in failed(capsys, "heatmap", "--image", "nowhere.png", "--question", "?", *out)
    assert not (tmp_path / "none").exists()


def test_without_matplotlib_the_extra_is_named(tmp_path, capsys, monkeypatch):
    """Would catch a traceback, or minutes of generation before it."""
    monkeypatch.setattr("look_again.extras.importlib.util.find_spec", lambda package: None)
    assert "look-again-vlm[eval]" in failed(capsys, "dilution", "--n", "1", "--out", str(tmp_path))
