"""LLaVA-CoT-100k in its published layout; the paper draws its cold-start and distillation questions from it.

A folder holds `train.jsonl` with `{id, image, conversations}` and the images, unpacked or in `image.zip.part-aa`, … .
Its responses have SUMMARY, CAPTION, REASONING and CONCLUSION and no REFLECTION. Ids of LLaVA's files name an image
rather than a row, so a repeated one is told apart ("x", "x-2", "x-3" in file order) instead of refused.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from look_again.data.hub_datasets import find_folder
from look_again.data.image_files import ImageSource
from look_again.data.readers import read_jsonl
from look_again.data.records import samples_from_records
from look_again.data.sample import Sample, SampleError
from look_again.data.source import Source
from look_again.data.zips import FOLDERS, ZipMember, find_parts

ARCHIVE = "image.zip"


def llava_cot_samples(source: Source) -> Iterator[Sample | SampleError]:
    """Samples of a folder, or of the hub data set of that name; bad records as SampleErrors.

    Images lie under the source's `images` (None: the same folder), else in the archive beside the rows. One that is in
    neither is found when the sample is checked. Rows without an image are questions in text alone.

    Raises ValueError when there is no such folder or hub data set, no `<split>.jsonl` in it, or a hole in the archive.
    """
    split, images = source.split, source.base(None)
    folder = find_folder(source.path, [f"{split}.jsonl", f"{ARCHIVE}*"], example="Xkev/LLaVA-CoT-100k")
    file = folder / f"{split}.jsonl"
    if not file.is_file():
        raise ValueError(f"{folder} has no {file.name}: LLaVA-CoT-100k has the split train, in train.jsonl")
    unpacked = Path(os.path.abspath(images or folder))
    archive = folder.absolute() / ARCHIVE if find_parts(folder / ARCHIVE) else None
    rows = samples_from_records(read_jsonl(file), source="llava-cot", split=split, base=unpacked)
    return _finished(rows, unpacked, archive)


def _finished(
    samples: Iterator[Sample | SampleError], unpacked: Path, archive: Path | None
) -> Iterator[Sample | SampleError]:
    """The rows with their images found and their ids told apart."""
    times: Counter[str] = Counter()
    for sample in samples:
        if isinstance(sample, Sample):
            times[sample.id] += 1
            row_id = sample.id if times[sample.id] == 1 else f"{sample.id}-{times[sample.id]}"
            sample = replace(
                sample, id=row_id, images=tuple(_locate(image, unpacked, archive) for image in sample.images)
            )
        yield sample


def _locate(image: ImageSource, unpacked: Path, archive: Path | None) -> ImageSource:
    """The unpacked file if there is one, else the member of the archive, else the path as it was."""
    if not isinstance(image, Path):
        return image
    name = image.relative_to(unpacked).as_posix()
    for folder in FOLDERS:
        if (unpacked / folder / name).is_file():
            return unpacked / folder / name
    return image if archive is None else ZipMember(archive, name)
