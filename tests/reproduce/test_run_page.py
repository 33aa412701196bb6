"""What the report's page says of answers."""

from __future__ import annotations

from typing import Any

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
