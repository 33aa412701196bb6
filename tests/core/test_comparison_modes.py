"""What others do instead of re-inserting, as policies: each sequence is one that the library makes of messages."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from look_again.core.diversity import diverse_indices
from look_again.core.generate import LookAgainDecoding
from look_again.core.reattention import Reattention, choose_visual_tokens
from look_again.core.slots import Provenance
from look_again.model import LookAgain, Request, load
from look_again.tabletop.render import render
from look_again.tabletop.samples import make_sample
from look_again.tabletop.tabletop_benchmark import planted_prefix
from look_again.text.instructions import LOOK_AGAIN_TEXT
from tests.tiny_model import TOLERANCE, decode, feature_table, full_pass


@pytest.fixture(scope="module")
def shipped() -> LookAgain:
    return load()


def _request(index: int) -> Request:
    row = make_sample("test", 5, index, length="normal", reflections=1, error_rate=0.3)
    return Request([render(row.scene)], row.prompt, prefix=planted_prefix(row))


def _messages(request: Request, reply: str, mode: str) -> list[dict[str, Any]]:
    image, look = {"type": "image"}, {"type": "text", "text": LOOK_AGAIN_TEXT}
    first = {"role": "user", "content": [image, {"type": "text", "text": request.question}]}
    if mode == "image-twice":
        return [{"role": "user", "content": [image, *first["content"]]}]
    again = {"role": "user", "content": [*([image] if mode == "user-turn-image" else []), look]}
    return [first, {"role": "assistant", "content": reply}, again]


@pytest.mark.parametrize("mode", ["image-twice", "user-turn", "user-turn-image"])
@torch.no_grad()
def test_a_comparison_reads_what_the_library_makes_of_the_same_messages(shipped, mode):
    """One pass of the library over its own chat template, positions and vision tower gives the same next token."""
    request, check = _request(3), shipped.checkpoint
    answer = shipped.ask_batch([request], reattention=mode, max_new_tokens=400)[0]
    sampled = (answer.slots.provenance == Provenance.SAMPLED).nonzero()[:, 0]
    prefix_ids = check.tokenizer(request.prefix, add_special_tokens=False)["input_ids"]
    free = int(sampled[len(prefix_ids)])  # the first token that the model chose itself
    reply = request.prefix.removesuffix("<REFLECTION>")
    messages = _messages(request, reply, mode)
    text = check.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    text += request.prefix if mode == "image-twice" else "<REFLECTION>"
    images = [request.images[0]] * (1 if mode == "user-turn" else 2)
    pixels = check.image_processor(images=images, return_tensors="pt")
    visual = int(pixels["image_grid_thw"][0].prod()) // 4
    ids = check.tokenizer(text.replace("<|image_pad|>", "<|image_pad|>" * visual), return_tensors="pt")["input_ids"]
    assert answer.slots.token_ids[:free].tolist() == ids[0].tolist()
    types = (ids == check.model.config.image_token_id).int()
    positions, _ = check.model.model.get_rope_index(
        input_ids=ids, mm_token_type_ids=types, image_grid_thw=pixels["image_grid_thw"]
    )
    assert torch.equal(answer.slots.positions[:, :free], positions[:, 0])
    logits = check.model(input_ids=ids, mm_token_type_ids=types, use_cache=False, **pixels).logits[0, -1]
    assert int(logits.argmax()) == int(answer.slots.token_ids[free])


@pytest.mark.parametrize("mode", ["image-twice", "user-turn", "user-turn-image"])
def test_a_batch_is_one_by_one(shipped, mode):
    requests = [_request(index) for index in (1, 2, 3)]
    together = shipped.ask_batch(requests, reattention=mode, max_new_tokens=400)
    alone = [shipped.ask_batch([request], reattention=mode, max_new_tokens=400)[0] for request in requests]
    assert [answer.response for answer in together] == [answer.response for answer in alone]
    assert [len(answer.slots) for answer in together] == [len(answer.slots) for answer in alone]


@pytest.mark.parametrize("mode", ["user-turn", "user-turn-image"])
def test_turns_of_two_reflections_equal_one_pass(model, tokenizer, prompts, trigger, mode):
    """Decoded on the warm cache, with a turn before each of two reflections; logits of one full pass."""
    shown = [[6], [6, 15], [15], [15, 6]]
    start, pad, end = (
        tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("vision_start", "image_pad", "vision_end")
    )
    images = [[t for count in counts for t in (start, *[pad] * count, end)] for counts in shown]
    turns = [[41, 42, *(ids if mode == "user-turn-image" else []), 43, 44] for ids in images]
    decoding = LookAgainDecoding(trigger, Reattention(mode=mode), turns=turns)
    plan = {(0, 3): trigger.open_id, (0, 9): trigger.open_id, (1, 5): trigger.open_id}
    output = decode(model, tokenizer, prompts, plan=plan, decoding=decoding)
    for row, prompt in enumerate(prompts):
        slots = output.slots[row]
        full = full_pass(model, slots, feature_table(model, prompt)).logits[0]
        chosen = slots.sampled_from[slots.provenance == Provenance.SAMPLED]
        assert len(chosen) == len(output.logits)
        for step, source in enumerate(chosen.tolist()):
            assert float((output.logits[step][row] - full[source]).abs().max()) <= TOLERANCE
    assert output.slots[0].count(Provenance.FORCED) == 2 * (4 + (2 if mode == "user-turn-image" else 0))
    assert output.slots[0].count(Provenance.REINSERTED) == (12 if mode == "user-turn-image" else 0)


def test_a_turn_that_nobody_writes_is_refused(model, tokenizer, prompts, trigger):
    with pytest.raises(ValueError, match="'user-turn' needs a user turn"):
        decode(model, tokenizer, prompts, decoding=LookAgainDecoding(trigger, Reattention(mode="user-turn")))


def test_diversity_by_hand():
    """Rows along x, nearly x, y and half-way: after x the volume is largest with y; relevance can outweigh it."""
    rows = torch.tensor([[1.0, 0.0], [2.0, 0.1], [0.0, 3.0], [1.0, 1.0]])
    assert diverse_indices(rows, 2) == [0, 2]
    assert diverse_indices(rows, 2, torch.tensor([1.0, 0.1, 0.1, 0.5])) == [0, 3]  # 0.5 sin(45 degrees) > 0.1
    assert diverse_indices(rows, 2, torch.tensor([2.0, 0.2, 0.2, 1.0])) == [0, 3]
    assert diverse_indices(rows, 3, torch.tensor([1.0, 0.1, 0.1, 0.5])) == [0, 1, 3]  # two rows span the plane
    assert diverse_indices(rows, 4) == [0, 1, 2, 3]


def test_greedy_choice_is_the_largest_volume_at_each_step():
    """Against determinants of the kernel worked out anew at every step."""
    generator = torch.Generator().manual_seed(0)
    rows, relevance = torch.randn(12, 8, generator=generator), torch.rand(12, generator=generator)
    unit = torch.nn.functional.normalize(rows.double(), dim=-1) * relevance.double()[:, None]
    kernel, chosen = unit @ unit.T, []
    for _ in range(5):
        left = [i for i in range(12) if i not in chosen]
        chosen.append(max(left, key=lambda i: float(torch.det(kernel[[*chosen, i]][:, [*chosen, i]]))))
    assert diverse_indices(rows, 5, relevance) == sorted(chosen)


def test_rankings_look_at_what_they_need():
    scores, rows = torch.tensor([0.9, 0.8, 0.1]), torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])

    def choose(ranking: str) -> list[int]:
        policy = Reattention(mode="route", keep=60, ranking=ranking)
        return choose_visual_tokens(policy, 3, scores, features_VD=rows)

    assert [choose(name) for name in ("relevance", "diversity", "relevance-diversity")] == [[0, 1], [0, 2], [0, 2]]
    with pytest.raises(ValueError, match="needs the visual features"):
        choose_visual_tokens(Reattention(mode="route", ranking="diversity"), 3, scores)
