"""A trained model of a second family, Qwen3-VL: it reads the picture, and decoding is exact on weights that do."""

from __future__ import annotations

import pytest
import torch

from look_again.core.generate import LookAgainDecoding
from look_again.core.reattention import Reattention
from look_again.core.slots import Provenance
from look_again.core.trigger import Trigger
from look_again.tabletop.figures import EvalConfig, evaluate
from look_again.tabletop.loader import tabletop_samples
from look_again.training.batches import Codec
from tests.core.test_families import bound_noise


def test_it_reads_what_is_put_back(qwen3_vl):
    """Floors below what the log says: random weights, or features that are not this image's, fall through them."""
    config = EvalConfig(n=100, seed=5, length="brief")
    right = evaluate(qwen3_vl, config, Reattention())
    wrong = evaluate(qwen3_vl, config, Reattention(control="wrong-image"))
    assert right["accuracy"] > 0.7
    assert right["planted"]["share"] > 0.8
    assert wrong["accuracy"] < right["accuracy"] - 0.1
    assert wrong["planted"]["share"] < right["planted"]["share"]


@pytest.mark.parametrize("index", range(4))
def test_copy_is_one_library_pass_that_is_given_the_picture_again(qwen3_vl, index):
    """Positions, masks and features of every level are the library's own; the tolerance is what rounding moves."""
    loaded = qwen3_vl.checkpoint
    model, tokenizer = loaded.model, loaded.tokenizer
    (sample,) = tabletop_samples("test", 5, [index], "brief")
    item = Codec.of(model.config, tokenizer, loaded.image_processor).item(sample, Reattention())
    pixels, grids = item.pixel_values, item.image_grid_thw
    ids = torch.tensor([item.example.prompt_ids])
    output = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        pixel_values=pixels,
        image_grid_thw=grids,
        custom_generate=LookAgainDecoding(Trigger.of(tokenizer), Reattention(mode="copy")),
        max_new_tokens=200,
        do_sample=False,
        return_dict_in_generate=True,
        output_logits=True,
    )
    slots = output.slots[0]
    again = (slots.provenance == Provenance.REINSERTED) & (slots.token_ids == model.config.image_token_id)
    looks = int(again.sum()) // int((ids == model.config.image_token_id).sum())
    assert looks >= 1

    def library_pass(scale: float = 1.0) -> torch.Tensor:
        with torch.no_grad():
            return model(
                input_ids=slots.token_ids[None],
                pixel_values=torch.cat([pixels] * (1 + looks)) * scale,
                image_grid_thw=torch.cat([grids] * (1 + looks)),
                mm_token_type_ids=(slots.token_ids[None] == model.config.image_token_id).int(),
                use_cache=False,
            ).logits[0]

    whole = library_pass()
    bound = bound_noise(library_pass(1 + 1e-7) - whole)
    steps = (slots.provenance == Provenance.SAMPLED).nonzero()[:, 0].tolist()
    gaps = [
        float((output.logits[step][0] - whole[source]).abs().max())
        for step, slot in enumerate(steps)
        if (source := int(slots.sampled_from[slot])) >= 0
    ]
    assert len(gaps) == len(steps)
    assert max(gaps) < bound
