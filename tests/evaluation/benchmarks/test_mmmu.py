"""MMMU: rows in the published layout, good and bad, the rule for open questions, and scores worked by hand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import datasets
import pytest

from look_again.data.image_files import image_size
from look_again.evaluation.benchmark import BenchmarkItem
from look_again.evaluation.benchmarks.mmmu import DISCIPLINES, MMMU, SUBJECTS, load, score
from look_again.evaluation.benchmarks.open_answers import mmmu_open, read_answer, same_answer
from tests.evaluation.benchmarks.question_tables import cell, loaded, png, scored, write_table

IMAGES = {f"image_{number}": None for number in range(2, 8)}


def row(name: str = "validation_Accounting_1", **fields: Any) -> dict[str, Any]:
    """A row with all columns of the published tables."""
    return {
        "id": name,
        "question": "What does <image 1> show?",
        "options": "['a ledger', \"the bank's bill\", '$6', 'None']",
        "explanation": "",
        "image_1": cell(),
        **IMAGES,
        "img_type": "['Tables']",
        "answer": "B",
        "topic_difficulty": "Easy",
        "question_type": "multiple-choice",
        "subfield": "Financial Accounting",
    } | fields


def one(folder: Path, **fields: Any) -> tuple[list[BenchmarkItem], dict[str, str]]:
    write_table(folder / "validation.parquet", row(**fields))
    return loaded(load, folder, "validation")


def test_subjects_are_those_of_the_data_set() -> None:
    """A subject missing from the table: its 30 questions are never asked."""
    assert len(SUBJECTS) == len(set(SUBJECTS)) == 30
    assert [len(subjects) for subjects in DISCIPLINES.values()] == [4, 5, 5, 5, 4, 7]


def test_multiple_choice_row(tmp_path: Path) -> None:
    """Options read as one text, or the mark left where a model's own image token could be."""
    (item,), bad = one(tmp_path)
    assert not bad
    assert item.id == "validation_Accounting_1"
    assert item.prompt == (
        "What does [image 1] show?\nA. a ledger\nB. the bank's bill\nC. $6\nD. None\n"
        "Which option is right? Give its letter as the final answer."
    )
    assert item.reference == "B"
    assert item.facts == {
        "options": ["a ledger", "the bank's bill", "$6", "None"],
        "question_type": "multiple-choice",
        "subject": "Accounting",
        "discipline": "Business",
    }


def test_open_row(tmp_path: Path) -> None:
    """An open question asked for a letter, or only the first of the accepted answers kept."""
    (item,), _ = one(tmp_path, options="[]", question_type="open", answer="['2.83', '$2\\\\sqrt{2}$']")
    assert item.prompt.endswith("show?\nGive a single number, word or short phrase as the final answer.")
    assert item.reference == ["2.83", r"$2\sqrt{2}$"]
    (item,), _ = one(tmp_path, options="[]", question_type="open", answer="[0, 1)")
    assert item.reference == ["[0, 1)"]


def test_images_are_those_that_are_marked(tmp_path: Path) -> None:
    """The image of the explanation shown with the question, or marks that count other images than are shown."""
    pictures = {f"image_{number}": cell(png(10 * number, 10)) for number in (1, 2, 3, 4)}
    (item,), _ = one(
        tmp_path,
        question="Compare <image 4> with these; <image 4> is older.",
        options="['<image 1>', '<image 3>']",
        explanation="See <image 2>",
        **pictures,
    )
    assert [image_size(image)[0] for image in item.images] == [10, 30, 40]
    assert item.prompt.startswith("Compare [image 3] with these; [image 3] is older.\nA. [image 1]\nB. [image 2]\n")
    (item,), _ = one(tmp_path, question="No mark.", image_1=cell(png(10, 10)), image_3=cell(png(30, 10)))
    assert [image_size(image)[0] for image in item.images] == [10, 30]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"image_1": None}, "marks <image 1>, and image_1 is missing"),
        ({"image_1": cell(b"no picture")}, "image 1: picture of 10 bytes is not an image"),
        ({"question": "No mark.", "image_1": None}, "no picture"),
        ({"question": " "}, "the question is empty"),
        ({"question": None}, "question is None: a text is needed"),
        ({"options": "['a', 'b'"}, "not the text of a list"),
        ({"options": "open('x')"}, "not the text of a list"),
        ({"options": "{'a': 1}"}, "a list of texts is needed"),
        ({"options": "{[]: 1}"}, "not the text of a list"),
        ({"options": "[" * 5000}, "not the text of a list"),
        ({"options": "['" + "a" * 30_000 + "']"}, "a list of texts is needed"),
        ({"options": "[['a'], 'b']"}, r"options\[0\] is \['a'\]: a text is needed"),
        ({"options": "[]"}, "0 options: 2 to 10"),
        ({"answer": "E"}, "answer is 'E': one of the letters A to D"),
        ({"answer": "?", "question_type": "open"}, "answer is '\\?': withheld"),
        ({"answer": "**", "question_type": "open"}, "answer: reference '\\*\\*' is blank"),
        ({"id": ""}, "id is '': a text or a whole number"),
    ],
)
def test_bad_rows_are_listed(tmp_path: Path, fields: dict[str, Any], reason: str) -> None:
    """A row that is dropped in silence, or that ends the loading of all others."""
    good = row("validation_Accounting_2")
    write_table(tmp_path / "validation.parquet", row(**fields) | fields, good)
    items, bad = loaded(load, tmp_path, "validation")
    assert [item.id for item in items] == ["validation_Accounting_2"]
    ((name, said),) = bad.items()
    assert name == (row()["id"] if "id" not in fields else "row 0")
    assert re.search(reason, said), said


