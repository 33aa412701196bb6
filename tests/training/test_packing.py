"""Packed steps are the padded ones: losses, log-probabilities and gradients, whatever the kernel."""

from __future__ import annotations

import pytest
import torch

from look_again.core.attention import recorded_attention
from look_again.core.reattention import Reattention
from look_again.tabletop.tiny import build_model
from look_again.text.tags import tag_ids
from look_again.training.module import Reattending
from look_again.training.packing import PackingError, allow_packing, packing_keywords
from tests.tiny_model import TINIER
from tests.training.examples import build_example

POLICIES = (Reattention(mode="route"), Reattention(), Reattention(mode="text"), Reattention(mode="route", keep=25))


def build_step(model, trigger, prompts):
    """Six examples of different lengths, some of which look again twice, and their images."""
    responses = [
        [300 + n % 7] * n + [trigger.open_id, 301, *[302] * (n // 2), trigger.open_id, 303] for n in range(1, 13, 2)
    ]
    asked = [prompts[i % len(prompts)] for i in range(len(responses))]
    examples = [
        build_example(model, prompt, response, POLICIES[i % len(POLICIES)])
        for i, (prompt, response) in enumerate(zip(asked, responses, strict=True))
    ]
    shown = [prompt for prompt in asked if prompt.pixel_values is not None]
    images = {
        "pixel_values": torch.cat([prompt.pixel_values for prompt in shown]),
        "image_grid_thw": torch.cat([prompt.image_grid_thw for prompt in shown]),
    }
    return examples, images


def gradients(module):
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("recomputed", [False, True], ids=["kept", "recomputed"])
def test_a_packed_step_is_the_padded_one(tokenizer, trigger, prompts, kernel, recomputed):
    """Would catch a sequence that reads its neighbour, positions that run on, images or sections that shift, and layers
    that are computed again without the boundaries.
    """
    results = {}
    for packing in (False, True):
        model = build_model(tokenizer, TINIER)
        model.set_attn_implementation(kernel)
        module = Reattending(model, tag_ids(tokenizer), packing=packing).train()
        if recomputed:
            module.recompute_layers()
        examples, images = build_step(model, trigger, prompts)
        loss = module(examples, **images)["loss"]
        loss.backward()
        sections, found = module.take_section_losses(), gradients(module)
        with torch.no_grad():
            log_probs = module.log_probs(examples, **images)
        results[packing] = float(loss.detach()), sections, found, log_probs
    (loss, sections, found, log_probs), (packed_loss, packed_sections, packed, packed_log_probs) = results.values()
    assert packed_loss == pytest.approx(loss, abs=1e-5)
    assert torch.allclose(packed_sections, sections, atol=1e-4)
    assert found.keys() == packed.keys()
    for name, gradient in found.items():
        assert float((gradient - packed[name]).abs().max()) <= 1e-5, name
    for one, other in zip(log_probs, packed_log_probs, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_packed_rows_hold_every_slot_once_and_are_about_as_long(tokenizer, trigger, prompts):
    """Would catch a packed step that still pads, and passes of which one has all the long sequences."""
    model = build_model(tokenizer, TINIER)
    module = Reattending(model, tag_ids(tokenizer), packing=True)
    examples, images = build_step(model, trigger, prompts)
    with torch.no_grad():
        features, _ = module.features(examples, **images)
        batches = list(module.batches(examples, features))
        lengths = [len(sequence) for sequence in module.sequences(examples, features)]
    assert sorted(i for batch in batches for i in batch.examples) == list(range(len(examples)))
    for batch in batches:
        assert batch.packed_lengths == [lengths[i] for i in batch.examples]
        assert batch.token_ids.shape == (1, sum(batch.packed_lengths))
    longest, shortest = max(b.token_ids.numel() for b in batches), min(b.token_ids.numel() for b in batches)
    assert longest - shortest <= max(lengths)


def test_a_packed_model_decodes_and_records_as_before(tokenizer, trigger, prompts):
    """Would catch a wrapper that changes passes without boundaries, or that hides queries from the recorder."""
    model = build_model(tokenizer, TINIER)
    ids = torch.tensor([prompts[0].token_ids])
    with torch.no_grad():
        before = model(input_ids=ids).logits
        allow_packing(model)
        allow_packing(model)  # twice is once
        assert torch.equal(model(input_ids=ids).logits, before)
        with recorded_attention(model):
            assert torch.equal(model(input_ids=ids).logits, before)


def test_flash_attention_is_told_the_boundaries(tokenizer):
    """Would catch lengths where flash attention takes cumulative ones, or int64 where it takes int32."""
    model = build_model(tokenizer, TINIER)
    model.config.get_text_config()._attn_implementation = "flash_attention_2"
    allow_packing(model)
    told = packing_keywords(model, [3, 5, 2], torch.device("cpu"))
    assert told["cu_seq_lens_q"].tolist() == told["cu_seq_lens_k"].tolist() == [0, 3, 8, 10]
    assert told["cu_seq_lens_q"].dtype == torch.int32
    assert told["max_length_q"] == told["max_length_k"] == 5


def test_a_model_that_cannot_keep_sequences_apart_is_refused(tokenizer, monkeypatch):
    """Would catch a packed step that silently lets sequences read one another."""
    model = build_model(tokenizer, TINIER)
    model.config.get_text_config()._attn_implementation = "flex_attention"
    with pytest.raises(PackingError, match=r"runs 'flex_attention': choose one of them .* or leave packing out"):
        Reattending(model, tag_ids(tokenizer), packing=True)
    model.config.get_text_config()._attn_implementation = "sdpa"
    monkeypatch.setattr(model.config.get_text_config(), "layer_types", ["full_attention", "linear_attention"])
    with pytest.raises(PackingError, match="layers of kind linear_attention"):
        Reattending(model, tag_ids(tokenizer), packing=True)
