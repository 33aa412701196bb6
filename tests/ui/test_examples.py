"""Examples to begin with: whole sets of the page alone, drawn into the page."""

from __future__ import annotations

import base64
import io
import re

import pytest
from PIL import Image

from look_again.ui.examples import SEEDS, examples_html, load_example, load_sets, next_set


def test_examples_are_those_of_the_page_alone():
    html = examples_html(0)
    assert html.count("data-scene=") == load_sets().count
    small = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', html)
    assert {Image.open(io.BytesIO(base64.b64decode(code))).size for code in small} == {(112, 112)}
    assert len(small) == html.count("src=") == load_sets().count
    image, question = load_example("0/1")
    assert image.size == (168, 168)
    assert question.endswith("Think step by step.")
    assert [next_set(name) for name in ("0", "7", SEEDS - 1, None, "x", "9" * 5000)] == [1, 8, 0, 0, 0, 0]
    for name in (None, "", "0", "0/99", f"{SEEDS}/0", "-1/0", "0/x", "../../etc", "9" * 5000):
        with pytest.raises(ValueError, match="example"):
            load_example(name)
