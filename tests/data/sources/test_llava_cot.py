"""LLaVA-CoT-100k in its published layout: JSON lines beside an archive in parts, or unpacked."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path

import huggingface_hub
import pytest

from look_again.data.checks import check_samples
from look_again.data.image_files import image_size
from look_again.data.loaders import Counts, load_samples
from look_again.data.sample import BadSample, SampleError
from look_again.data.source import Source

FOUR = "<SUMMARY> s </SUMMARY>\n\n<CAPTION> c </CAPTION>\n\n<REASONING> r </REASONING>\n\n<CONCLUSION> 4 </CONCLUSION>"


def record(id: str, image: str | None = None, turns: int = 1) -> dict:
    talk = [{"from": "human", "value": f"Question of {id}?"}, {"from": "gpt", "value": FOUR}] * turns
    return {"id": id, "conversations": talk} | ({"image": image} if image else {})


@pytest.fixture
def folder(tmp_path: Path, write_lines, encoded) -> Path:
    """Two pictures in an archive cut in the middle of its central directory, one unpacked, one lost, a text row."""
    write_lines(
        tmp_path / "train.jsonl",
        record("sqa_1", "sqa/train/1/image.png"),
        record("coco_2", "coco/train2017/2.jpg"),
        record("text_3"),
        record("lost_4", "coco/train2017/4.jpg"),
        record("open_5", "chartqa/5.png"),
    )
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("sqa/train/1/image.png", encoded(40, 20))
        archive.writestr("coco/train2017/2.jpg", encoded(33, 44, "JPEG"))
    data = file.getvalue()
    at = data.index(b"PK\x01\x02") + 30
    (tmp_path / "image.zip.part-aa").write_bytes(data[:100])
    (tmp_path / "image.zip.part-ab").write_bytes(data[100:at])
    (tmp_path / "image.zip.part-ac").write_bytes(data[at:])
    (tmp_path / "image" / "chartqa").mkdir(parents=True)
    (tmp_path / "image" / "chartqa" / "5.png").write_bytes(encoded(50, 60))
    return tmp_path


def source(path: Path | str, **fields) -> Source:
    return Source(loader="llava-cot", path=str(path), **fields)


def test_rows_of_the_published_layout(folder: Path) -> None:
    rows = {row.id: row for row in load_samples(source(folder))}
    assert list(rows) == ["sqa_1", "coco_2", "text_3", "lost_4", "open_5"]
    assert rows["sqa_1"].question == "Question of sqa_1?"
    assert rows["sqa_1"].response == FOUR
    assert (rows["sqa_1"].source, rows["sqa_1"].split) == ("llava-cot", "train")
    assert image_size(rows["sqa_1"].images[0]) == (40, 20)
    assert image_size(rows["coco_2"].images[0]) == (33, 44)
    assert image_size(rows["open_5"].images[0]) == (50, 60)
    assert rows["text_3"].images == ()
    assert pickle.loads(pickle.dumps(rows["sqa_1"])) == rows["sqa_1"]


def test_missing_picture_is_found_by_the_check_alone(folder: Path) -> None:
    """A loader that opened pictures would end 100,000 rows at the first one missing."""
    good, bad = check_samples(load_samples(source(folder)), min_reflections=0, progress=False)
    assert [row.id for row in good] == ["sqa_1", "coco_2", "text_3", "open_5"]
    assert [row.id for row in bad] == ["lost_4"]
    assert "coco/train2017/4.jpg" in bad[0].reason
    assert "holds no such picture" in bad[0].reason


def test_missing_picture_without_an_archive(folder: Path) -> None:
    for part in folder.glob("image.zip.part-*"):
        part.unlink()
    good, bad = check_samples(load_samples(source(folder)), min_reflections=0, progress=False)
    assert [row.id for row in good] == ["text_3", "open_5"]
    assert all("no such file" in row.reason for row in bad)


def test_counts(folder: Path, write_lines) -> None:
    with (folder / "train.jsonl").open("a") as file:
        file.write('{"id": "cut')
    counts, skipped = Counts(), []
    rows = list(load_samples(source(folder, without_image="skip"), counts=counts, on_skip=skipped.append))
    assert [row.id for row in rows] == ["sqa_1", "coco_2", "lost_4", "open_5"]
    assert counts == Counts(rows=4, without_image=1, skipped=1)
    assert skipped == [BadSample("train.jsonl line 6", skipped[0].reason)]
    counts = Counts()
    assert len(list(load_samples(source(folder), counts=counts, on_skip=skipped.append))) == 5
    assert counts == Counts(rows=5, without_image=1, skipped=1)


def test_repeated_ids_are_told_apart(tmp_path: Path, write_lines) -> None:
    """LLaVA's ids name pictures; refusing the second question about one would lose it."""
    write_lines(tmp_path / "train.jsonl", record("a"), record("b"), record("a"), record("a"))
    assert [row.id for row in load_samples(source(tmp_path))] == ["a", "b", "a-2", "a-3"]


def test_several_turns_and_escapes_are_row_errors(tmp_path: Path, write_lines) -> None:
    write_lines(tmp_path / "train.jsonl", record("two", turns=2), record("out", "../../etc/x.png"), record("fine"))
    skipped: list[BadSample] = []
    assert [row.id for row in load_samples(source(tmp_path), on_skip=skipped.append)] == ["fine"]
    assert [row.id for row in skipped] == ["two", "out"]
    with pytest.raises(SampleError, match="row 'two': conversations has the turns"):
        next(load_samples(source(tmp_path)))


def test_pictures_in_a_folder_elsewhere(tmp_path: Path, write_lines, encoded) -> None:
    write_lines(tmp_path / "rows" / "train.jsonl", record("a", "coco/1.png"))
    (tmp_path / "pictures" / "coco").mkdir(parents=True)
    (tmp_path / "pictures" / "coco" / "1.png").write_bytes(encoded(40, 20))
    images = str(tmp_path / "rows" / ".." / "pictures")
    (row,) = load_samples(source(tmp_path / "rows", images=images))
    assert row.images == (tmp_path / "pictures" / "coco" / "1.png",)


def test_what_is_missing_is_said(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no test\.jsonl"):
        next(load_samples(source(folder, split="test")))
    with pytest.raises(ValueError, match="neither a folder nor a hub name"):
        next(load_samples(source(tmp_path / "gone")))
    (folder / "image.zip.part-ab").unlink()
    with pytest.raises(ValueError, match="part-ab is missing"):
        next(load_samples(source(folder)))


def test_hub_name_is_downloaded_once_asked(folder: Path, monkeypatch) -> None:
    asked = []

    def snapshot_download(name: str, **options) -> str:
        asked.append((name, options))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert next(load_samples(source("Xkev/LLaVA-CoT-100k"))).id == "sqa_1"
    assert asked == [("Xkev/LLaVA-CoT-100k", {"repo_type": "dataset", "allow_patterns": ["train.jsonl", "image.zip*"]})]


def test_hub_that_cannot_be_reached_is_one_error() -> None:
    """The tests run offline; the library's own message speaks of cached snapshots and names nothing."""
    with pytest.raises(ValueError, match="'no/such-set' is no folder here"):
        next(load_samples(source("no/such-set")))
