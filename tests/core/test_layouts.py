"""Texts of images in prompts: the library's own, and as many visual tokens as the tower returns."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from PIL import Image

from look_again.core.families import FAMILIES
from look_again.core.inputs import (
    blank_pixels,
    build_smallest_image,
    measure_images,
    process_images,
    stack_pixels,
)
from look_again.core.prefill import encode
from look_again.core.reattention import Reattention
from look_again.training.example import Example
from look_again.training.module import Reattending
from tests.tiny_families import TINY_FAMILIES, TinyFamily

SIDE = 16
SIZES = [(16, 16), (64, 24), (20, 90), (7, 33), (41, 40)]
PROCESSORS: dict[str, Any] = {
    "internvl": ("GotOcr2ImageProcessorPil", {"size": {"height": SIDE, "width": SIDE}, "max_patches": 6}),
    "llava_onevision": (
        "LlavaOnevisionImageProcessorPil",
        {
            "size": {"height": SIDE, "width": SIDE},
            "image_grid_pinpoints": [[16, 16], [16, 32], [32, 16], [32, 32]],
        },
    ),
    "mistral3": ("PixtralImageProcessorPil", {"size": {"longest_edge": 32}}),
    "smolvlm": (
        "SmolVLMImageProcessorPil",
        {"size": {"longest_edge": 4 * SIDE}, "max_image_size": {"longest_edge": SIDE}},
    ),
    "idefics3": (
        "Idefics3ImageProcessorPil",
        {"size": {"longest_edge": 4 * SIDE}, "max_image_size": {"longest_edge": SIDE}},
    ),
}
PROCESSORS["gemma3"] = ("Gemma3ImageProcessorPil", {"size": {"height": SIDE, "width": SIDE}})
PROCESSORS["gemma4"] = (
    "Gemma4ImageProcessorPil",
    {"patch_size": 4, "pooling_kernel_size": 2, "max_soft_tokens": 70},
)
LAID_OUT = sorted(name for name, family in FAMILIES.items() if family.layout is not None and family.is_served)
laid_out = pytest.mark.parametrize("name", LAID_OUT)


def processor(name: str) -> Any:
    """The family's image processor, in the sizes of its tiny model."""
    kind, settings = PROCESSORS[name]
    return getattr(transformers, kind)(**settings)


def pictures(sizes: list[tuple[int, int]]) -> list[Image.Image]:
    return [Image.effect_noise(size, 90).convert("RGB") for size in sizes]


@laid_out
@pytest.mark.parametrize("sizes", [[size] for size in SIZES] + [SIZES[:2], SIZES[1:]], ids=str)
def test_a_text_has_as_many_tokens_as_the_tower_returns(name, sizes):
    """Would catch a text of another number of tiles, lines or newlines than the model makes of the image."""
    tiny, family = TINY_FAMILIES[name](), FAMILIES[name]
    inputs = process_images(processor(name), tiny.model.config, pictures(sizes))
    assert inputs.texts is not None
    assert [text.count(family.image_text) for text in inputs.texts] == inputs.visual_token_counts
    with torch.no_grad():
        returned = encode(tiny.model, **inputs.tensors)
    assert sum(len(features) for features, _ in returned) == sum(inputs.visual_token_counts)
    if family.images == "tower":
        assert [len(features) for features, _ in returned] == inputs.visual_token_counts
    measured = measure_images(processor(name), tiny.model.config, sizes)
    assert (measured.grids, measured.texts) == (inputs.grids, inputs.texts)


@laid_out
def test_prompts_of_different_images_are_stacked(name):
    """Would catch prompts whose tiles or sizes differ and cannot pass the tower together, or pass it changed."""
    tiny, own = TINY_FAMILIES[name](), processor(name)
    prompts = [process_images(own, tiny.model.config, pictures(sizes)) for sizes in (SIZES[1:3], SIZES[:1])]
    with torch.no_grad():
        apart = [features for prompt in prompts for features, _ in encode(tiny.model, **prompt.tensors)]
        together = [features for features, _ in encode(tiny.model, **stack_pixels(prompts))]
    assert torch.allclose(torch.cat(together), torch.cat(apart), atol=1e-5)


