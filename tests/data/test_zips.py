"""A zip archive in parts reads as one, wherever it was cut."""

from __future__ import annotations

import io
import multiprocessing
import pickle
import zipfile
from itertools import pairwise
from pathlib import Path

import pytest

from look_again.data import zips
from look_again.data.image_files import image_size, open_image
from look_again.data.zips import JoinedFile, ZipMember, find_parts
from look_again.images import ImageError


def cut(path: Path, data: bytes, *at: int) -> None:
    """Write `data` as `path`.part-aa, -ab, … cut at the given positions."""
    edges = [0, *at, len(data)]
    for i, (start, stop) in enumerate(pairwise(edges)):
        path.with_name(f"{path.name}.part-a{'abcdefgh'[i]}").write_bytes(data[start:stop])


def zipped(members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def test_joined_file_reads_as_the_whole_does(tmp_path: Path) -> None:
    """Every seek and length against a plain file, over parts of 0, 1, 3 and more bytes."""
    data = bytes(range(40))
    cut(tmp_path / "x", data, 1, 1, 4, 20)
    joined = io.BufferedReader(JoinedFile(find_parts(tmp_path / "x")), buffer_size=4)
    for start in range(42):
        for length in (0, 1, 3, 17, 60):
            assert joined.seek(start) == start
            assert joined.read(length) == data[start : start + length]
            assert joined.tell() == max(start, min(start + length, 40))
    assert joined.seek(-2, 2) == 38
    assert joined.read() == data[38:]


def test_members_are_read_wherever_the_archive_is_cut(tmp_path: Path, encoded) -> None:
    """Cuts inside a local header, the data, the central directory and its end record."""
    members = {"a/x.png": encoded(40, 20), "b/y.jpg": encoded(30, 60, "JPEG")}
    data = zipped(members)
    directory, end = data.index(b"PK\x01\x02"), data.index(b"PK\x05\x06")
    for i, at in enumerate([(2, 9), (31, 500), (directory - 1,), (directory + 7, directory + 20), (end + 3,), (end,)]):
        archive = tmp_path / str(i) / "image.zip"
        archive.parent.mkdir()
        cut(archive, data, *at)
        assert {name: ZipMember(archive, name).read() for name in members} == members
        assert image_size(ZipMember(archive, "b/y.jpg")) == (30, 60)
        assert open_image(ZipMember(archive, "a/x.png")).size == (40, 20)


def test_whole_archive_and_leading_folder(tmp_path: Path, encoded) -> None:
    data = encoded()
    (tmp_path / "image.zip").write_bytes(zipped({"images/coco/1.png": data}))
    assert ZipMember(tmp_path / "image.zip", "coco/1.png").read() == data


def test_size_is_read_without_the_pixels(tmp_path: Path, encoded) -> None:
    """Bytes damaged far behind the header fail the read of the whole, not the size."""
    image = encoded(400, 400)
    data = bytearray(zipped({"x.png": image}, zipfile.ZIP_STORED))
    data[len(image) - 100] ^= 1
    (tmp_path / "image.zip").write_bytes(data)
    member = ZipMember(tmp_path / "image.zip", "x.png")
    assert image_size(member) == (400, 400)
    with pytest.raises(ImageError, match=r"x\.png in .*CRC"):
        open_image(member)


def test_missing_member_archive_and_parts_are_image_errors(tmp_path: Path, encoded) -> None:
    data = zipped({"x.png": encoded()})
    with pytest.raises(ImageError, match="no such archive"):
        ZipMember(tmp_path / "image.zip", "x.png").read()
    cut(tmp_path / "image.zip", data, 100, 200)
    with pytest.raises(ImageError, match=r"gone\.png.*holds no such picture"):
        ZipMember(tmp_path / "image.zip", "gone.png").read()
    cut(tmp_path / "last.zip", data, 100)
    (tmp_path / "last.zip.part-ab").unlink()
    with pytest.raises(ImageError, match="is a part of it missing"):
        image_size(ZipMember(tmp_path / "last.zip", "x.png"))
    cut(tmp_path / "middle.zip", data, 100, 200)
    (tmp_path / "middle.zip.part-ab").unlink()
    with pytest.raises(ImageError, match=r"part-ab is missing"):
        image_size(ZipMember(tmp_path / "middle.zip", "x.png"))


def test_parts_are_in_order_without_strays(tmp_path: Path) -> None:
    """A download's left-overs beside the parts, or the 27th part, must not shift the bytes."""
    cut(tmp_path / "image.zip", b"abcdef", 1, 2)
    for stray in ("image.zip.part-aa.incomplete", "image.zip.part-", "ximage.zip.part-ab", "image.zip.partial"):
        (tmp_path / stray).write_bytes(b"?")
    assert [path.name[-2:] for path in find_parts(tmp_path / "image.zip")] == ["aa", "ab", "ac"]
    assert find_parts(tmp_path / "none.zip") == []
    for i in range(28):
        (tmp_path / f"long.zip.part-{'ab'[i // 26]}{chr(97 + i % 26)}").write_bytes(b"x")
    assert [path.name[-2:] for path in find_parts(tmp_path / "long.zip")][24:] == ["ay", "az", "ba", "bb"]


def test_hole_in_the_parts_is_named(tmp_path: Path) -> None:
    cut(tmp_path / "image.zip", b"abcdef", 1, 2)
    (tmp_path / "image.zip.part-aa").unlink()
    with pytest.raises(ValueError, match=r"image\.zip\.part-aa is missing"):
        find_parts(tmp_path / "image.zip")


def test_archive_is_opened_once_in_every_process(tmp_path: Path, encoded, monkeypatch) -> None:
    """Workers forked after the first read inherit the open file, and reading through it moves it for all of them;
    opening it for each picture would read a directory of 100,000 entries each time."""
    members = {f"{i}.png": encoded() for i in range(3)}
    cut(tmp_path / "image.zip", zipped(members), 500)
    opened: list[Path] = []
    monkeypatch.setattr(zips, "find_parts", lambda path: opened.append(path) or find_parts(path))

    def read_all() -> int:
        opened.clear()
        assert {name: ZipMember(tmp_path / "image.zip", name).read() for name in members} == members
        return len(opened)

    assert read_all() == 1
    assert read_all() == 0
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    worker = context.Process(target=lambda: queue.put(read_all()))
    worker.start()
    assert queue.get(timeout=60) == 1
    worker.join()


def test_pickled_member_is_small_and_reads_the_same(tmp_path: Path, encoded) -> None:
    data = encoded(300, 300)
    cut(tmp_path / "image.zip", zipped({"x.png": data}), 5000)
    member = ZipMember(tmp_path / "image.zip", "x.png")
    member.read()
    pickled = pickle.dumps(member)
    assert len(pickled) < 1000
    assert pickle.loads(pickled).read() == data
