"""MathVision: tables, the authors' repository, what MATH-V takes for the answer, numbers and LaTeX, scores by hand."""

from __future__ import annotations

import importlib.util
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from look_again.data.image_files import image_size
from look_again.evaluation.benchmarks.mathvision import MATHVISION, load, score
from look_again.evaluation.benchmarks.mathvision_answers import (
    cleaned,
    needs_mathematics,
    official_answer,
    official_match,
    settled,
    strict_answer,
    strict_match,
)
from look_again.extras import MissingExtraError
from tests.evaluation.benchmarks.question_tables import cell, loaded, png, scored, write_table

needs_math_verify = pytest.mark.skipif(
    importlib.util.find_spec("math_verify") is None, reason="math-verify is not installed"
)


def row(name: str = "4", **fields: Any) -> dict[str, Any]:
    return {
        "id": name,
        "question": "How many digits can you find?\n<image1>",
        "options": [],
        "answer": "6",
        "solution": None,
        "level": 1,
        "subject": "counting",
        "image": f"images/{name}.jpg",
    } | fields


def choice(name: str = "27", **fields: Any) -> dict[str, Any]:
    return row(name, options=["$\\Delta, \\square$", "12 m", "A", "<image2>", "none"], answer="B") | fields


def repository(folder: Path, write_lines: Callable[..., Path], *rows: Any, split: str = "testmini") -> Path:
    """The authors' repository: lines in data/, images in images/."""
    write_lines(folder / "data" / f"{split}.jsonl", *rows)
    (folder / "images").mkdir(exist_ok=True)
    for one in rows:
        if isinstance(one, dict):
            (folder / one["image"]).write_bytes(png(int(one["id"]) + 1))
    return folder


# Loading


@pytest.mark.parametrize("name", ["data/testmini-00000-of-00001-f8ff70fcb2f29b1d.parquet", "testmini.parquet"])
def test_tables(tmp_path: Path, name: str) -> None:
    """`test` read where `testmini` was asked for, or the path taken instead of the image beside it."""
    table = write_table(tmp_path / name, row(decoded_image=cell(png(20))), choice(decoded_image=cell()))
    write_table(tmp_path / Path(name).parent / "test.parquet", row("99", decoded_image=cell()))
    items, bad = loaded(load, tmp_path, "testmini")
    assert not bad
    assert [item.id for item in items] == ["4", "27"]
    assert items[0].prompt == (
        "How many digits can you find?\nGive the final answer as a number or an expression, without its unit."
    )
    assert image_size(items[0].images[0]) == (20, 6)
    assert items[0].reference == "6"
    assert items[0].facts == {"options": [], "subject": "counting", "level": "1"}
    assert items[1].prompt == (
        "How many digits can you find?\nA. $\\Delta, \\square$\nB. 12 m\nC. A\nD. (image 2)\nE. none\n"
        "Which option is right? Give its letter as the final answer."
    )
    assert items[1].reference == "B"
    assert [item.id for item in loaded(load, tmp_path, "test")[0]] == ["99"]
    assert len(loaded(load, table, "testmini", limit=1)[0]) == 1


def test_repository(tmp_path: Path, write_lines: Callable[..., Path]) -> None:
    """Images lie beside the folder of the lines, not in it."""
    folder = repository(tmp_path, write_lines, row(), choice())
    for path in (folder, folder / "data" / "testmini.jsonl"):
        items, bad = loaded(load, path, "testmini")
        assert not bad
        assert [image_size(item.images[0])[0] for item in items] == [5, 28]
    (folder / "images").rename(tmp_path / "elsewhere")
    items, bad = loaded(load, folder, "testmini")
    assert not items
    assert "no such file" in bad["4"]
    assert len(loaded(load, folder, "testmini", images=tmp_path / "elsewhere")[0]) == 2


def test_images_in_the_published_archive(tmp_path: Path, write_lines: Callable[..., Path]) -> None:
    write_lines(tmp_path / "test.jsonl", row(), row("5"))
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        archive.writestr("images/4.jpg", png(30))
    items, bad = loaded(load, tmp_path, "test")
    assert [image_size(item.images[0])[0] for item in items] == [30]
    assert "the archive holds no such picture" in bad["5"]


