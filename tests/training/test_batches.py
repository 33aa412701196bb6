"""Rows as items: tokens, silent spans, lengths, and what the trainer counts."""

from __future__ import annotations

import pytest

from look_again.core.reattention import Reattention
from look_again.data.image_files import image_size
from look_again.data.sample import Sample
from look_again.tabletop.loader import build_sample
from look_again.tabletop.samples import make_sample
from look_again.text.chat import encode_response
from look_again.text.grammar import open_tag
from look_again.text.tags import tag_ids
from look_again.training.batches import collate
from look_again.training.example import add_response, start_sequence
from look_again.training.sft_config import ModeMixture


def test_responses_are_encoded_as_decoding_writes_them(tokenizer):
    """Tags become their tokens; anything else that looks like a control token stays text."""
    ids = tag_ids(tokenizer)
    text = "<SUMMARY> a <|im_end|> b</SUMMARY><REFLECTION></REFLECTION>"
    found, spans = encode_response(tokenizer, text, ids)
    assert tokenizer.decode(found) == text
    assert found[0] == ids["<SUMMARY>"]
    assert found[-2:] == [ids["<REFLECTION>"], ids["</REFLECTION>"]]
    assert tokenizer.eos_token_id not in found
    assert "".join(text[a:b] for a, b in spans) == text


def test_tabletop_responses_tokenise_as_the_whole_string_does(tokenizer):
    """Would catch pieces that differ at the tags' edges from what a tokenizer makes of the text."""
    ids = tag_ids(tokenizer)
    for index in range(20):
        text = make_sample("train", 3, index).written.text
        assert encode_response(tokenizer, text, ids)[0] == tokenizer(text, add_special_tokens=False)["input_ids"]


def test_planted_words_are_silent_and_nothing_else(codec, tokenizer):
    made = next(make_sample("train", 6, i, error_rate=0.9) for i in range(9))
    example = codec.item(build_sample(made, "train"), Reattention()).example
    silent = [tokenizer.decode([t]) for t, s in zip(example.response_ids, example.silent, strict=True) if s]
    planted = [made.written.text[a:b] for a, b in made.written.planted_spans]
    assert "".join(silent) == "".join(planted) != ""
    assert not any(codec.item(build_sample(made, "train"), Reattention(), learn_silent=True).example.silent)


@pytest.mark.parametrize("mode", ["text", "copy", "route"])
def test_lengths_are_known_before_pictures_are_decoded(codec, mode):
    """Would catch a row that is kept as short enough and is not, with its re-insertions."""
    made = make_sample("train", 3, 1, length="long", reflections=3)
    policy = Reattention(mode=mode)
    row = build_sample(made, "train")
    example = codec.item(row, policy).example
    builder = start_sequence(codec.family, codec.family.vision_tokens(codec.config), example)
    chosen = [list(range(18))] * 3 if mode == "route" else None
    add_response(builder, example, codec.tag_ids[open_tag("REFLECTION")], chosen)
    assert codec.length(row, [image_size(row.images[0])], policy) == len(builder)


def test_collated_labels_count_the_targets_either_way(codec):
    """The library may shift labels or not before it counts them; the count must be that of the targets."""
    text = Sample(id="t", question="How many?", response="<SUMMARY>a</SUMMARY>", source="s")
    items = [
        codec.item(text, Reattention()),
        codec.item(build_sample(make_sample("train", 1, 0), "train"), Reattention()),
    ]
    batch = collate(items)
    targets = sum(item.example.silent.count(False) for item in items)
    assert int((batch["labels"] != -100).sum()) == int((batch["labels"][:, 1:] != -100).sum()) == targets
    assert batch["image_grid_thw"].tolist() == [[1, 12, 12]]
    assert "pixel_values" not in collate(items[:1])


def test_modes_are_drawn_by_weight_and_stay_with_their_row():
    mixture = ModeMixture(modes={"copy": 3.0, "text": 1.0})
    drawn = [mixture.draw(0, str(i)).mode for i in range(400)]
    assert 270 < drawn.count("copy") < 330
    assert drawn == [mixture.draw(0, str(i)).mode for i in range(400)]
