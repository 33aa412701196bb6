"""Recognising `<REFLECTION>`: as one token, and spelled in pieces by a model whose tags were never trained."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from look_again.core.generate import LookAgainDecoding
from look_again.core.reattention import Reattention
from look_again.core.slots import Provenance, Slots
from look_again.core.trigger import Trigger
from tests.tiny_model import TOLERANCE, decode, feature_table, full_pass, logit_gap, responses, same_slots


def spell(tokenizer: Any, text: str) -> list[int]:
    """Ids of ordinary pieces, character by character, that decode to `text`."""
    pieces = [tokenizer.encode(character, add_special_tokens=False) for character in text]
    return [piece for character in pieces for piece in character]


def in_pieces(tokenizer: Any) -> list[int]:
    """`<REFLECTION>` as an untrained model would write it: "<", "REFLECTION", ">"."""
    head, end = (tokenizer.encode(part, add_special_tokens=False) for part in ("<REFLECTION", ">"))
    assert len([*head, *end]) == 3
    return [*head, *end]


def first_completed(trigger: Trigger, ids: list[int]) -> tuple[int, int] | None:
    """(index, pieces) of the first token that completes a tag."""
    for index, token in enumerate(ids):
        if pieces := trigger.pieces(ids[:index], token):
            return index, pieces
    return None


def test_the_token_alone_triggers(tokenizer, trigger):
    """Would catch the closing tag taken for the opening one, and a look back where none is needed."""
    assert trigger.pieces([5, 6], trigger.open_id) == 1
    assert trigger.pieces([], trigger.open_id) == 1
    assert trigger.pieces([trigger.open_id], trigger.close_id) == 0


def test_pieces_trigger_only_when_asked_for(tokenizer, trigger):
    """Would catch a trained model that looks again at a tag it merely quotes in pieces."""
    ids = spell(tokenizer, "so: <REFLECTION>")
    assert first_completed(trigger, ids) is None
    assert first_completed(Trigger.of(tokenizer, spelled=True), ids) == (15, 12)


@pytest.mark.parametrize("before", ["", "a", "x <"])
def test_every_piece_of_the_tag_is_counted_and_no_other(tokenizer, before):
    """Would catch an insertion in the middle of the tag or in front of the text before it."""
    trigger, ids = Trigger.of(tokenizer, spelled=True), in_pieces(tokenizer)
    prefix = spell(tokenizer, before)
    assert first_completed(trigger, [*prefix, *ids]) == (len(prefix) + len(ids) - 1, len(ids))


def test_a_last_piece_that_goes_on_after_the_tag_still_completes_it(tokenizer):
    """Would catch an empty reflection that is missed because "><" is one piece."""
    trigger, ids = Trigger.of(tokenizer, spelled=True), in_pieces(tokenizer)
    bracket_bracket = tokenizer.encode("><", add_special_tokens=False)
    assert len(bracket_bracket) == 1
    both = [*ids[:-1], *bracket_bracket, *spell(tokenizer, "/REFLECTION>"), *in_pieces(tokenizer)]
    assert first_completed(trigger, both) == (2, 3)
    completed = [index for index, token in enumerate(both) if trigger.pieces(both[:index], token)]
    assert completed == [2, len(both) - 1]


@pytest.mark.parametrize(
    "text",
    [
        "</REFLECTION>",
        "<REFLECTIONS>",
        "< REFLECTION>",
        "<reflection>",
        "REFLECTION>",
        "<REFLECTION >",
        "<REFLECT ION>",
        "<SUMMARY>",
        "a > b",
    ],
)
def test_what_only_resembles_the_tag_does_not_trigger(tokenizer, text):
    """Would catch a closing tag, another tag or a comparison that makes the model look."""
    assert first_completed(Trigger.of(tokenizer, spelled=True), spell(tokenizer, text)) is None


def test_a_finished_tag_does_not_trigger_twice(tokenizer):
    """Would catch a second insertion at the next token that holds a bracket or a space."""
    trigger, ids = Trigger.of(tokenizer, spelled=True), in_pieces(tokenizer)
    for following in (">", " ", "\n", " >"):
        for piece in tokenizer.encode(following, add_special_tokens=False):
            assert trigger.pieces(ids, piece) == 0


def join_tags(tokenizer: Any, tags: int) -> list[int]:
    """`<REFLECTION>` several times in a row, where "><" ends one tag and begins the next: "<", "REFLECTION", "><", …"""
    head, middle, end = in_pieces(tokenizer)
    joint = tokenizer.encode("><", add_special_tokens=False)
    assert len(joint) == 1
    return [head, *([middle, *joint] * (tags - 1)), middle, end]


def find_tags(trigger: Trigger, ids: list[int]) -> list[tuple[int, int]]:
    """(index of the first piece, index after the last) of every tag that is recognised."""
    found = [(i + 1, trigger.pieces(ids[:i], token)) for i, token in enumerate(ids)]
    return [(stop - count, stop) for stop, count in found if count]


def test_tags_in_a_row_share_no_piece(tokenizer):
    """Would catch a second look inside the first tag: a piece that ends a tag belongs to that tag."""
    trigger = Trigger.of(tokenizer, spelled=True)
    assert find_tags(trigger, join_tags(tokenizer, 2)) == [(0, 3), (3, 5)]
    assert find_tags(trigger, join_tags(tokenizer, 4)) == [(0, 3), (3, 5), (5, 7), (7, 9)]
    apart = [*in_pieces(tokenizer), *in_pieces(tokenizer)]
    assert find_tags(trigger, apart) == [(0, 3), (3, 6)]
    characters = spell(tokenizer, "<REFLECTION>")
    assert find_tags(trigger, characters * 2) == [(0, 12), (12, 24)]
    joint = tokenizer.encode("><", add_special_tokens=False)
    assert find_tags(trigger, [*characters[:-1], *joint, *characters[1:]]) == [(0, 12), (12, 23)]
    assert find_tags(trigger, [trigger.open_id, *in_pieces(tokenizer), trigger.open_id]) == [(0, 1), (1, 4), (4, 5)]


@settings(deadline=None)
@given(st.lists(st.sampled_from(["<", ">", "><", "REFLECTION", "/", " ", "tag"]), max_size=40))
def test_recognised_tags_never_overlap(tokenizer, texts):
    """Would catch any piece that two tags claim, in text made of what tags are made of; and a tag that is missed."""
    trigger = Trigger.of(tokenizer, spelled=True)
    parts = {"REFLECTION": in_pieces(tokenizer)[1:2], "tag": [trigger.open_id]}
    ids = [token for text in texts for token in parts.get(text) or tokenizer.encode(text, add_special_tokens=False)]
    tags = find_tags(trigger, ids)
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(tags))
    assert len(tags) == "".join({"tag": "<REFLECTION>"}.get(text, text) for text in texts).count("<REFLECTION>")


# --- in decoding

AT = 6  # response column where the tag starts


def plan_of(ids: list[int], row: int, at: int) -> dict[tuple[int, int], int]:
    return {(row, at + i): piece for i, piece in enumerate(ids)}


@pytest.mark.parametrize("mode", ["copy", "route", "vision"])
def test_the_insertion_sits_before_the_first_piece(model, tokenizer, prompts, mode):
    """Would catch pieces left in front of the image, and a cache that still holds them there.

    The second row spells two tags, in 3 and in 12 pieces; the third has a tag as one token, the others have none.
    """
    trigger = Trigger.of(tokenizer, spelled=True)
    short, long = in_pieces(tokenizer), spell(tokenizer, "<REFLECTION>")
    plan = plan_of(short, 1, AT) | plan_of(long, 1, 14) | {(2, AT + 2): trigger.open_id}
    decoding = LookAgainDecoding(trigger, Reattention(mode=mode))
    output = decode(model, tokenizer, prompts, plan=plan, decoding=decoding, max_new_tokens=36)
    assert [[r.at for r in row] for row in output.reflections] == [[], [AT, 14], [AT + 2], []]
    for pieces in (short, long):
        check_placement(output.slots[1], pieces)
    for row, prompt in enumerate(prompts):
        full = full_pass(model, output.slots[row], feature_table(model, prompt)).logits[0]
        assert logit_gap(output, row, full) <= TOLERANCE


@pytest.mark.parametrize("mode", ["copy", "route"])
@pytest.mark.parametrize("at", [0, AT])
def test_tags_in_a_row_are_each_looked_for_in_turn(model, tokenizer, prompts, mode, at):
    """Would catch a first tag that the second look cuts in two, and a cache that still holds the pieces taken back.

    ROUTE puts nothing back at a tag that nothing was sampled before.
    """
    trigger, ids = Trigger.of(tokenizer, spelled=True), join_tags(tokenizer, 3)
    decoding = LookAgainDecoding(trigger, Reattention(mode=mode))
    output = decode(model, tokenizer, prompts[:2], plan=plan_of(ids, 0, at), decoding=decoding)
    assert [r.at for r in output.reflections[0]] == [at, at + 3, at + 5]
    skipped = "nothing sampled" if mode == "route" and at == 0 else None
    assert [r.skipped for r in output.reflections[0]] == [skipped, None, None]
    slots = output.slots[0]
    places = [slot for slot, token in enumerate(slots.token_ids.tolist()) if token in ids][-len(ids) :]
    assert slots.token_ids[places].tolist() == ids
    looks = [
        places[i] - places[i - 1] > 1 if i else slots.provenance[places[0] - 1] == Provenance.FORCED for i in range(7)
    ]
    assert looks == [skipped is None, False, False, True, False, True, False]
    full = full_pass(model, slots, feature_table(model, prompts[0])).logits[0]
    assert logit_gap(output, 0, full) <= TOLERANCE


@pytest.mark.parametrize("spelled", ["<REFLECTION>", "pieces"])
def test_a_tag_right_after_a_reinsertion(model, tokenizer, prompts, spelled):
    """Would catch pieces of the second tag that reach back into the first one's insertion."""
    trigger = Trigger.of(tokenizer, spelled=True)
    second = in_pieces(tokenizer) if spelled == "pieces" else spell(tokenizer, spelled)
    plan = {(0, AT): trigger.open_id} | plan_of(second, 0, AT + 1)
    output = decode(model, tokenizer, prompts[:1], plan=plan, decoding=LookAgainDecoding(trigger, Reattention()))
    assert [(r.at, r.skipped) for r in output.reflections[0]] == [(AT, None), (AT + 1, None)]
    slots = output.slots[0]
    tag = (slots.token_ids == trigger.open_id).nonzero()[0, 0]
    assert slots.provenance[tag - 1] == slots.provenance[tag + 1] == Provenance.FORCED
    full = full_pass(model, slots, feature_table(model, prompts[0])).logits[0]
    assert logit_gap(output, 0, full) <= TOLERANCE