def test_hub_name(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(path: str, name: str | None, *, split: str) -> datasets.Dataset:
        asked.append((path, name, split))
        return datasets.Dataset.from_list([row(decoded_image=cell())])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert len(loaded(load, MATHVISION.hub, "testmini")[0]) == 1
    assert asked == [("MathLLMs/MathVision", None, "testmini")]


def test_unknown_layouts(tmp_path: Path, write_lines: Callable[..., Path]) -> None:
    with pytest.raises(ValueError, match=r"looked for test\*\.parquet.*; and test\.jsonl, data/test\.jsonl"):
        loaded(load, tmp_path, "test")
    with pytest.raises(ValueError, match="split is 'train': MathVision has test, testmini"):
        loaded(load, tmp_path, "train")
    write_lines(tmp_path / "test.jsonl", {"id": 1, "question": "Q?"})
    with pytest.raises(ValueError, match="no options, answer, image"):
        loaded(load, tmp_path, "test")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"answer": None}, "answer is None"),
        ({"answer": "?!"}, None),  # odd, and still an answer
        ({"answer": "**"}, "is blank"),
        ({"options": ["1", "2"], "answer": "C"}, "one of the letters A to B"),
        ({"options": ["1", "2"], "answer": "2"}, "one of the letters A to B"),
        ({"options": "red"}, "a list of texts is needed"),
        ({"question": ""}, "the question is empty"),
        ({"image": "../../private.png"}, "which is outside"),
        ({"image": "https://example.org/4.jpg"}, "nothing is fetched"),
        ({"image": None}, "image is None"),
    ],
)
def test_bad_rows_are_listed(
    tmp_path: Path, write_lines: Callable[..., Path], fields: dict[str, Any], reason: str | None
) -> None:
    """A row that ends the benchmark or leaves it unseen, or an image from anywhere on the machine."""
    repository(tmp_path, write_lines, row(), row("5"))
    write_lines(tmp_path / "data" / "testmini.jsonl", "broken", row(**fields), row("5"))
    items, bad = loaded(load, tmp_path, "testmini")
    assert [item.id for item in items][-1] == "5"
    assert "not JSON" in bad.pop("testmini.jsonl line 1")
    assert (len(items), len(bad)) == ((2, 0) if reason is None else (1, 1))
    assert reason is None or re.search(reason, bad["4"])


@pytest.mark.parametrize(
    ("question", "readable"),
    [
        ("How long is the room? <image1>", "How long is the room?"),
        ("A bracelet.\n<image1>\nWhich band?\n<image2>", "A bracelet.\nWhich band?"),
        ("When the ant <image1> meets <image2> it stops at <image3>.", None),
        ("Which side is opposite to <image3>?\n<image4> <image5>", "Which side is opposite to (image 3)?"),
    ],
)
def test_marks_of_image_parts(tmp_path: Path, question: str, readable: str | None) -> None:
    """A sentence that lost its object with the mark, or a mark that a model could take for an image token."""
    write_table(tmp_path / "test.parquet", row(question=question, decoded_image=cell()))
    (item,), _ = loaded(load, tmp_path, "test")
    asked = readable or "When the ant (image 1) meets (image 2) it stops at (image 3)."
    assert item.prompt.startswith(f"{asked}\nGive the final answer")


# Answers


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        (r"So \boxed{1} or rather \boxed{\frac{1}{2}} m.", r"\frac{1}{2}"),
        ("I take (C).", "C"),
        ("I take B.", "B"),
        ("(D)\nbecause it fits", "D"),
        ("E\nA is wrong", "E"),
        ("The area is 12.", "12"),
        ("The answer is 2x. It is even.", "2x"),
        ("First 3.\nThe correct answer is 5 cm\nDone", "5 cm"),
        ("the answer is 1; the final answer is x+1", "x+1"),
        ("x+1", "x+1"),
        ("", ""),
    ],
)
def test_official_answer(reply: str, answer: str) -> None:
    """The official rule out of order: a letter in the reasoning before the box, a number before the last one."""
    assert official_answer(reply) == answer


@pytest.mark.parametrize(
    ("answer", "clean"),
    [
        (r"x = 45^\circ.", "45"),
        (r"\text{(B)}", "b"),
        (r"$12\,\text{km}$", "12"),
        (r"\dfrac{1}{2}", r"\frac{1}{2}"),
        (r"\pi \approx 3.14", "3.14"),
        ("50\\%", "50"),
        (": 7 units.", "7"),
    ],
)
def test_cleaned(answer: str, clean: str) -> None:
    assert cleaned(answer) == clean


OFFICIAL = [  # reply, targets, right
    ("6", ["6"], True),
    ("6.0", ["6"], True),
    ("6.004", ["6"], True),  # two decimals
    ("6.01", ["6"], False),
    ("The answer is 6.", ["6"], True),
    ("1/3", ["0.33"], True),
    (r"\boxed{\frac{3}{6}}", ["0.5"], True),
    ("b", ["B", "12 m"], True),
    ("(B) is my choice, so (B).", ["B", "12 m"], True),
    ("12", ["B", "12 m"], True),  # the option's value
    ("A", ["B", "12 m"], False),
    ("Yellow", ["D", "yellow"], True),
    ("wolley", ["D", "yellow"], False),  # no product of letters
    (r"\boxed{\sqrt{12}}", [r"2\sqrt{3}"], True),
    (r"The answer is $2\sqrt3$", [r"2\sqrt{3}"], True),
    (r"\boxed{3\sqrt{2}}", [r"2\sqrt{3}"], False),
    (r"\boxed{\sqrt{36}}", ["6"], True),
    ("(3,4)", ["(3, 4)"], True),
    ("(4,3)", ["(3, 4)"], False),
    ("x^2+2x+1", ["(x+1)^2"], True),
    ("12", ["B", r"$12 \mathrm{~m}$"], True),
    ("no idea", ["6"], False),
    ("", ["6"], False),
]


