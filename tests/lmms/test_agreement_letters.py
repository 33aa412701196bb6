"""MMMU, MMMU-Pro, MMStar and MMBench against lmms-eval's scorers: equal readings, and each difference by example.

MMMU. Its rule is `lmms_accuracy` here, beside MMMU's own; where no letter is found it draws one from the global
generator, we from the item's id. An open question with several answers is stored as the text of a list, which lmms-eval
compares as that text and we read.
MMMU-Pro. lmms-eval has MMMU's rule, without that of MMMU-Pro's repository for what follows the last "Answer:"; of the
vision part it compares the raw reply with the letter. MMStar. lmms-eval ranks ten ways of naming a letter; MMStar's own
script, ours, looks at one character. MMBench. Where its matching finds nothing, mmbench_en_dev asks an endpoint for the
letter, and the static task the same ten ways; ours is VLMEvalKit's matching without a judge, and else wrong.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from lmms_eval.tasks._task_utils.mcq_extract import extract_mcq_answer
from lmms_eval.tasks.mmbench.mmbench_evals import MMBench_Evaluator
from lmms_eval.tasks.mmmu import utils as mmmu
from lmms_eval.tasks.mmmu_pro import utils as mmmu_pro
from lmms_eval.tasks.mmstar.utils import mmstar_aggregate_results, mmstar_process_results

from look_again.evaluation.benchmark import BenchmarkItem, ModelReply, Scores
from look_again.evaluation.benchmarks.choices import lmms_letter, matched_letter
from look_again.evaluation.benchmarks.mmbench import score as mmbench_score
from look_again.evaluation.benchmarks.mmmu import score as mmmu_score
from look_again.evaluation.benchmarks.mmmu_pro import mmmu_pro_letter
from look_again.evaluation.benchmarks.mmstar import mmstar_letter
from look_again.evaluation.benchmarks.mmstar import score as mmstar_score
from look_again.evaluation.benchmarks.open_answers import mmmu_open

OPTIONS = ("red", "a blue ball", "Green", "none of them")
PIECES = (
    *("A", "B", "C", "D", "(A)", "(B)", "(D)", "A.", "C.", "B)", "a", "DNA", "I", "E"),
    *("red", "a blue ball", "green", "None of them", "ball", "is", "the answer", "because", "not", "final"),
    *("12", "3.5", "1,000", "-2", "1e3", "=", "so", "could be", ".", ",", "\n", ":", "!", "'", "x"),
)


def drawn(seed: int, count: int = 3000) -> list[str]:
    """Replies of up to eight pieces."""
    draw = random.Random(seed)
    return [" ".join(draw.choices(PIECES, k=draw.randint(0, 8))) for _ in range(count)]


def mmmu_theirs(text: str, options: Sequence[str]) -> str | None:
    """The letter as lmms-eval reads it; None where it draws one: two draws out of twenty differ."""
    index2ans, letters = mmmu.get_multi_choice_info(list(options))
    found = {mmmu.parse_multi_choice_response(text, letters, index2ans) for _ in range(20)}
    return found.pop() if len(found) == 1 else None


def test_mmmu_letters_are_equal() -> None:
    """A part of the rule that is missing, or ties between letters settled otherwise."""
    replies = drawn(1)
    ours = [lmms_letter(text, OPTIONS) for text in replies]
    assert [mmmu_theirs(text, OPTIONS) for text in replies] == ours
    assert 100 < ours.count(None) < 2000


def mmmu_open_theirs(text: str, answer: str) -> bool:
    return bool(mmmu.eval_open(answer, mmmu.parse_open_response(text)))


@pytest.mark.parametrize("answer", ["12", "3.50", "1000", "red", "x", "a blue ball", "-2.0"])
def test_mmmu_open_answers_are_equal(answer: str) -> None:
    replies = drawn(2, 1500)
    ours = [mmmu_open(text, [answer]) for text in replies]
    assert [mmmu_open_theirs(text, answer) for text in replies] == ours
    assert any(ours)
    assert not all(ours)


def mmmu_doc(at: int, answer: str, options: Sequence[str]) -> dict:
    kind = "multiple-choice" if options else "open"
    return {"id": f"validation_Art_{at}", "answer": answer, "options": str(list(options)), "question_type": kind}


def test_mmmu_accuracy_is_equal() -> None:
    """Of every reply that is no guess, choices and open questions together."""
    choices = [(text, "B", OPTIONS) for text in drawn(3, 300) if lmms_letter(text, OPTIONS)]
    rows = [*choices, *((text, "12", ()) for text in drawn(4, 300))]
    docs = [mmmu_doc(at, answer, options) for at, (_, answer, options) in enumerate(rows)]
    found = [mmmu.mmmu_process_results(doc, [text])["mmmu_acc"] for doc, (text, *_) in zip(docs, rows, strict=True)]
    items = [
        BenchmarkItem(
            id=doc["id"],
            prompt="?",
            reference=answer if options else [answer],
            facts={
                "options": list(options),
                "question_type": doc["question_type"],
                "subject": "Art",
                "discipline": "Art and Design",
            },
        )
        for doc, (_, answer, options) in zip(docs, rows, strict=True)
    ]
    ours = mmmu_score(items, [ModelReply(text) for text, *_ in rows])
    assert ours.metrics["lmms_accuracy"] == pytest.approx(mmmu.mmmu_aggregate_results(found), abs=1e-5)


def test_mmmus_listed_answers_are_read_by_us_alone() -> None:
    assert mmmu_open("It is 2.83", ["2.83", "$2\\sqrt{2}$"])
    assert not mmmu_open_theirs("It is 2.83", "['2.83', '$2\\\\sqrt{2}$']")


TEN = tuple(f"item {number}" for number in range(10))


def mmmu_pro_theirs(text: str, answer: str, *, vision: bool = False) -> bool:
    doc = {"id": "test_Art_1", "subject": "Art", "answer": answer, "options": str(list(TEN))}
    doc |= {} if vision else {"question": "?"}
    return mmmu_pro.mmmu_pro_aggregate_results([mmmu_pro.mmmu_pro_process_results(doc, [text])["mmmu_acc"]]) == 1


@pytest.mark.parametrize("text", ["J", "(C)", "B.", "It is (D), not (A)", "Answer: C", "the answer is item 7 as shown"])
def test_mmmu_pro_is_equal(text: str) -> None:
    right = [letter for letter in "ABCDEFGHIJ" if mmmu_pro_theirs(text, letter)]
    assert right == [mmmu_pro_letter(text, TEN)]


def test_how_mmmu_pro_differs() -> None:
    text = "I think A is wrong. Answer:B"
    assert mmmu_pro_letter(text, TEN) == "B"
    assert mmmu_pro_theirs(text, "A")
    assert mmmu_pro_letter("(B)", TEN) == "B"
    assert mmmu_pro_theirs("B", "B", vision=True)
    assert not mmmu_pro_theirs("(B)", "B", vision=True)


def mmstar_theirs(text: str) -> str | None:
    return extract_mcq_answer(text, choices=["A", "B", "C", "D"]) or None


SAME_IN_MMSTAR = [
    "A",
    "",
    "C.",
    "(B)",
    "D: grey",
    "A\nbecause",
    "The answer is B",
    "Option C",
    "A cat",
    "B, not C",
    "7",
]


@pytest.mark.parametrize("text", SAME_IN_MMSTAR)
def test_mmstar_reads_the_same(text: str) -> None:
    assert mmstar_letter(text, OPTIONS) == mmstar_theirs(text)


@pytest.mark.parametrize(
    ("text", "ours", "theirs"),
    [
        ("a", "A", None),  # MMStar's script lowers the reply, so that small letters count
        ("It is B", None, "B"),
        ("Answer: B", "A", "B"),  # the first character
        ("Definitely B", "D", "B"),
        ("**B**", None, "B"),
        ("As I see it, D", "A", "D"),
    ],
)
def test_how_mmstar_differs(text: str, ours: str | None, theirs: str | None) -> None:
    assert (mmstar_letter(text, OPTIONS), mmstar_theirs(text)) == (ours, theirs)


def test_mmstars_average_is_equal() -> None:
    """The mean over subcategories of different sizes, which is not the accuracy."""
    groups = ["geometry", "recognition", "recognition", "localization"]
    rows = [(groups[at % 4], "ABCD"[at % 3], text) for at, text in enumerate(SAME_IN_MMSTAR)]
    docs = [{"index": at, "answer": a, "category": "math", "l2_category": g} for at, (g, a, _) in enumerate(rows)]
    found = [mmstar_process_results(doc, [text])["average"] for doc, (*_, text) in zip(docs, rows, strict=True)]
    items = [
        BenchmarkItem(
            id=str(at),
            prompt="?",
            reference=answer,
            facts={"options": list(OPTIONS), "category": "math", "l2_category": group},
        )
        for at, (group, answer, _) in enumerate(rows)
    ]
    ours = mmstar_score(items, [ModelReply(text) for *_, text in rows])
    assert ours.metrics["l2_average"] == pytest.approx(mmstar_aggregate_results(found))
    assert ours.metrics["l2_average"] != ours.metrics["accuracy"]


COLOURS = {"A": "red", "B": "blue", "C": "green", "D": "grey"}


def mmbench_theirs(rows: Sequence[tuple[int, str, str]]) -> float:
    """The circular accuracy of (index, answer, reply) by the static task."""
    results = [
        {"index": at, "question": "?", "answer": answer, "prediction": text, "category": "c", "L2-category": "l"}
        | COLOURS
        for at, answer, text in rows
    ]
    return float(MMBench_Evaluator().eval_result(results, eval_method="static")[0])


def mmbench_ours(rows: Sequence[tuple[int, str, str]]) -> Scores:
    copies = max(at // 1_000_000 for at, *_ in rows) + 1
    items = [
        BenchmarkItem(
            id=str(at),
            prompt="?",
            reference=answer,
            facts={
                "options": list(COLOURS.values()),
                "question": str(at % 1_000_000),
                "copy": at // 1_000_000,
                "copies": copies,
                "table": "V11",
                "category": "c",
                "l2_category": "l",
            },
        )
        for at, answer, _ in rows
    ]
    return mmbench_score(items, [ModelReply(text) for *_, text in rows])


MMBENCH_REPLIES = ["A", "B.", "(C)", "D", "The answer is B", "blue", "It must be the green one.", "C) green"]


def test_mmbenchs_circular_accuracy_is_equal() -> None:
    """A question is right only if every copy is; half of them here, read in every way that both sides know."""
    letters = ["A", "B", "C", "D", "B", "B", "C", "C"]
    rows = [
        (question + copy * 1_000_000, letter if copy == 0 or question % 2 else "A", text)
        for question, (letter, text) in enumerate(zip(letters, MMBENCH_REPLIES, strict=True))
        for copy in (0, 1)
    ]
    ours = mmbench_ours(rows).metrics["circular_accuracy"]
    assert ours == pytest.approx(mmbench_theirs(rows))
    assert ours == 5 / 8


@pytest.mark.parametrize(
    ("text", "ours", "theirs"),
    [
        ("B because it is the colour that I see here", None, "B"),  # ours: a letter far from the end may be a word
        ("B, because it is not C", None, "C"),  # two letters; there the last one
        ("I see blue and green.", None, None),
        ("Mostly grey, and some of it is b lue, I would say; that is all I can tell", None, "D"),  # ours: too long
    ],
)
def test_how_mmbench_differs(text: str, ours: str | None, theirs: str | None) -> None:
    assert matched_letter(text, list(COLOURS.values())) == ours
    assert [letter for letter in "ABCD" if mmbench_theirs([(1, letter, text)]) == 1] == ([theirs] if theirs else [])
