"""The processor for training libraries that want one object."""

from __future__ import annotations

import copy
import json
from contextlib import nullcontext

import pytest
import torch
from PIL import Image
from transformers.image_utils import SizeDict

from look_again.core.families import FAMILIES
from look_again.core.inputs import process_images, stack_pixels
from look_again.loading import load_checkpoint
from look_again.processing import LookAgainProcessor, bound_pixels, check_options, check_processor
from look_again.tabletop.tiny import build_image_processor
from look_again.weights import LoadError
from tests.core.test_layouts import LAID_OUT
from tests.core.test_layouts import processor as image_processor
from tests.tiny_families import TINY_FAMILIES
from tests.tiny_model import LARGE, SMALL
from tests.weights.tiny_adapters import copy_base


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


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"merge_size": 1}, "merge_size of the image processor is 1, and the model needs 2"),
        ({"patch_size": 16}, "patch_size of the image processor is 16, and the model needs 14"),
        ({"patch_size": "x"}, "patch_size of the image processor is x, and the model needs 14"),
        ({"temporal_patch_size": 1}, "temporal_patch_size of the image processor is 1, and the model needs 2"),
        ({"image_std": [0, 0, 0]}, "makes pixels that are no numbers"),
        ({"image_mean": [1]}, "mean must have 3 elements"),
        ({"size": {"longest_edge": "x", "shortest_edge": 1}}, "TypeError"),
        ({"return_tensors": "pt"}, "has no option 'return_tensors'; it has: do_convert_rgb"),
    ],
)
def test_an_image_processor_is_tried_before_anything_is_asked(option, said, tmp_path):
    """Would catch answers about images of twice the tokens, and a library's error at the first question."""
    with pytest.raises(LoadError, match=said) as refused:
        load_checkpoint(processor_options=option)
    assert "\n" not in str(refused.value)
    if "return_tensors" not in option:
        folder = copy_base(tmp_path / "base")
        file = folder / "preprocessor_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | option))
        with pytest.raises(LoadError, match=said):
            load_checkpoint(folder)


OTHER_SHAPES = {
    "internvl": {"size": {"height": 32, "width": 32}},
    "smolvlm": {"max_image_size": {"longest_edge": 32}},
    "idefics3": {"max_image_size": {"longest_edge": 32}},
    "gemma3": {"size": {"height": 32, "width": 32}},
    "gemma4": {"pooling_kernel_size": 3},
    "llava_onevision": {"image_grid_pinpoints": [[16, 16]]},
}


@pytest.mark.parametrize("name", LAID_OUT)
def test_families_that_lay_images_out_are_tried_too(name):
    """Would catch tiles of another size than the tower's, which fail at the first question."""
    config, own = TINY_FAMILIES[name]().model.config, image_processor(name)
    check_processor(own, config)
    if name not in OTHER_SHAPES:
        return
    for field, value in OTHER_SHAPES[name].items():
        setattr(own, field, SizeDict(**value) if isinstance(value, dict) else value)
    with pytest.raises(ValueError, match="the model needs"):
        check_processor(own, config)


@pytest.mark.parametrize(
    ("name", "option", "said"),
    [
        ("gemma3", "do_pan_and_scan", None),
        ("gemma3", "do_pan", "has no option 'do_pan'"),
        ("internvl", "crop_to_patches", "'crop_to_patches' is set by how internvl shows images"),
        ("smolvlm", "return_row_col_info", "'return_row_col_info' is set by how smolvlm shows images"),
        ("mistral3", "patch_size", "'patch_size' is set by how mistral3 shows images"),
    ],
)
def test_options_are_those_that_act(name, option, said):
    """Would catch an option that is refused because it has no value yet, and one that is taken and overruled."""
    if name not in LAID_OUT:
        pytest.skip("the installed transformers does not serve it")
    expected = pytest.raises(ValueError, match=said) if said else nullcontext()
    with expected:
        check_options(image_processor(name), [option], TINY_FAMILIES[name]().model.config)
