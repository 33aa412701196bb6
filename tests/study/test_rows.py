"""Rows of one's own: what is read, and what is refused with its line before any work."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from look_again.commands.main import main
from look_again.study.rows import read_rows

BEGINNING = "<SUMMARY> look</SUMMARY><REASONING> look</REASONING><REFLECTION>"


def _row(number, **changed):
    row = {"id": f"row-{number}", "image": f"{number}.png", "question": "How many?", "answer": "2"}
    return row | {"beginnings": {"100": BEGINNING}} | changed


def _folder(tmp_path, *changes):
    """Ten rows with images, the first of them with changes."""
    folder = tmp_path / "rows"
    folder.mkdir()
    for number in range(10):
        Image.new("RGB", (168, 168), (20 * number, 0, 0)).save(folder / f"{number}.png")
    rows = [_row(n, **(changes[n] if n < len(changes) else {})) for n in range(10)]
    _write(folder, "\n".join(map(json.dumps, rows)))
    return folder


def _write(folder, text, encoding="utf-8"):
    (folder / "rows.jsonl").write_text(text, encoding=encoding)


def _study(tmp_path, folder, *options):
    small = ["--lengths", "100", "--n", "10", "--n-other", "10", "--batch", "10", "--arms", "text,copy"]
    return main(["study", "distance", "--rows", str(folder), "--out", str(tmp_path / "out"), *small, *options])


def test_lines_end_with_line_feeds_alone_and_blank_ones_are_passed_over(tmp_path):
    folder = _folder(tmp_path)
    rows = [_row(0, question="one\u2028two"), _row(1, answer=7)]
    _write(folder, "\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n", encoding="utf-8-sig")
    assert [dict(row) for row in read_rows(folder)] == rows


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"id": None}, "'id' is None: a text or a number is needed"),
        ({"id": True}, "'id' is True"),
        ({"image": 7}, "'image' is 7: a text is needed"),
        ({"image": "a\0b.png"}, "'image' is 'a"),
        ({"question": " "}, "'question' is ' ': a text is needed"),
        ({"question": "\ud800"}, "'question' is "),
        ({"answer": ["2"]}, r"'answer' is \['2'\]"),
        ({"answer": float("nan")}, "'answer' is nan"),
        ({"beginnings": [BEGINNING]}, "'beginnings' is "),
        ({"beginnings": {"far": BEGINNING}}, "'beginnings' is "),
        ({"beginnings": {"100": 5}}, "the beginning of 100 tokens does not end in <REFLECTION>"),
        ({"beginnings": {"200": BEGINNING}}, "no beginning of 100 tokens; every row has every length"),
        ({"id": "row-0"}, "the id 'row-0' is that of line 1"),
        ({"image": "10.png"}, "there is no file '10.png' in the folder"),
        ({"image": "../rows/1.png"}, "the image '../rows/1.png' is outside the folder"),
        ({"image": "/etc/hostname"}, "the image '/etc/hostname' is outside the folder"),
        ({"image": "out.png"}, "the image 'out.png' is outside the folder"),
    ],
)
def test_what_is_no_row_is_named_with_its_line(tmp_path, changed, fault):
    folder = _folder(tmp_path, {}, changed)
    Image.new("RGB", (8, 8)).save(tmp_path / "beside.png")
    (folder / "out.png").symlink_to(tmp_path / "beside.png")
    with pytest.raises(ValueError, match=rf"rows.jsonl, line 2: {fault}"):
        read_rows(folder, length=100)


@pytest.mark.parametrize(
    ("line", "fault"),
    [("5", "a JSON int where an object"), ("{", "not JSON"), ('{"id": 1}', "no 'image'; a row has id")],
)
def test_a_line_that_is_no_object_is_named(tmp_path, line, fault):
    folder = _folder(tmp_path)
    _write(folder, f"\n{line}\n")
    with pytest.raises(ValueError, match=f"line 2: {fault}"):
        read_rows(folder)


def test_a_damaged_image_of_any_row_is_told_before_any_work(tmp_path, capsys):
    folder = _folder(tmp_path)
    (folder / "7.png").write_bytes((folder / "7.png").read_bytes()[:60])
    assert _study(tmp_path, folder) == 2
    assert "look-again: row 'row-7': " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_work_is_measured_and_not_believed_to_be_as_long_as_it_says(tmp_path, capsys):
    long = BEGINNING.replace(" look</REASONING>", " red" * 4000 + "</REASONING>")
    assert _study(tmp_path, _folder(tmp_path, {}, {"beginnings": {"100": long}})) == 2
    assert "row 'row-1', length 100: 40" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_one_picture_for_all_rows_is_no_other_picture(tmp_path, capsys):
    folder = _folder(tmp_path, *[{"image": "0.png"}] * 10)
    assert _study(tmp_path, folder, "--arms", "text,copy,wrong-image") == 2
    assert "needs items with different pictures" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
