r"""SceMQA (Liang et al., 2024): mathematics, physics, chemistry and biology at the level of college entrance.

Layout read, that of the authors' repository github.com/SceMQA/SceMQA and of its copy on the hub, Haozy/SceMQA-main
(whose images lie in the same folders; that its two JSON files do too could not be checked):
`Multiple_Choice/multiple_choice.json` and `Free_Response/free_response.json`, each one object from subject to a list of
`Question`, `Answer (final answer highlighted)` and `ImagePath`, some with `Comment` and `category`. `ImagePath` is
relative to the file's folder and has no extension (`Math/1` for `Math/1.jpg`). A folder with one of the files will do.

- Multiple choice: the options are lines of the question, "A. …" or "(A) …"; where they are not in order the question
  stays whole. The answer is a letter, an explanation behind it is dropped.
- Free response: the answer is in `\answer{…}`; where a row has several, they are alternatives and the first counts.

The set has no splits; all of it is `train`. Both files are read whole (1 MB); questions may share an image.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from look_again.data.fields import check_text, path_inside, short
from look_again.data.hub_datasets import find_folder
from look_again.data.readers import read_json
from look_again.data.records import Record
from look_again.data.references import AT_LINE_STARTS, question_samples, split_choices
from look_again.data.sample import Sample, SampleError
from look_again.data.source import Source
from look_again.scoring.grading import boxed

FILES = ("Multiple_Choice/multiple_choice.json", "Free_Response/free_response.json")
ANSWER = "Answer (final answer highlighted)"
EXTENSIONS = ("", ".jpg", ".png", ".jpeg")

_LETTER = re.compile(r"\s*\(?([A-H])\)?(?![A-Za-z])")


def scemqa_samples(source: Source) -> Iterator[Sample | SampleError]:
    """Samples of both files; bad records as SampleErrors. ValueError where there is no such folder, or neither file."""
    folder = find_folder(source.path, [f"{Path(name).parent}/**" for name in FILES], example="Haozy/SceMQA-main")
    files = [folder / name for name in FILES if (folder / name).is_file()]
    if not files:
        raise ValueError(f"{folder} has none of {', '.join(FILES)}: SceMQA's questions are in these two")
    for file in files:
        base = source.base(file.parent) or file.parent
        yield from question_samples(_records(file, base), _shape, source="scemqa", split=source.split, base=base)


def _records(file: Path, base: Path) -> Iterator[Record | SampleError]:
    """Each question with an id, "<subject>-<number>", and the folder of its image."""
    subjects = read_json(file, file.name)
    if isinstance(subjects, SampleError):
        raise ValueError(f"{file} is {subjects.reason}: download it again")
    for subject, records in subjects.items():
        if not isinstance(records, list):
            yield SampleError(f"scemqa-{subject}", f"{short(records)} in {file.name}: a list of questions is needed")
            continue
        for number, record in enumerate(records, start=1):
            if isinstance(record, Mapping):
                yield {**record, "id": f"{subject}-{number}", "base": base}
            else:
                yield SampleError(f"scemqa-{subject}-{number}", f"{short(record)}: an object is needed")


def _shape(record: Record, row_id: str) -> Record:
    question = check_text(record.get("Question"), row_id, "Question").strip()
    answer = check_text(record.get(ANSWER), row_id, ANSWER)
    image = _image(check_text(record.get("ImagePath"), row_id, "ImagePath"), row_id, record["base"])
    if r"\answer{" in answer:
        first = boxed(r"\boxed{" + answer.split(r"\answer{")[1])
        return {"question": question, "image": image, "reference": (first or "").strip()}
    if not (letter := _LETTER.match(answer)):
        raise SampleError(row_id, rf"{ANSWER} is {short(answer)}: a letter or \answer{{…}} is needed")
    choices = split_choices(question, AT_LINE_STARTS)
    asked = {"question": choices.before, "options": list(choices.texts)} if choices else {"question": question}
    return {**asked, "image": image, "reference": letter[1]}


def _image(name: str, row_id: str, base: Path) -> Path:
    """The file of that name, whatever its extension; the bare name where there is none, for the check to find."""
    path = path_inside(name, row_id, "ImagePath", base)
    files = (path.with_name(path.name + extension) for extension in EXTENSIONS)
    return next((file for file in files if file.is_file()), path)
