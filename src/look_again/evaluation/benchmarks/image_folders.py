"""Images beside a benchmark's files, and single fields of its records, for the hallucination benchmarks.

The paper names benchmarks and no files. Images are checked by their headers as each record is read, so that one that
is missing or damaged is listed before anything is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from look_again.data.fields import image_of, path_inside, short, text_of
from look_again.data.image_files import ImageSource, image_size
from look_again.data.sample import SampleError
from look_again.evaluation.benchmark import ItemScore, Place
from look_again.evaluation.benchmarks.layouts import Record
from look_again.images import ImageError
from look_again.scoring.extraction import extract


def image_folders(place: Place, beside: Path, *names: str) -> list[Path]:
    """Folders that images may lie in: `place.images`, or else the one `beside`, and their `names` within, first.

    ValueError, saying what was looked for, when there is none.
    """
    root = beside if place.images is None else place.images.expanduser()
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
    return checked(image_of(record.get("image"), row_id, "image", None), row_id)


def checked(image: ImageSource, row_id: str) -> ImageSource:
    """The image itself; SampleError when it is missing or its header cannot be read."""
    try:
        image_size(image)
    except ImageError as error:
        raise SampleError(row_id, str(error)) from error
    return image


def question_of(record: Record, field: str, row_id: str) -> str:
    """The stripped text of a field; SampleError unless there is one."""
    if not (text := text_of(record.get(field), row_id, field).strip()):
        raise SampleError(row_id, f"{field} is empty")
    return text


def yes_or_no(value: object, row_id: str, field: str) -> str:
    """A reference answer as "yes" or "no"; SampleError for anything else."""
    answer = value.strip().rstrip(".").lower() if isinstance(value, str) else ""
    if answer not in ("yes", "no"):
        raise SampleError(row_id, f"{field} is {short(value)}: yes or no is needed")
    return answer


def share(part: float, whole: float) -> float | None:
    """part / whole; None where there is nothing to divide by."""
    return part / whole if whole else None


def yes_no_score(reference: str, text: str, official: str | None) -> ItemScore:
    """A yes or no question's answer by our scorer, and `official` as the benchmark's own rule reads it."""
    found = extract(text, "yesno")
    return ItemScore(
        official=float(official == reference),
        strict=float(found == reference),
        extracted=found,
        unparsed=found is None,
        facts={"official_answer": official},
    )
