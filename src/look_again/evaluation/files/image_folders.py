"""Images beside a benchmark's files, and single fields of its records, for the hallucination benchmarks.

The paper names benchmarks and no files. Images are checked by their headers as each record is read, so that one that
is missing or damaged is listed before anything is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from look_again.data.fields import check_text, parse_image, path_inside
from look_again.data.image_files import ImageSource, image_size
from look_again.data.sample import SampleError
from look_again.evaluation.benchmark import DataLocation
from look_again.evaluation.files.layouts import Record
from look_again.images import ImageError


def image_folders(location: DataLocation, beside: Path, *names: str) -> list[Path]:
    """Folders that images may lie in: `location.images`, or else the one `beside`, and their `names` within, first.

    ValueError, saying what was looked for, when there is none.
    """
    root = beside if location.images is None else location.images.expanduser()
    candidates = [root / name for name in (*names, "")]
    if not (found := [folder for folder in candidates if folder.is_dir()]):
        raise ValueError(f"no folder of pictures: looked for {', '.join(map(str, candidates))}")
    return found


def image_in(folders: Sequence[Path], name: str, row_id: str) -> Path:
    """The file `name` in the first of the folders that has it.

    SampleError when none has, when the name leads out of them, and when the file is no image.
    """
    for folder in folders:
        path = path_inside(name, row_id, "image", folder)
        if path.is_file():
            checked(path, row_id)
            return path
    raise SampleError(row_id, f"picture {name} is missing: looked in {', '.join(map(str, folders))}")


def record_image(record: Record, row_id: str) -> ImageSource:
    """The image in a table's column `image`; SampleError when there is none or it is damaged."""
    return checked(parse_image(record.get("image"), row_id, "image", None), row_id)


def checked(image: ImageSource, row_id: str) -> ImageSource:
    """The image itself; SampleError when it is missing or its header cannot be read."""
    try:
        image_size(image)
    except ImageError as error:
        raise SampleError(row_id, str(error)) from error
    return image


def parse_question(record: Record, field: str, row_id: str) -> str:
    """The stripped text of a field; SampleError unless there is one."""
    if not (text := check_text(record.get(field), row_id, field).strip()):
        raise SampleError(row_id, f"{field} is empty")
    return text
