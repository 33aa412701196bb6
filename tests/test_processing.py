"""The processor for training libraries that want one object."""

from __future__ import annotations

import copy

import pytest
import torch
from PIL import Image

from look_again.core.families import FAMILIES
from look_again.core.inputs import process_images, stack_pixels
from look_again.loading import load_checkpoint
from look_again.processing import LookAgainProcessor, bound_pixels
from look_again.tabletop.tiny import build_image_processor
from tests.core.test_layouts import LAID_OUT
from tests.core.test_layouts import processor as image_processor
from tests.tiny_families import TINY_FAMILIES
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


@pytest.mark.parametrize("max_pixels", [784, 1000, 3136, 20_000])
@pytest.mark.parametrize("size", [(30, 30), (300, 200), (900, 1200)])
def test_a_bound_holds_for_images_of_every_size(max_pixels, size):
    """A small image was scaled up to the processor's least number of pixels, beyond the bound."""
    given = build_image_processor()
    given.size = {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 1280}
    grid = bound_pixels(given, max_pixels)(images=[Image.new("RGB", size)], return_tensors="pt")["image_grid_thw"][0]
    assert 784 <= int(grid.prod()) * 14 * 14 <= max_pixels
    assert given.size["longest_edge"] == 28 * 28 * 1280


@pytest.mark.parametrize("max_pixels", [1, 0, -5, 783])
def test_a_bound_below_one_visual_token_is_refused(max_pixels):
    """It was taken, and more pixels were used in silence."""
    with pytest.raises(ValueError, match=f"max_pixels is {max_pixels}: use 784 or more"):
        bound_pixels(build_image_processor(), max_pixels)
    with pytest.raises(ValueError, match="use 784 or more"):
        load_checkpoint(max_pixels=max_pixels)


SIZES = [(16, 16), (64, 24), (41, 40)]


@pytest.mark.parametrize("name", LAID_OUT)
def test_every_family_shows_images_as_its_prompts_do(name, tokenizer):
    """Would catch a text of another family, images of one text that are cut as if they stood alone, and lost pixels."""
    tiny, family = TINY_FAMILIES[name](), FAMILIES[name]
    images = [Image.effect_noise(size, 90).convert("RGB") for size in SIZES]
    own = copy.deepcopy(tokenizer)
    own.add_special_tokens({"additional_special_tokens": [family.image_text]}, replace_extra_special_tokens=False)
    processor = LookAgainProcessor(image_processor(name), own, config=tiny.model.config)
    mark = family.placeholder or family.image_text
    texts = [f"one {mark} and {mark}", f"then {mark}", "none"]
    batch = processor(images=[images[:2], images[2:], []], text=texts, return_tensors="pt", padding=True)
    shown = [process_images(image_processor(name), tiny.model.config, part) for part in (images[:2], images[2:])]
    counts = (batch["input_ids"] == processor.image_token_id).sum(-1).tolist()
    assert counts == [*(sum(part.visual_token_counts) for part in shown), 0]
    for tensor_name, tensor in stack_pixels(shown).items():
        assert torch.equal(batch[tensor_name], tensor)
    types = {"gemma3": "token_type_ids", "gemma4": "mm_token_type_ids"}.get(name)
    assert types is None or batch[types].sum(-1).tolist() == counts
    with pytest.raises(ValueError, match="another number of images than the 1 given"):
        processor(images=images[0], text=texts[0])