def test_a_spelled_tag_at_a_bound_inserts_nothing_or_fits(model, tokenizer, prompts):
    """Would catch a look that no token can follow, and pieces that count twice against the context."""
    trigger, pieces = Trigger.of(tokenizer, spelled=True), in_pieces(tokenizer)
    plan, columns, size = plan_of(pieces, 0, AT), len(prompts[0].token_ids), 6 + 2

    def reflect(bound: int | None, **options: Any) -> tuple[Any, int]:
        decoding = LookAgainDecoding(trigger, Reattention(), max_context=bound)
        output = decode(model, tokenizer, prompts[:1], plan=plan, decoding=decoding, **options)
        return output.reflections[0][0].skipped, len(output.slots[0])

    assert reflect(None, max_new_tokens=AT + 3) == ("max_new_tokens", columns + AT + 3)
    assert reflect(None, max_new_tokens=AT + 4) == (None, columns + AT + 4 + size)
    full = columns + AT + 3 + size + 1
    assert reflect(full) == (None, full)
    assert reflect(full - 1) == ("context", full - 1)


def check_placement(slots: Slots, pieces: list[int]) -> None:
    """The pieces stand once, right after an insertion; only the first has a source, the slot before the insertion."""
    starts = [i for i in range(len(slots)) if slots.token_ids[i : i + len(pieces)].tolist() == pieces]
    assert len(starts) == 1
    start, stop = starts[0], starts[0] + len(pieces)
    assert slots.provenance[start - 1] == Provenance.FORCED
    assert slots.provenance[start:stop].tolist() == [Provenance.SAMPLED] * len(pieces)
    assert slots.sampled_from[start + 1 : stop].tolist() == [-1] * (len(pieces) - 1)
    source = int(slots.sampled_from[start])
    assert slots.provenance[source : source + 2].tolist() == [Provenance.SAMPLED, Provenance.FORCED]