def test_repeated_id_is_listed(tmp_path: Path) -> None:
    """Two rows of one id: one would be scored with the other's reply."""
    write_table(tmp_path / "validation.parquet", row(), row())
    items, bad = loaded(load, tmp_path, "validation")
    assert len(items) == 1
    assert "occurs twice" in bad["validation_Accounting_1"]


# Layouts


def test_folder_of_subjects(tmp_path: Path) -> None:
    """The published layout: one folder per subject, several files of a split, other splits beside them."""
    write_table(tmp_path / "Music" / "validation-00000-of-00001.parquet", row("validation_Music_1"))
    write_table(tmp_path / "Art_Theory" / "validation-00000-of-00002.parquet", row("validation_Art_Theory_1"))
    write_table(tmp_path / "Art_Theory" / "validation-00001-of-00002.parquet", row("validation_Art_Theory_2"))
    write_table(tmp_path / "Art_Theory" / "dev-00000-of-00001.parquet", row("dev_Art_Theory_1"))
    items, bad = loaded(load, tmp_path, "validation")
    assert not bad
    assert [item.id for item in items] == ["validation_Art_Theory_1", "validation_Art_Theory_2", "validation_Music_1"]
    assert [item.facts["subject"] for item in items] == ["Art_Theory", "Art_Theory", "Music"]
    assert [item.id for item in loaded(load, tmp_path, "dev")[0]] == ["dev_Art_Theory_1"]
    assert [item.id for item in loaded(load, tmp_path, "validation", limit=2)[0]] == [item.id for item in items[:2]]


@pytest.mark.parametrize("name", ["validation-00000-of-00001.parquet", "data/validation-00000-of-00001.parquet"])
def test_one_table_of_all_subjects(tmp_path: Path, name: str) -> None:
    """The layout of lmms-lab's copy, and a single file of it."""
    table = write_table(tmp_path / name, row())
    assert len(loaded(load, tmp_path, "validation")[0]) == 1
    assert len(loaded(load, table, "validation")[0]) == 1


