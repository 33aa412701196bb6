"""Models whose attention on visual tokens is not measured: COPY alone, and ROUTE refused by name."""

from __future__ import annotations

import pytest
import torch

from look_again.core.attention import recorded_attention
from look_again.core.families import check_ranking, find_family
from look_again.core.generate import LookAgainDecoding
from look_again.core.reattention import Reattention
from look_again.core.trigger import Trigger
from tests.tiny_families import CLOSE, OPEN, TinyFamily, internvl

MESSAGE = r"internvl with gpt_oss as language model: its attention has sinks.*ask for copy"


@pytest.fixture(scope="module")
def tiny() -> TinyFamily:
    """InternVL 3.5's largest shapes: GPT-OSS, with sinks."""
    shapes = {"head_dim": 8, "num_local_experts": 2, "num_experts_per_tok": 1, "sliding_window": 8}
    return internvl("gpt_oss", "eager", **shapes)


def decode(tiny: TinyFamily, policy: Reattention) -> torch.Tensor:
    ids = torch.tensor([[3, 4, *tiny.block(0), 5, 6, 7]])
    decoding = LookAgainDecoding(Trigger(OPEN, CLOSE), policy)
    return tiny.model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        custom_generate=decoding,
        max_new_tokens=6,
        **tiny.pixels([0]),
    )


def test_copy_is_decoded(tiny):
    """Would catch a refusal of the whole family."""
    assert find_family(tiny.model.config).model_type == "internvl"
    assert decode(tiny, Reattention(mode="copy")).shape[-1] > 9
    decode(tiny, Reattention(mode="route", keep=100))  # which ranks nothing


def test_route_is_refused_with_the_reason(tiny):
    """Would catch a ranking that leaves out what the sinks take."""
    with pytest.raises(ValueError, match=MESSAGE):
        decode(tiny, Reattention(mode="route", keep=50))
    with pytest.raises(ValueError, match=MESSAGE), recorded_attention(tiny.model):
        pass
    with pytest.raises(ValueError, match=MESSAGE):
        check_ranking(tiny.model.config)
    check_ranking(internvl().model.config)
