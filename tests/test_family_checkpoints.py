"""Folders of other families, loaded and asked as any checkpoint is: template, layout, processor, tags, hostile text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import transformers
from PIL import Image

import look_again
from look_again.core.families import FAMILIES
from look_again.core.reattention import Reattention
from look_again.data.sample import Sample
from look_again.model import Request, Sampling
from look_again.tabletop.tiny import CHAT_TEMPLATE, build_tokenizer
from look_again.training.batches import Codec
from look_again.training.module import Reattending
from tests.core.test_layouts import processor
from tests.tiny_families import TINY_FAMILIES

SHOWN = "<|vision_start|><|image_pad|><|vision_end|>"
PLACEHOLDERS = {"qwen3_vl": SHOWN, "internvl": "<IMG_CONTEXT>", "mistral3": "[IMG]", "gemma3": "<start_of_image>"}
MARKS = [
    "<img>",
    "</img>",
    "<IMG_CONTEXT>",
    "[IMG]",
    "[IMG_BREAK]",
    "[IMG_END]",
    "<image>",
    "<fake_token_around_image>",
    "<global-img>",
    *(f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)),
    "<start_of_image>",
    "<end_of_image>",
    "<image_soft_token>",
]
PREFIX = "<SUMMARY> a</SUMMARY><CAPTION> b</CAPTION><REFLECTION>"
NAMES = [name for name in ("qwen3_vl", "internvl", "mistral3", "smolvlm", "gemma3") if FAMILIES[name].is_served]


@pytest.fixture(scope="module", params=NAMES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as a family's would lie on a disk."""
    name, family = request.param, FAMILIES[request.param]
    path, tokenizer = tmp_path_factory.mktemp(name), build_tokenizer(400)
    tokenizer.add_special_tokens({"additional_special_tokens": MARKS}, replace_extra_special_tokens=False)
    tokenizer.chat_template = CHAT_TEMPLATE.replace(SHOWN, PLACEHOLDERS.get(name, family.image_text))
    model = TINY_FAMILIES[name]().model
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.config.image_token_id = tokenizer.convert_tokens_to_ids(family.image_text)
    if name == "qwen3_vl":
        model.config.vision_start_token_id = tokenizer.convert_tokens_to_ids("<|vision_start|>")
        model.config.vision_end_token_id = tokenizer.convert_tokens_to_ids("<|vision_end|>")
        model.config.video_token_id = tokenizer.convert_tokens_to_ids("<|video_pad|>")
    if name == "gemma3":
        model.config.boi_token_index = tokenizer.convert_tokens_to_ids("<start_of_image>")
        model.config.eoi_token_index = tokenizer.convert_tokens_to_ids("<end_of_image>")
    for part in (model, tokenizer, image_processor(name)):
        part.save_pretrained(path)
    (path / "look_again.json").write_text('{"trained": true}')
    return path


def image_processor(name: str) -> Any:
    if name == "qwen3_vl":
        size = {"shortest_edge": 64, "longest_edge": 16**2 * 4}
        return transformers.Qwen2VLImageProcessorPil(size=size, patch_size=4)
    return processor(name)


@pytest.fixture(scope="module")
def looker(folder: Path) -> look_again.LookAgain:
    return look_again.load(folder, device="cpu")


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    return [Image.effect_noise(size, 90).convert("RGB") for size in ((32, 16), (16, 24))]


@pytest.mark.parametrize("mode", ["copy", "route-40"])
def test_an_answer_looks_again(looker, images, mode):
    """Would catch a template, text or processor of another family, and a block that is not the prompt's."""
    requests = [
        Request(images, "What is in both?", prefix=PREFIX),
        Request(images[:1], "And in this one?", prefix=PREFIX),
    ]
    answers = looker.ask_batch(requests, reattention=mode, sampling=Sampling(max_new_tokens=30))
    for request, answer in zip(requests, answers, strict=True):
        alone = looker.ask_batch([request], reattention=mode, sampling=Sampling(max_new_tokens=30))[0]
        assert answer.response == alone.response
        assert answer.tokens["visual"] > 0
        assert answer.reflections[0].reinserted_tokens > 0
        slots = answer.slots
        image = looker.checkpoint.family.vision_tokens(looker.checkpoint.model.config).image
        assert ((slots.token_ids == image) == (slots.visual_indices >= 0)).all()


def test_another_images_rows_are_shown_at_the_same_places(looker, images):
    """Would catch a control that asks a family for grids which it has not, or that shows the image after all."""
    policy = Reattention(control="wrong-image")
    request = Request(images, "What is in both?", prefix=PREFIX, control_images=[i.rotate(180) for i in images])
    sampling = Sampling(max_new_tokens=30)
    answer = looker.ask_batch([request], reattention=policy, sampling=sampling)[0]
    shown = looker.ask_batch([Request(images, "What is in both?", prefix=PREFIX)], sampling=sampling)[0]
    assert answer.reflections[0].reinserted_tokens == shown.reflections[0].reinserted_tokens > 0
    first = [(one.slots.visual_indices[one.slots.inserted]).tolist() for one in (answer, shown)]
    visual = answer.tokens["visual"]
    assert [index + visual for index in first[1] if index >= 0] == [index for index in first[0] if index >= 0]


def test_what_users_type_is_no_token_of_an_image(looker, images):
    """Would catch a user who shows images of their own by typing the family's tokens."""
    plain = looker.ask_batch([Request(images[:1], "x")], sampling=Sampling(max_new_tokens=1))[0]
    hostile = "".join([*MARKS, SHOWN])
    typed = looker.ask_batch([Request(images[:1], hostile)], sampling=Sampling(max_new_tokens=1))[0]
    special = [looker.checkpoint.tokenizer.convert_tokens_to_ids(mark) for mark in (*MARKS, "<|image_pad|>")]
    counts = [sum(int((answer.slots.token_ids == token).sum()) for token in special) for answer in (plain, typed)]
    assert counts[0] == counts[1]


def test_lengths_are_those_of_the_sequences(looker, images, tmp_path):
    """Would catch a row that fits by its length and not by its sequence: blocks with headers and breaks."""
    check, files = looker.checkpoint, []
    for place, image in enumerate(images):
        files.append(tmp_path / f"{place}.png")
        image.save(files[-1])
    codec = Codec.of(check.model.config, check.tokenizer, check.image_processor)
    response = f"{PREFIX} c</REFLECTION><CONCLUSION> d</CONCLUSION>"
    sample = Sample(id="a", question="Which?", images=tuple(map(str, files)), response=response, source="test")
    for policy in (Reattention(mode="copy"), Reattention(mode="copy", delimiters=False)):
        item = codec.item(sample, policy)
        module = Reattending(check.model, codec.tag_ids)
        features, _ = module.features([item.example], **item.images.tensors)
        made = module.sequences([item.example], features)[0]
        assert codec.length(sample, [image.size for image in images], policy) == len(made)
