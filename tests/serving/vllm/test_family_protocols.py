"""What a vLLM server is sent for families that cut images into tiles, and which families it is not asked about."""

from __future__ import annotations

import base64
from types import SimpleNamespace

import msgpack
import pytest
from PIL import Image

from look_again.clients.sequence_requests import STRIP_FAMILIES
from look_again.core.families import FAMILIES
from look_again.core.inputs import process_images
from look_again.core.reattention import Reattention
from look_again.core.sequence import Reflection
from look_again.core.trigger import Trigger
from look_again.model import Sampling
from look_again.serving.backend import RefusedError
from look_again.serving.prompt import EncodedPrompt
from look_again.serving.vllm.family_protocols import PROTOCOLS, SERVED, UNSERVED, PackedImages
from look_again.serving.vllm.served_model import ServedModel
from look_again.serving.vllm.token_requests import build_tensor_request, find_image_runs
from look_again.serving.vllm.vllm_backend import VllmBackend, check_policy
from tests.core.test_layouts import processor
from tests.tiny_families import CLOSE, OPEN, TINY_FAMILIES

TILED = [name for name, protocol in PROTOCOLS.items() if protocol.packing is not None and FAMILIES[name].is_served]
SIZES = [(16, 16), (64, 24), (41, 40)]


def test_every_family_is_served_or_refused_with_a_reason():
    """Would catch a family that is taken and never was tried."""
    assert set(SERVED) | set(UNSERVED) == set(FAMILIES)
    assert not set(SERVED) & set(UNSERVED)


@pytest.mark.parametrize("name", sorted(UNSERVED))
def test_a_family_that_vllm_does_not_serve_is_refused_before_anything_is_asked(name):
    checkpoint = SimpleNamespace(family=FAMILIES[name], model=None)
    with pytest.raises(ValueError, match=f"{name}.*not served by vLLM: .*start without --backend vllm") as error:
        VllmBackend(checkpoint, ["http://127.0.0.1:1"], SimpleNamespace())
    assert UNSERVED[name] in str(error.value)


@pytest.mark.parametrize("name", sorted(set(SERVED) - STRIP_FAMILIES))
@pytest.mark.parametrize("policy", [Reattention(mode="route"), Reattention(layout="strip")], ids=["route", "strip"])
def test_what_a_family_cannot_have_there_is_refused(name, policy):
    """Would catch features in a form that a family's code on the other side takes for something else."""
    checkpoint = SimpleNamespace(family=FAMILIES[name], model=object(), trained=True)
    with pytest.raises(RefusedError, match=f"{name} cannot be chosen on vLLM: ask for copy"):
        check_policy(policy, checkpoint, chat=False)
    check_policy(Reattention(mode="copy"), checkpoint, chat=False)


@pytest.mark.parametrize("delimiters", [True, False])
@pytest.mark.parametrize("name", TILED)
def test_a_request_holds_the_tensors_of_every_run_of_visual_tokens(name, delimiters, tokenizer):
    """Would catch a header that is taken for a visual token, tiles of another image, and an image put back in part."""
    config = TINY_FAMILIES[name]().model.config
    images = [Image.effect_noise(size, 90).convert("RGB") for size in SIZES]
    shown = process_images(processor(name), config, images)
    image = config.image_token_id
    blocks = [[2, 3, *[image] * count, 4] for count in shown.visual_token_counts]
    if name in ("smolvlm", "idefics3"):  # four tokens a tile, a header before each
        blocks = [[2, 3, *([image] * 4 + [2, 3]) * (count // 4), 4] for count in shown.visual_token_counts]
    ids = [5, *[token for block in blocks for token in (*block, 6)]]
    prompt = EncodedPrompt(ids, shown.grids, shown.tensors)
    served, checkpoint = ServedModel(config, frozenset()), SimpleNamespace(family=FAMILIES[name], tokenizer=tokenizer)
    policy = Reattention(mode="copy", delimiters=delimiters)
    sequence = served.begin(checkpoint, prompt, policy, Trigger(OPEN, CLOSE), sampling=Sampling(max_new_tokens=9))
    every = tuple(range(prompt.visual_tokens))
    parts = [(span, list(range(span.count))) for span in sequence.shown]
    sequence.builder.insert(parts, delimiters=delimiters)
    sequence.reflections.append(Reflection("copy", every))

    packed = PackedImages(PROTOCOLS[name].packing, config, shown.tensors, prompt.visual_tokens)
    body = build_tensor_request(sequence, packed).body
    places = [
        slot
        for place in body["features"]["mm_placeholders"]["image"]
        for slot in range(place["offset"], place["offset"] + place["length"])
    ]
    assert body["token_ids"] == sequence.builder.token_ids
    assert places == [slot for slot, token in enumerate(body["token_ids"]) if token == image]
    runs, data = find_image_runs(sequence), body["features"]["kwargs_data"]["image"]
    sent = [msgpack.unpackb(base64.b64decode(item)) for item in data]
    tiles = [item["pixel_values"]["data"][1][0] for item in sent]
    if name != "llava_onevision":  # an item's tiles give the visual tokens of its run
        assert [count * 4 for count in tiles] == [run.length for run in runs]
    half = len(data) // 2
    if delimiters:
        assert data[:half] == data[half:]
    assert len(set(body["features"]["mm_hashes"]["image"])) == len(set(data))