def test_hub_name_reads_every_subject(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub asked for a configuration that it does not have, or for one subject only."""
    asked = []

    def load_dataset(path: str, name: str, *, split: str) -> datasets.Dataset:
        asked.append((path, name, split))
        return datasets.Dataset.from_list([row(f"validation_{name}_1")])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    items, _ = loaded(load, "MMMU/MMMU", "validation")
    assert asked == [("MMMU/MMMU", subject, "validation") for subject in SUBJECTS]
    assert {item.facts["subject"] for item in items} == set(SUBJECTS)
    asked.clear()
    loaded(load, "MMMU/MMMU", "validation", limit=1)
    assert len(asked) == 1


def test_saved_data_set(tmp_path: Path) -> None:
    datasets.DatasetDict(validation=datasets.Dataset.from_list([row()])).save_to_disk(str(tmp_path / "saved"))
    assert len(loaded(load, tmp_path / "saved", "validation")[0]) == 1


def test_unknown_layouts_say_what_was_looked_for(tmp_path: Path) -> None:
    """An empty benchmark scored as one, or an error that does not help."""
    with pytest.raises(
        ValueError, match=r"looked for validation\*\.parquet, data/validation.*folders Accounting to Soc"
    ):
        loaded(load, tmp_path, "validation")
    write_table(tmp_path / "validation.parquet", {"id": "1", "text": "Q?"})
    with pytest.raises(ValueError, match=r"looked for the columns id, question, .*; no question, .*\(id, text\)"):
        loaded(load, tmp_path, "validation")
    with pytest.raises(ValueError, match="no file or folder here, and no hub name"):
        loaded(load, tmp_path / "gone", "validation")
    with pytest.raises(ValueError, match=r"split is 'test': MMMU has validation, dev .*withheld"):
        loaded(load, tmp_path, "test")


# Scores


@pytest.mark.parametrize(
    ("reply", "answers", "right"),
    [
        ("8.4", ["8.4"], True),
        ("The answer is 8.40", ["8.4"], True),
        ("8.403", ["8.4"], True),  # equal to two decimals
        ("8.41", ["8.4"], False),
        ("The current is 8.4 A.", ["8.4"], True),
        ("So the total is 1,234 dollars", ["1234"], True),
        ("1.5e3", ["1500"], True),
        ("It is 3, then 5, then 8.4", ["8.4"], True),  # any number behind a cue
        ("First 8.4.\nThus 9", ["8.4"], False),  # a line without a cue does not count once another has one
        ("First 8.4.\nNow 9", ["8.4"], True),  # no cue at all: the whole reply
        ("x = 8.4", ["8.4"], True),
        ("x = 8.4\nDone", ["8.4"], True),
        ("y = 7, x = 8.4", ["7"], False),  # the piece behind the last "="
        ("-8.4", ["8.4"], False),
        ("Hepatitis", ["hepatitis"], True),
        ("Hepatitis B", ["hepatitis"], False),  # "is " within a word is a cue too, and leaves "b"
        ("The diagnosis is acute hepatitis, I think", ["Hepatitis"], True),  # contained
        ("It is not hepatitis", ["hepatitis"], True),  # and no denial understood
        ("unknown", ["no"], True),  # contained in a word
        ("The answer is b", ["b"], True),
        ("The answer is abc", ["b"], False),  # a lone letter needs a blank beside it
        ("maybe b or c", ["b"], True),
        ("c", ["b", "c"], True),  # " c" of the reply is itself " c"
        ("24/7", ["24/7", "3.429"], True),
        ("3.43", ["24/7", "3.429"], True),
        ("", ["8.4"], False),
    ],
)
def test_open_rule(reply: str, answers: list[str], right: bool) -> None:
    """MMMU's rule made kinder or harsher than it is."""
    assert mmmu_open(reply, answers) is right


@pytest.mark.parametrize(
    ("reply", "reference", "found", "same"),
    [
        ("The current is 8.403 A.", "8.4", "8403/1000", True),
        ("It is 3 or 8.4", "8.4", None, False),
        ("First 3. In the end 8.4", "8.4", "42/5", True),
        ("not 8.4", "8.4", None, False),
        (r"2 + 2 = \boxed{4}, or 5", "4", "4", True),
        ("1/3", "0.33", "1/3", True),
        ("no idea", "8.4", None, False),
        ("The answer is Hepatitis.", "hepatitis", "hepatitis", True),
        ("acute hepatitis", "hepatitis", "acute hepatitis", False),
        ("1e999", "8.4", None, False),
        ("", "hepatitis", None, False),
    ],
)
def test_strict_open_reading(reply: str, reference: str, found: str | None, same: bool) -> None:
    """A list of numbers that holds the right one counted, or a rounding that MMMU allows refused."""
    read = read_answer(reply, reference)
    assert read == found or (found is None and read is not None and len(read) > 900)
    assert (read is not None and same_answer(read, reference)) is same


def test_scores_by_hand(tmp_path: Path) -> None:
    """Guesses scored as answers in the strict score, counted as parsed, or different in the next run."""
    rows = [row(f"validation_Art_{number}") for number in (1, 2)]
    rows += [row("validation_Math_3"), row("validation_Math_4", options="[]", question_type="open", answer="2.83")]
    write_table(tmp_path / "validation.parquet", *rows)
    items, _ = loaded(load, tmp_path, "validation")
    replies = ("(B)", "I cannot tell", "The answer is B because A is wrong", "either 2.83 or 3")
    scores = scored(score, items, *replies)
    assert [one.strict for one in scores.items] == [1.0, 0.0, 1.0, 0.0]
    assert [one.unparsed for one in scores.items] == [False, True, False, True]
    assert [one.extracted for one in scores.items] == ["B", None, "B", None]
    assert [scores.items[at].official for at in (0, 2, 3)] == [1.0, 0.0, 1.0]  # MMMU takes the last letter, A
    guessed = scores.items[1]
    assert guessed.facts["guessed"] is True
    assert guessed.official == float(guessed.facts["official_answer"] == "B")
    assert scored(score, items, *replies) == scores
    right = 2.0 + (guessed.official or 0.0)
    assert scores.metrics == {
        "accuracy": right / 4,
        "lmms_accuracy": right / 4,
        "strict_accuracy": 0.5,
        "items": 4,
        "unparsed": 2,
        "guessed": 1,
    }
    assert scores.subsets["subject/Math"]["accuracy"] == 0.5
    assert scores.subsets["discipline/Art and Design"]["strict_accuracy"] == 0.5
    assert scores.subsets["question_type/open"]["unparsed"] == 1
    assert scores.notes["subjects"] == "2 of 30"


def test_benchmark_constant() -> None:
    assert (MMMU.name, MMMU.splits[0], MMMU.primary, MMMU.paired) == ("mmmu", "validation", "accuracy", "official")
    assert MMMU.score([], [], None).metrics["accuracy"] is None
