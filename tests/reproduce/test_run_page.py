"""What the report's page says of answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from look_again.reproduce.answer_pictures import load_pictures
from look_again.reproduce.made import RECORD, Prepared
from look_again.reproduce.plan import SeededStage
from look_again.reproduce.run_page import build_page

REPORT = {"plan": "p", "about": "a", "quick": False, "versions": {}, "stages": [], "tables": [], "figures": []}


def answer(looks: int, reinserted: int) -> dict[str, Any]:
    tokens = {"visual": 36, "reinserted": reinserted}
    text = "<CAPTION> 2 < 3 </CAPTION><REFLECTION> <script> </REFLECTION>"
    return {"id": "one", "prompt": "How many?", "reference": "3", "text": text, "strict": 1.0} | {
        "looks": looks,
        "tokens": tokens,
    }


def test_an_answer_stands_beside_its_picture_and_says_what_its_looks_saw() -> None:
    said = {
        (1, 36): "it looked again once and saw 36 of the picture's 36 visual tokens",
        (2, 36): "it looked again 2 times and saw 18 of the picture's 36 visual tokens each time",
        (0, 0): "it never looked again",
    }
    for (looks, reinserted), words in said.items():
        page = build_page(REPORT | {"answers": [answer(looks, reinserted)]}, {"one": ["data:image/jpeg;base64,AAAA"]})
        assert words in page
        assert 'src="data:image/jpeg;base64,AAAA"' in page
        assert "<b>&lt;REFLECTION&gt;</b>" in page
        assert "<script>" not in page


def test_an_answer_whose_picture_is_gone_is_shown_all_the_same() -> None:
    page = build_page(REPORT | {"answers": [answer(1, 36)]})
    assert "How many?" in page
    assert "<img" not in page


@pytest.mark.parametrize(
    ("benchmark", "split", "shown"), [("tabletop", "test", 1), ("tabletop", "gone", 0), ("own", "test", 0)]
)
def test_a_picture_is_drawn_again_from_where_the_benchmark_has_it(
    tmp_path: Path, benchmark: str, split: str, shown: int
) -> None:
    stage = SeededStage(
        name="answers", step=6, about="x", run=("python x",), makes="result.json", planned="answers", seed=None
    )
    made = Prepared(stage, "k", tmp_path, None, ())
    made.out.mkdir()
    place = {"path": "seed=5,length=brief", "split": split, "images": None, "limit": 2}
    (made.out / "result.json").write_text(json.dumps({"benchmark": benchmark, "config": {"place": place}, "items": []}))
    (tmp_path / RECORD).write_text('{"seconds": 1}')
    pictures = load_pictures("{answers}/result.json", {"answers": made}, {"tabletop-test-5-1"})
    assert [len(urls) for urls in pictures.values()] == [1] * shown
    assert all(url.startswith("data:image/jpeg;base64,") for urls in pictures.values() for url in urls)
