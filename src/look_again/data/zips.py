"""Images inside a zip archive that may be cut into parts, read where they lie.

LLaVA-CoT-100k ships 160 GB as `image.zip.part-aa`, `-ab`, …: one archive cut by `split`. Joining and unpacking it takes
twice that again; here the parts are read as one seekable file.
"""

from __future__ import annotations

import io
import os
import re
import zipfile
import zlib
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, islice, product
from pathlib import Path
from string import ascii_lowercase, digits
from typing import IO, Any, BinaryIO, cast

from look_again.data.image_files import MAX_BYTES, LazyImage
from look_again.images import ImageError

FOLDERS = ("", "image/", "images/", "image_files/")
"""Folders of an archive in which an image may lie; records and archives differ on the leading folder."""


class JoinedFile(io.RawIOBase):
    """Several files read as one after the other. OSError when one cannot be opened."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._files: list[IO[bytes]] = []
        for path in paths:
            self._files.append(path.open("rb", buffering=0))
        sizes = (os.fstat(file.fileno()).st_size for file in self._files)
        self._starts = list(accumulate(sizes, initial=0))  # of each part, and at last the whole length
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._starts[-1]}[whence]
        if base + offset < 0:
            raise OSError(f"cannot seek to {base + offset}")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Fill from one part; the reader around this asks again for what the next part holds."""
        if self._at >= self._starts[-1]:
            return 0
        part = bisect_right(self._starts, self._at) - 1
        self._files[part].seek(self._at - self._starts[part])
        count = self._files[part].readinto(memoryview(buffer)[: self._starts[part + 1] - self._at])  # type: ignore[attr-defined]
        self._at += count
        return count

    def close(self) -> None:
        for file in self._files:
            file.close()
        super().close()


def find_parts(archive: Path) -> list[Path]:
    """The files that together are `archive`: itself, or `archive.part-aa`, … in order; [] when there are none.

    ValueError when a part in between is missing. A missing last part shows only when the archive is opened.
    """
    if archive.is_file():
        return [archive]
    pattern = re.compile(re.escape(archive.name) + r"\.part-([a-z]+|[0-9]+)")
    siblings = archive.parent.iterdir() if archive.parent.is_dir() else iter(())
    paths = {match[1]: path for path in siblings if (match := pattern.fullmatch(path.name))}
    suffixes = sorted(paths)
    if suffixes:
        alphabet = digits if suffixes[0].isdigit() else ascii_lowercase
        expected = ["".join(letters) for letters in islice(product(alphabet, repeat=len(suffixes[0])), len(suffixes))]
        if lost := sorted(set(expected) - set(suffixes)):
            raise ValueError(
                f"{archive}.part-{lost[0]} is missing beside its {len(suffixes)} other parts: download it again"
            )
    return [paths[suffix] for suffix in suffixes]


@dataclass(frozen=True)
class ZipMember(LazyImage):
    """The image `name` of `archive` (whole or in parts), looked up when read, also under `FOLDERS`.

    ImageError when the archive or the member is missing, damaged, encrypted or longer than 64 MiB.
    """

    archive: Path
    name: str

    def __str__(self) -> str:
        return f"{self.name} in {self.archive}"

    def stored(self) -> dict[str, Any]:
        return {"archive": str(self.archive), "member": self.name}

    @classmethod
    def from_stored(cls, stored: Mapping[str, Any]) -> ZipMember:
        return cls(Path(stored["archive"]), stored["member"])

    def open(self) -> BinaryIO:
        with self._image_errors():
            archive = _archive(self.archive, os.getpid())
            info = _info(archive, self.name)
            if info.file_size > MAX_BYTES:
                raise ImageError(f"picture {str(self)!r} is {info.file_size} bytes, more than {MAX_BYTES}")
            return cast(BinaryIO, archive.open(info))

    def read(self) -> bytes:
        with self._image_errors(), self.open() as file:
            return file.read()

    @contextmanager
    def _image_errors(self) -> Iterator[None]:
        try:
            yield
        except ImageError:
            raise
        except KeyError as error:
            raise ImageError(f"picture {str(self)!r}: the archive holds no such picture") from error
        except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, ValueError) as error:
            hint = "is a part of it missing or cut off?" if isinstance(error, zipfile.BadZipFile) else ""
            raise ImageError(f"picture {str(self)!r} cannot be read: {error} {hint}".rstrip()) from error


@lru_cache(maxsize=4)
def _archive(path: Path, process: int) -> zipfile.ZipFile:
    """The archive, opened once per process: forked processes that share a file would move each other's position."""
    parts = find_parts(path)
    if not parts:
        raise FileNotFoundError(f"no such archive, whole or in parts: {path}")
    return zipfile.ZipFile(cast(BinaryIO, io.BufferedReader(JoinedFile(parts), buffer_size=2**16)))


def _info(archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    """KeyError when the archive has no such member under any of `FOLDERS`."""
    for folder in FOLDERS:
        with suppress(KeyError):
            return archive.getinfo(folder + name)
    raise KeyError(name)
