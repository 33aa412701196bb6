"""Rows shared with evaluation sets are found by picture, resized or encoded again, and by question, and refused."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from look_again.commands.main import main
from look_again.data.loaders import load_samples
from look_again.data.sample import Sample
from look_again.data.source import Source
from look_again.pipeline.overlap import Known, load_fingerprints, normalised_question, overlap, shared_with
from look_again.tabletop.render import render
from look_again.tabletop.samples import make_sample


def picture(seed: int) -> Image.Image:
    return render(make_sample("train", 4, seed).scene)


def diagram(corner: int) -> Image.Image:
    """Thin lines on white, as in geometry."""
    image = Image.new("RGB", (240, 240), "white")
    ImageDraw.Draw(image).polygon([(20, 220), (corner, 20), (220, 200)], outline="black", width=2)
    return image


@pytest.fixture
def evaluation(tmp_path, write_lines):
    records = [{"id": f"e{i}", "image": f"{i}.png", "question": "How many are there?"} for i in range(40)]
    records += [{"id": "d", "image": "d.png", "question": "Which angle?"}, {"id": "t", "question": "What is 2 + 2?"}]
    path = write_lines(tmp_path / "eval" / "rows.jsonl", *records)
    for i in range(40):
        picture(i).save(path.parent / f"{i}.png")
    diagram(120).save(path.parent / "d.png")
    return Source(loader="jsonl", path=str(path))


@pytest.fixture
def known(evaluation):
    return load_fingerprints([evaluation])


def kinds(image: Image.Image | None, known: Known, question: str = "Else?") -> list[tuple[str, str]]:
    images = () if image is None else (image,)
    row = Sample(id="r", images=images, question=question, source="test")
    return [(match.kind, match.other_id) for match in shared_with(row, known)]


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file)


def test_copies_are_found(known):
    assert kinds(picture(3), known) == [("picture", "e3")]
    for size in ((84, 84), (120, 120), (400, 400), (336, 200)):
        for method in (Image.Resampling.BILINEAR, Image.Resampling.LANCZOS):
            assert kinds(picture(3).resize(size, method), known) == [("resized picture", "e3")], (size, method)
    assert kinds(jpeg(picture(3), 60), known) == [("resized picture", "e3")]
    assert kinds(diagram(120).resize((150, 150)), known) == [("resized picture", "d")]


def test_other_pictures_are_not(known):
    """Scenes on one table and diagrams on one white page are alike, and still different rows."""
    for seed in range(40, 80):
        assert kinds(picture(seed), known) == []
    for corner in (60, 100, 150, 200):
        assert kinds(diagram(corner), known) == []
    assert kinds(Image.new("RGB", (50, 50), "white"), known) == []


def test_questions_count_alone_only_without_pictures(known):
    assert kinds(None, known, "what is 2+2") == [("question", "t")]
    assert kinds(picture(70), known, "How many are there?") == []


def test_questions_are_compared_by_their_words():
    one = Sample(id="a", question="What’s  the COLOUR?", options=("Red", "blue"), source="s")
    other = Sample(id="b", question="what s the colour", options=("red.", "Blue"), source="s")
    assert normalised_question(one) == normalised_question(other)


def test_the_report_counts_rows(evaluation, tmp_path, write_lines):
    path = write_lines(
        tmp_path / "mine" / "rows.jsonl",
        {"id": "a", "image": "a.png", "question": "How many are there?"},
        {"id": "b", "question": "What is 2 + 2 ?"},
        {"id": "c", "question": "New?"},
        {"id": "gone", "image": "gone.png", "question": "Q?"},
    )
    picture(5).resize((100, 100)).save(path.parent / "a.png")
    found = overlap([Source(loader="jsonl", path=str(path))], [evaluation])
    assert (found["rows"], found["evaluation_rows"], found["shared"]) == (4, 42, 2)
    assert found["with_the_same_question"] == 2
    assert found["by_kind"] == {"resized picture": 1, "question": 1}
    assert [match["row_id"] for match in found["rows_shared"]] == ["a", "b"]


def test_the_command_prints_them(evaluation, capsys):
    assert (
        main(["data", "overlap", "--rows", f"jsonl:{evaluation.path}", "--evaluation", f"jsonl:{evaluation.path}"]) == 0
    )
    assert "42 of 42 rows are shared with 42 evaluation rows" in capsys.readouterr().out
    assert main(["data", "overlap", "--rows", "nowhere", "--evaluation", "jsonl:x"]) == 2
    assert Path(evaluation.path).exists()
    assert len(list(load_samples(evaluation))) == 42