@pytest.mark.parametrize("name", [name for name in LAID_OUT if name != "mistral3"])
@pytest.mark.parametrize("sizes", [[size] for size in SIZES] + [SIZES[1:]], ids=str)
def test_texts_are_the_librarys(name, sizes):
    """Would catch a header, break or newline that the family was not trained with."""
    tiny = TINY_FAMILIES[name]()
    own, layout = processor(name), FAMILIES[name].layout
    given = [pictures(sizes)] if layout.nested else pictures(sizes)
    features = own(images=given, return_tensors="pt", **layout.options(tiny.model.config))
    theirs = library_processor(name, tiny, own)
    expected = [theirs.replace_image_token(features, i) for i in range(len(sizes))]
    assert layout.write(tiny.model.config, features) == expected


def library_processor(name: str, tiny: TinyFamily, image_processor: Any) -> Any:
    """The library's processor without its video part, which cannot be had without torchvision."""
    kind = {"internvl": "InternVL", "llava_onevision": "LlavaOnevision", "smolvlm": "SmolVLM", "idefics3": "Idefics3"}
    kind |= {"gemma3": "Gemma3", "gemma4": "Gemma4"}
    made = object.__new__(getattr(transformers, f"{kind[name]}Processor"))
    tokens = {
        "image_token": FAMILIES[name].image_text,
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "fake_image_token": "<fake_token_around_image>",
        "global_image_token": "<global-img>",
        "global_image_tag": "<global-img>",
        "image_seq_length": 4,
        "image_seq_len": 4,
        "num_image_tokens": 16,
        "vision_feature_select_strategy": "full",
        "vision_aspect_ratio": "anyres_max_9",
        "image_processor": image_processor,
        "full_image_sequence": f"\n\n<start_of_image>{'<image_soft_token>' * 16}<end_of_image>\n\n",
        "boi_token": "<|image>",
        "eoi_token": "<image|>",
    }
    for attribute, value in tokens.items():
        setattr(made, attribute, value)
    return made


def test_lines_by_hand():
    """24 x 16 pixels in tokens of 8: three lines of two, a break after each but the last, then the end."""
    config = SimpleNamespace(vision_config=SimpleNamespace(patch_size=4), spatial_merge_size=2)
    features = {"image_sizes": torch.tensor([[24, 16], [8, 8]])}
    line = "[IMG][IMG]"
    expected = [f"{line}[IMG_BREAK]{line}[IMG_BREAK]{line}[IMG_END]", "[IMG][IMG_END]"]
    assert FAMILIES["mistral3"].layout.write(config, features) == expected
    assert math.prod(features["image_sizes"][0]) == 384


FAMILY_NAMES = sorted(name for name in TINY_FAMILIES if name in FAMILIES and FAMILIES[name].is_served)


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_the_smallest_image_passes_the_tower(name):
    """Would catch a process of a sharded run that has no image and cannot keep in step with the others."""
    model = TINY_FAMILIES[name]().model
    with torch.no_grad():
        features = encode(model, **build_smallest_image(model.config))
    assert sum(len(part) for part, _ in features) > 0
    assert all(part.isfinite().all() for part, _ in features)
    table, zero = Reattending(model, {}).features([Example([1, 2], [3], [], Reattention(mode="copy"))])
    assert (float(zero), [len(part) for part in table]) == (0.0, [0])


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_the_blank_image_control_shows_as_many_tokens(name):
    """Would catch a tower that takes a blank image for padding and gives fewer visual tokens, or none."""
    tiny = TINY_FAMILIES[name]()
    dims, pixels = FAMILIES[name].position_dims, tiny.pixels([0, 1])
    blank = pixels | {"pixel_values": blank_pixels(pixels["pixel_values"], dims)}
    with torch.no_grad():
        shown, hidden = (encode(tiny.model, **given) for given in (pixels, blank))
    assert [len(part) for part, _ in hidden] == [len(part) for part, _ in shown]
    assert not torch.allclose(hidden[0][0], shown[0][0])
    assert all(part.isfinite().all() for part, _ in hidden)


def test_one_visual_token_in_all_is_told():
    """Would catch a library's error about sizes that do not sum up, for an icon."""
    config = TINY_FAMILIES["mistral3"]().model.config
    with pytest.raises(ValueError, match="the image is one visual token of 8 x 8 pixels: mistral3 takes two or more"):
        process_images(processor("mistral3"), config, [Image.new("RGB", (8, 8))])
    assert process_images(processor("mistral3"), config, [Image.new("RGB", (8, 8))] * 2).visual_token_counts == [1, 1]
