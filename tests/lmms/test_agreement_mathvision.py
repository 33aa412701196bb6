r"""MathVision against lmms-eval's scorer, in a process of its own with the latex2sympy2 that it needs.

Both official scores are MATH-V's evaluate.py, and equal but for roots, of which lmms-eval's copy takes no value. What
cannot be turned into a number there (variables, words) is right only if it is written as the reference is; our
`verified` comparison lets math-verify decide, and a number may have any unit, or be a word. "1:2" and `\text{6}`, which
are 0.5 and 6 to the rule, it does not read.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from look_again.evaluation.benchmark import BenchmarkItem, ModelReply
from look_again.evaluation.benchmarks.mathvision import score

PROGRAM = """
import json, sys
from lmms_eval.tasks.mathvision.utils import mathvision_aggregate_results_eval as mean
from lmms_eval.tasks.mathvision.utils import mathvision_process_results as process
rows = json.load(sys.stdin)
found = [process({"answer": answer, "options": options}, [text])["mathvision_standard_eval"]
         for text, answer, options in rows]
json.dump([[one["scores"][0] for one in found], mean(found)], open(sys.argv[1], "w"))
"""
TWO = ("1", "2")

EQUAL: list[tuple[str, str, tuple[str, ...]]] = [
    ("The answer is 6.", "6", ()),
    (r"\boxed{6}", "6", ()),
    (r"the answer is \boxed{6}", "6", ()),
    (r"\boxed{5} no, \boxed{6}", "6", ()),
    ("6.00", "6", ()),
    ("6.004", "6", ()),  # two decimals
    ("6.01", "6", ()),
    ("x = 6", "6", ()),
    ("$6$", "6", ()),
    ("6 km", "6", ()),
    ("1,000", "1000", ()),
    (r"50\%", "50", ()),
    (r"30^\circ", "30", ()),
    (r"\boxed{\frac{1}{2}}", "0.5", ()),
    ("1/2", "0.5", ()),
    ("0.5", "1/2", ()),
    (r"\boxed{\frac{1}{2}} so", r"\frac{1}{2}", ()),
    (r"2\sqrt{3}", r"2\sqrt{3}", ()),
    ("(1, 2)", "(1,2)", ()),
    ("Red", "red", ()),
    ("I think 6 or 7", "6", ()),
    ("", "6", ()),
    ("B", "B", TWO),
    ("(B)", "B", TWO),
    ("It is B.", "B", TWO),
    ("The answer is B", "B", TWO),
    (r"\boxed{B}", "B", TWO),
    ("2", "B", TWO),  # the option's text
    ("A", "B", TWO),
    ("1", "B", TWO),
]
DIFFERENT: list[tuple[str, str, bool, bool]] = [  # reply, reference, here, there
    (r"2\sqrt{3}", r"\sqrt{12}", True, False),
    ("x+1", "1+x", True, False),
    (r"\sqrt{4}", "2", True, False),
    ("6 cm", "6", True, False),
    ("6%", "6", True, False),
    ("seven", "7", True, False),
    ("1e3", "1000", True, False),
    ("1:2", "0.5", False, True),
    (r"\text{6}", "6", False, True),
]


@pytest.fixture(scope="module")
def theirs(latex2sympy2: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[bool], float]:
    """The scores of all rows, equal ones first, and the mean of the equal ones."""
    found = []
    for name, rows in (("equal", EQUAL), ("different", [(text, answer, ()) for text, answer, *_ in DIFFERENT])):
        out = tmp_path_factory.mktemp("mathvision") / f"{name}.json"
        path = os.pathsep.join([str(latex2sympy2), os.environ.get("PYTHONPATH", "")])
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(out)],
            input=json.dumps(rows),
            env=os.environ | {"PYTHONPATH": path},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        found.append(json.loads(out.read_text()))
    return found[0][0] + found[1][0], found[0][1]


def ours(rows: list[tuple[str, str, tuple[str, ...]]]) -> tuple[list[bool], float, list[bool]]:
    facts = {"subject": "algebra", "level": "1"}
    items = [
        BenchmarkItem(id=str(at), prompt="?", reference=answer, facts=facts | {"options": list(options)})
        for at, (_, answer, options) in enumerate(rows)
    ]
    found = score(items, [ModelReply(text) for text, *_ in rows])
    accuracy = found.metrics["accuracy"]
    assert accuracy is not None
    return [one.official == 1 for one in found.items], accuracy, [one.facts["verified"] == 1 for one in found.items]


def test_answers_and_accuracy_are_equal(theirs: tuple[list[bool], float]) -> None:
    right, accuracy, _ = ours(EQUAL)
    assert dict(zip(EQUAL, right, strict=True)) == dict(zip(EQUAL, theirs[0][: len(EQUAL)], strict=True))
    assert 100 * accuracy == pytest.approx(theirs[1], abs=0.005)
    assert {True, False} == set(right)


def test_how_expressions_differ(theirs: tuple[list[bool], float]) -> None:
    official, _, verified = ours([(text, answer, ()) for text, answer, *_ in DIFFERENT])
    assert verified == [here for *_, here, _ in DIFFERENT]
    roots = ["sqrt" in text for text, *_ in DIFFERENT]  # MATH-V evaluates them, lmms-eval's copy of its code does not
    assert official == [there or root for (*_, there), root in zip(DIFFERENT, roots, strict=True)]
    assert theirs[0][len(EQUAL) :] == [there for *_, there in DIFFERENT]