@needs_math_verify
def test_official_matches() -> None:
    """An equal number or expression refused, or a different one accepted."""
    got = settled([official_match(official_answer(reply), targets) for reply, targets, _ in OFFICIAL])
    assert got == [right for _, _, right in OFFICIAL]


STRICT = [  # reply, reference, options, what is read, right
    ("6", "6", [], "6", True),
    ("There are 6 of them.", "6", [], "6", True),
    ("6.004", "6", [], "1501/250", True),
    ("5 or 6", "6", [], None, False),
    ("not 6", "6", [], None, False),
    (r"3 + 3 = 6, so \boxed{6}", "6", [], "6", True),
    (r"\boxed{5} and then 6", "6", [], "5", False),
    ("A long story. " * 40 + r"The answer is $2\sqrt{3}$.", r"2\sqrt{3}", [], r"2\sqrt{3}", True),
    (r"\sqrt{12}", r"2\sqrt{3}", [], r"\sqrt{12}", True),
    (r"\sqrt{13}", r"2\sqrt{3}", [], r"\sqrt{13}", False),
    (r"\sqrt{36}", "6", [], r"\sqrt{36}", True),
    ("3.46", r"2\sqrt{3}", [], "3.46", False),
    ("no idea", r"2\sqrt{3}", [], None, False),
    ("The picture is unclear", "6", [], None, False),
    ("The point is (3,4)", "(3, 4)", [], "(3,4)", True),
    ("C", "C", [], "C", True),  # a letter without options
    ("A red ball", "C", [], None, False),
    ("Saturday", "saturday", [], "saturday", True),
    ("(b)", "B", ["1", "2"], "B", True),
    ("It is 2.", "B", ["1", "2"], "B", True),
    ("A or B", "B", ["1", "2"], None, False),
    (r"\boxed{\text{B}}", "B", ["1", "2"], "B", True),
    ("", "6", [], None, False),
]


@needs_math_verify
def test_strict_readings() -> None:
    """A hedge that holds the right answer counted, or an everyday way to write it unread."""
    read = [strict_answer(reply, reference, options) for reply, reference, options, _, _ in STRICT]
    assert read == [found for _, _, _, found, _ in STRICT]
    got = settled([strict_match(found, one[1]) for found, one in zip(read, STRICT, strict=True)])
    assert got == [right for *_, right in STRICT]


@pytest.mark.parametrize(
    ("text", "needs"),
    [
        (r"2\sqrt{3}", True),
        (r"$6 \mathrm{~m}$", False),  # a number and its unit
        (r"$\sqrt{6} \mathrm{~m}$", True),
        ("x+1", True),
        ("6 m^2", False),
        ("B", False),
        ("red", False),
        ("", False),
    ],
)
def test_needs_mathematics(text: str, needs: bool) -> None:
    assert needs_mathematics(text) is needs


# Scores


@needs_math_verify
def test_scores_by_hand(tmp_path: Path) -> None:
    """Results of the strict score under the official one, or comparisons of one item counted for the next."""
    rows = [row("1"), row("2", answer=r"2\sqrt{3}", level=5), choice("3"), row("4", level=5), row("5", subject="logic")]
    write_table(tmp_path / "test.parquet", *(one | {"decoded_image": cell()} for one in rows))
    items, _ = loaded(load, tmp_path, "test")
    replies = ("6", r"so \boxed{\sqrt{12}}", "12", "6 or 5", "The answer is 7")
    scores = scored(score, items, *replies)
    assert [one.official for one in scores.items] == [1.0, 1.0, 0.0, 0.0, 0.0]  # MATH-V takes no unit off the option
    assert [one.facts["verified"] for one in scores.items] == [1.0, 1.0, 1.0, 0.0, 0.0]
    assert [one.strict for one in scores.items] == [1.0, 1.0, 0.0, 0.0, 0.0]
    assert [one.extracted for one in scores.items] == ["6", r"\sqrt{12}", None, None, "7"]
    assert scores.metrics == {
        "accuracy": 0.4,
        "verified_accuracy": 0.6,
        "strict_accuracy": 0.4,
        "items": 5,
        "unparsed": 2,
    }
    assert scores.subsets["level/5"]["accuracy"] == 0.5
    assert scores.subsets["subject/logic"] == {"accuracy": 0.0, "strict_accuracy": 0.0, "items": 1, "unparsed": 0}


def test_missing_math_verify_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A benchmark scored without comparing expressions, a few points too low."""
    write_table(tmp_path / "test.parquet", row(decoded_image=cell()))
    items, _ = loaded(load, tmp_path, "test")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"math_verify: pip install 'look-again-vlm\[eval\]'"):
        scored(score, items, "6")
