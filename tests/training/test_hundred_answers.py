"""A hundred answers that the shipped model writes with ROUTE: training picks the rows that decoding picked."""

from __future__ import annotations

import torch

from look_again.core.attention import recorded_attention
from look_again.core.families import find_family
from look_again.core.generate import LookAgainDecoding
from look_again.core.reattention import Reattention
from look_again.core.runner import Runner, encode_images
from look_again.core.slots import Provenance
from look_again.core.trigger import Trigger
from look_again.loading import load_checkpoint
from look_again.tabletop.loader import build_sample
from look_again.tabletop.samples import make_sample
from look_again.text.grammar import open_tag
from look_again.text.tags import tag_ids
from look_again.training.batches import Codec, collate
from look_again.training.example import start_sequence
from look_again.training.selection import select_visual_tokens

ANSWERS, BATCH, NEAR = 100, 50, 1e-5
POLICY = Reattention(mode="route", keep=50)


def test_route_picks_the_same_rows_in_training_and_decoding():
    """They may differ only where the last chosen and the first left-out score are closer than 1e-5; that is counted."""
    shipped = load_checkpoint(device="cpu")
    model, ids = shipped.model, tag_ids(shipped.tokenizer)
    codec = Codec(shipped.family, shipped.tokenizer, ids, shipped.image_processor, model.config)
    reflections = near = 0
    for start in range(0, ANSWERS, BATCH):
        items = [
            codec.item(build_sample(make_sample("test", 5, i), "test"), POLICY) for i in range(start, start + BATCH)
        ]
        batch = collate(items)
        output = model.generate(
            **prompts([item.example.prompt_ids for item in items], shipped.tokenizer.pad_token_id),
            pixel_values=batch["pixel_values"],
            image_grid_thw=batch["image_grid_thw"],
            custom_generate=LookAgainDecoding(Trigger.of(shipped.tokenizer), POLICY),
            max_new_tokens=400,
            return_dict_in_generate=True,
        )
        with torch.no_grad():
            features = encode_images(model, batch["pixel_values"], batch["image_grid_thw"])
        for item, slots in zip(items, output.slots, strict=True):
            item.example.response_ids = slots.token_ids[slots.provenance == Provenance.SAMPLED].tolist()
        tag = ids[open_tag("REFLECTION")]
        found = select_visual_tokens(model, [item.example for item in items], features, tag)
        for item, rows, own, table in zip(items, found, output.reflections, features, strict=True):
            decoded = [list(reflection.visual_indices) for reflection in own]
            reflections += len(decoded)
            if rows != decoded:
                near += 1
                assert margin(model, item.example, table, tag) < NEAR
    assert reflections >= ANSWERS * 0.95
    print(f"{ANSWERS} answers, {reflections} reflections, {near} with rows that differ within {NEAR}")


def prompts(rows: list[list[int]], pad: int) -> dict[str, torch.Tensor]:
    """Prompts padded on the left."""
    longest = max(map(len, rows))
    ids = torch.tensor([[pad] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    return {"input_ids": ids, "attention_mask": mask}


def margin(model, example, table, tag) -> float:
    """How far apart, at the first reflection, the last chosen and the first left-out score are."""
    family = find_family(model.config)
    builder = start_sequence(family, family.vision_tokens(model.config), example)
    for token in example.response_ids[: example.response_ids.index(tag)]:
        builder.add_token(token, Provenance.SAMPLED)
    with torch.no_grad(), recorded_attention(model):
        runner = Runner(model, [builder], [table], score_layers=range(model.config.get_text_config().num_hidden_layers))
        runner.prefill()
        scores = runner.scores(0).sort(descending=True).values
    k = POLICY.number_reinserted(len(scores))
    return float(scores[k - 1] - scores[k])
