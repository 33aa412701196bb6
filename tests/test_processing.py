"""The processor for training libraries that want one object."""

from __future__ import annotations

import pytest
from PIL import Image

from look_again.processing import LookAgainProcessor
from look_again.tabletop.tiny import build_image_processor
from tests.tiny_model import LARGE, SMALL


@pytest.fixture(scope="module")
def processor(tokenizer):
    images = build_image_processor()
    images.size = {"shortest_edge": 28 * 28, "longest_edge": 200 * 28 * 28}
    return LookAgainProcessor(images, tokenizer)


def test_every_image_token_becomes_as_many_as_its_image_has_rows(processor):
    pictures = [Image.new("RGB", size[::-1]) for size in (SMALL, LARGE)]
    texts = ["a <|image_pad|> b", "<|image_pad|>"]
    batch = processor(images=[[pictures[0]], [pictures[1]]], text=texts, return_tensors="pt", padding=True)
    counts = (batch["input_ids"] == processor.image_token_id).sum(-1).tolist()
    assert counts == batch["mm_token_type_ids"].sum(-1).tolist() == [6, 15]
    assert batch["image_grid_thw"].tolist() == [[1, 4, 6], [1, 6, 10]]


def test_texts_alone_and_the_wrong_number_of_images(processor):
    assert "pixel_values" not in processor(text=["a", "b c"])
    with pytest.raises(ValueError, match="another number of images"):
        processor(text="<|image_pad|>")
