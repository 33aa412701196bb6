"""SceMQA in its repository's layout: two JSON files, pictures without an extension in their names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from look_again.data.checks import check_samples
from look_again.data.image_files import image_size
from tests.data.sources.mixture_rows import load, right

CHOICE = "At which value of x is f continuous?\n\nA. a\nB. b\nC. at c,\nnot d\nD. d"
BRACKETS = "I. The range is 4.\nII. The median is 2.\n\n(A) I only\n(B)  II only\n(C) both"


def question(text: str, answer: str, image: str = "Math/1") -> dict[str, str]:
    return {"Question": text, "Answer (final answer highlighted)": answer, "ImagePath": image}


def write(folder: Path, name: str, content: Any) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def choice(folder: Path, *questions: Any) -> None:
    write(folder, "Multiple_Choice/multiple_choice.json", {"Math": list(questions)})


@pytest.fixture
def folder(tmp_path: Path, encoded) -> Path:
    choice(tmp_path, question(CHOICE, "D"), question(BRACKETS, "B The range is 5.", "Math/2"))
    free = [
        question("The 25th percentile?", r"\answer{69.5} The same as 69.5.", "Math_Free_Response/1"),
        question("How many throws?", r"\answer{3.397} \answer{3} \answer{4} So \frac{1}{2}.", "Math_Free_Response/1"),
        question("Is there evidence?", r"\answer{Yes}. As p < 0.05.", "Math_Free_Response/2"),
        question("The slope?", r"\answer{$\frac{\sqrt{3}}{2}$ }", "Math_Free_Response/1"),
    ]
    write(tmp_path, "Free_Response/free_response.json", {"Math_Free_Response": free})
    for name in ("Multiple_Choice/Math/1.jpg", "Multiple_Choice/Math/2.png", "Free_Response/Math_Free_Response/1.jpeg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(encoded(40, 20, "PNG" if name.endswith("png") else "JPEG"))
    return tmp_path


def test_multiple_choice(folder: Path) -> None:
    """Statements "I." and "II." are no options; a letter is not an explanation."""
    rows, bad = load("scemqa", folder)
    assert not bad
    assert [row.id for row in rows[:2]] == ["scemqa-Math-1", "scemqa-Math-2"]
    assert (rows[0].question, rows[0].options) == (
        "At which value of x is f continuous?",
        ("a", "b", "at c,\nnot d", "d"),
    )
    assert rows[1].question == "I. The range is 4.\nII. The median is 2."
    assert (rows[1].options, rows[1].reference) == (("I only", "II only", "both"), "B")
    assert image_size(rows[1].images[0]) == (40, 20)
    assert right(rows[0], "D")
    assert right(rows[1], "(B) II only")
    assert not right(rows[1], "A")


def test_free_response(folder: Path) -> None:
    """Of several answers the first is exact, the others are roundings that the authors accept."""
    rows = load("scemqa", folder)[0][2:]
    assert [row.id for row in rows] == [f"scemqa-Math_Free_Response-{number}" for number in (1, 2, 3, 4)]
    assert [row.reference for row in rows] == ["69.5", "3.397", "Yes", r"$\frac{\sqrt{3}}{2}$"]
    assert all(row.options == () for row in rows)
    assert right(rows[0], "The answer is 69.5.")
    assert right(rows[2], "yes")
    assert right(rows[3], r"\sqrt{3}/2")
    assert {row.split for row in rows} == {"train"}


def test_missing_picture_is_found_by_the_check(folder: Path) -> None:
    good, bad = check_samples(load("scemqa", folder)[0], needs_response=False, progress=False)
    assert len(good) == 5
    assert [row.id for row in bad] == ["scemqa-Math_Free_Response-3"]
    assert "Math_Free_Response/2" in bad[0].reason


@pytest.mark.parametrize(
    "text",
    [
        "Which?\nA. one\nC. three",
        "Which?\nA. one\nB. two\nA. again\nB. more",
        "Which? A. one B. two",
        "Which letter?",
    ],
)
def test_options_that_cannot_be_told_stay_in_the_question(folder: Path, text: str) -> None:
    """A cut in the wrong place would make the letter mean another option."""
    choice(folder, question(text, "(C)"))
    row = load("scemqa", folder)[0][0]
    assert (row.question, row.options, row.reference) == (text, (), "C")
    assert right(row, "c")


def test_bad_questions_are_named(folder: Path) -> None:
    choice(
        folder,
        question(CHOICE, "E"),
        question(CHOICE, "Deletion of a base."),
        question(CHOICE, r"\answer{69"),
        question(CHOICE, "A", "../../private"),
        {"Question": CHOICE, "ImagePath": "Math/1"},
        question(CHOICE, "A") | {"ImagePath": None},
        "no object",
        question(CHOICE, "A"),
    )
    rows, bad = load("scemqa", folder)
    assert rows[0].id == "scemqa-Math-8"
    reasons = ["'E' is none of the 4 options", "a letter or \\answer{", "no reference answer", "outside"]
    reasons += ["highlighted) is None", "ImagePath is None", "'no object': an object is needed"]
    assert list(bad) == [f"scemqa-Math-{number}" for number in range(1, 8)]
    for found, expected in zip(bad.values(), reasons, strict=True):
        assert expected in found


def test_one_file_will_do_and_none_is_said(folder: Path, tmp_path: Path) -> None:
    (folder / "Free_Response" / "free_response.json").unlink()
    assert len(load("scemqa", folder)[0]) == 2
    write(folder, "Multiple_Choice/multiple_choice.json", {"Math": {"1": CHOICE}})
    assert "a list of questions is needed" in load("scemqa", folder)[1]["scemqa-Math"]
    write(folder, "Multiple_Choice/multiple_choice.json", '{"Math": [')
    with pytest.raises(ValueError, match=r"multiple_choice\.json is not JSON.*download it again"):
        load("scemqa", folder)
    (folder / "Multiple_Choice" / "multiple_choice.json").unlink()
    with pytest.raises(ValueError, match=r"none of Multiple_Choice/multiple_choice\.json, Free_Response/free_resp"):
        load("scemqa", folder)
    with pytest.raises(ValueError, match="split is 'test': for scemqa use one of train"):
        load("scemqa", folder, split="test")


def test_hub_name(folder: Path, monkeypatch) -> None:
    asked = []
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda name, **options: asked.append((name, options)) or str(folder)
    )
    assert len(load("scemqa", "Haozy/SceMQA-main")[0]) == 6
    assert asked[0][1]["allow_patterns"] == ["Multiple_Choice/**", "Free_Response/**"]