@pytest.mark.parametrize("policy", [Reattention(mode="text"), Reattention(max_reinsertions=0)], ids=["text", "limit"])
def test_a_spelled_tag_that_inserts_nothing_is_left_as_it_was_written(model, tokenizer, prompts, policy):
    """Would catch pieces taken back and fed twice although nothing goes in between."""
    outputs = [
        decode(
            model,
            tokenizer,
            prompts[:1],
            plan=plan_of(in_pieces(tokenizer), 0, AT),
            decoding=LookAgainDecoding(trigger, policy),
        )
        for trigger in (Trigger.of(tokenizer, spelled=True), Trigger.of(tokenizer))
    ]
    assert [len(output.reflections[0]) for output in outputs] == [1, 0]
    assert same_slots(outputs[0].slots[0], outputs[1].slots[0])
    assert responses(outputs[0], prompts[:1]) == responses(outputs[1], prompts[:1])


def test_a_tag_spelled_from_the_first_token_on(model, tokenizer, prompts):
    """Would catch the prompt's last token taken back with the pieces."""
    decoding = LookAgainDecoding(Trigger.of(tokenizer, spelled=True), Reattention())
    output = decode(model, tokenizer, prompts[:1], plan=plan_of(in_pieces(tokenizer), 0, 0), decoding=decoding)
    slots = output.slots[0]
    columns = len(prompts[0].token_ids)
    assert slots.token_ids[:columns].tolist() == prompts[0].token_ids
    assert slots.provenance[columns] == Provenance.FORCED
    full = full_pass(model, slots, feature_table(model, prompts[0])).logits[0]
    assert logit_gap(output, 0, full) <= TOLERANCE
