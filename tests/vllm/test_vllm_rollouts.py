"""A real vLLM server samples what the loss pass computes, before and after it has read other weights.

LOOK_AGAIN_VLLM_PYTHON=/path/to/env/bin/python python -m pytest -s tests/vllm/test_vllm_rollouts.py

The server is that of `vllm_server.py`.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import pytest
import torch
from PIL import Image

from look_again.bench.vllm_process import VllmProcess
from look_again.core.families import find_family
from look_again.core.generate import LookAgainDecoding
from look_again.core.inputs import left_padded
from look_again.core.reattention import Reattention
from look_again.core.trigger import Trigger
from look_again.data.sample import Sample
from look_again.data.source import Source
from look_again.loading import default_checkpoint, load_checkpoint
from look_again.rl.brpo import train_brpo
from look_again.rl.brpo_config import BrpoConfig
from look_again.rl.rollouts import Rollout
from look_again.rl.vllm_rollouts import VllmRollouts, VllmServer, VllmServers, stop_ids
from look_again.tabletop.loader import build_sample
from look_again.tabletop.samples import make_sample
from look_again.training.batches import Codec, collate
from look_again.training.module import Reattending
from look_again.yaml_config import build
from tests.vllm.vllm_server import vllm_server

TEXT, COPY = Reattention(mode="text"), Reattention(mode="copy")
ROUTE = Reattention(mode="route", layout="strip")
TOLERANCE = 1e-3  # of log-probabilities


def rollout_server(folder: Path) -> AbstractContextManager[VllmProcess]:
    options, settings = ("--logprobs-mode", "processed_logprobs", "--enable-mm-embeds"), {"VLLM_SERVER_DEV_MODE": "1"}
    return vllm_server(folder, options, settings)


@pytest.fixture(scope="module")
def url(tmp_path_factory) -> Iterator[str]:
    with rollout_server(tmp_path_factory.mktemp("vllm")) as server:
        yield server.url


@pytest.fixture(scope="module")
def start():
    return load_checkpoint(None, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def codec(start):
    return Codec.of(start.model.config, start.tokenizer, start.image_processor)


@pytest.fixture
def server(url, start, tmp_path):
    """With the shipped weights, whatever an earlier test left in it."""
    server = VllmServer(url, timeout=300, stop_token_ids=stop_ids(start.model))
    server.push_weights(start.model, tmp_path / "start")
    return server


@pytest.fixture(scope="module")
def rows():
    """Tabletop's rows, one without a picture, one with two, of which one has to be scaled."""
    pixels = np.random.default_rng(0).integers(0, 256, (97, 97, 3), dtype=np.uint8)
    tabletop = [build_sample(make_sample("train", 1, i), "train") for i in range(4)]
    two = (Image.fromarray(pixels), tabletop[0].images[0])
    return [
        *tabletop,
        Sample(id="none", question="How many red cubes are there?", source="s"),
        Sample(id="two", question="Where is the cone?", images=two, source="s"),
    ]


def changed(model: Any, scale: float = 0.02) -> Any:
    """A copy with every weight moved."""
    other, generator = copy.deepcopy(model), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * scale)
    return other


@torch.no_grad()
def difference(model: Any, codec: Codec, rollouts: Sequence[Rollout], temperature: float) -> float:
    """Largest, between the log-probabilities of the loss pass and those that the server drew from."""
    batch = {k: v for k, v in collate([rollout.item for rollout in rollouts]).items() if k != "labels"}
    ours = Reattending(model, codec.tag_ids).eval()(**batch, log_probs=True, temperature=temperature)
    served = [torch.tensor(rollout.log_probs) for rollout in rollouts]
    return max(float((a - b).abs().max()) for a, b in zip(ours, served, strict=True))


def greedy(server: VllmRollouts, codec: Codec, rows: Sequence[Sample]) -> list[list[int]]:
    found = server.sample_groups(codec, rows, TEXT, group=1, max_new_tokens=120, temperature=0.0)
    return [rollout.completion_ids for rollout in found]


@torch.no_grad()
def greedy_here(model: Any, codec: Codec, rows: Sequence[Sample]) -> list[list[int]]:
    """By the decoding loop."""
    answers = []
    for row in rows:
        item = codec.item(row, TEXT)
        inputs = left_padded([item.example.prompt_ids], codec.tokenizer, "cpu")
        if item.pixel_values is not None:
            inputs |= {"pixel_values": item.pixel_values, "image_grid_thw": item.image_grid_thw}
        decoding = LookAgainDecoding(Trigger.of(codec.tokenizer), TEXT)
        ids = model.generate(**inputs, custom_generate=decoding, do_sample=False, max_new_tokens=120)
        answers.append(ids[0, len(item.example.prompt_ids) :].tolist())
    return answers


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_server_samples_from_what_the_loss_pass_computes(server, start, codec, rows, temperature):
    """Would catch other pixels, positions, a top-k, a penalty or a temperature that is applied once too often."""
    ask = {"group": 4, "max_new_tokens": 250, "temperature": temperature}
    first = server.sample_groups(codec, rows, TEXT, **ask, seed=1)
    found = difference(start.model, codec, first, temperature)
    tokens = sum(len(rollout.completion_ids) for rollout in first)
    finished = sum(rollout.finished for rollout in first)
    print(f"temperature {temperature}: {len(first)} answers, {finished} finished, {tokens} tokens, within {found:.1e}")
    assert found <= TOLERANCE
    assert finished > 0
    assert all(rollout.completion_ids[-1] in stop_ids(start.model) for rollout in first if rollout.finished)
    groups = [{tuple(rollout.completion_ids) for rollout in first[i : i + 4]} for i in range(0, len(first), 4)]
    assert any(len(group) > 1 for group in groups)  # of some questions the model is sure
    other = server.sample_groups(codec, rows, TEXT, **ask, seed=2)
    assert [rollout.completion_ids for rollout in first] != [rollout.completion_ids for rollout in other]


@pytest.mark.parametrize("policy", [COPY, ROUTE], ids=["copy", "route"])
def test_answers_that_look_again_are_what_the_loss_pass_computes(server, start, codec, policy):
    """Would catch an image that the server puts back at other positions, or sees otherwise the second time."""
    rows = [build_sample(make_sample("train", 3, i), "train") for i in range(14)]
    found = server.sample_groups(codec, rows, policy, group=4, max_new_tokens=320, seed=5, model=start.model)
    looked = [rollout for rollout in found if any(rollout.example.chosen)]
    looks = sum(bool(chosen) for rollout in looked for chosen in rollout.example.chosen)
    largest = max(difference(start.model, codec, looked[i : i + 8], 1.0) for i in range(0, len(looked), 8))
    print(f"{len(looked)} of {len(found)} answers looked again, {looks} times, within {largest:.1e}")
    assert len(looked) >= 50
    assert largest <= TOLERANCE


@pytest.mark.parametrize("policy", [COPY, ROUTE], ids=["copy", "route"])
def test_brpo_goes_by_answers_that_look_again(server, url, start, codec, rows, tmp_path, policy):
    """Three optimizer steps whose rollouts are the server's, which then answers with the weights that came of them."""
    settings = {"steps": 3, "questions": 4, "group": 4, "max_new_tokens": 250, "temperature": 1.2, "balance_tokens": 30}
    training = {"learning_rate": 1e-3, "micro_batch": 4, "save_steps": 3, "trains": "without_vision"}
    served = {"reattention": policy.mode, "rollouts": "vllm", "vllm_url": [url]}
    places = {"output": str(tmp_path / "run"), "base": str(default_checkpoint())}
    source = Source(loader="tabletop", path="3:20")
    final = train_brpo(build(BrpoConfig, {**places, "data": (source,), **settings, **training, **served}, "recipe"))
    steps = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    print("\n".join(f"step {step['step']}: loss {step['loss']:.2e}, reward {step['reward']:.2f}" for step in steps))
    assert [step["step"] for step in steps] == [1, 2, 3]
    trained = load_checkpoint(str(final), device="cpu", dtype="float32").model
    before = greedy(server, codec, rows)
    server.push_weights(trained, tmp_path / "trained")
    after = greedy(server, codec, rows)
    assert after == greedy_here(trained, codec, rows)
    assert after != before
    found = server.sample_groups(codec, rows, policy, group=4, max_new_tokens=250, seed=9, model=trained)
    assert any(any(rollout.example.chosen) for rollout in found)
    assert difference(trained, codec, found, 1.0) <= TOLERANCE


def count_answered(url: str) -> float:
    """Requests that a server has answered so far, by its own count."""
    lines = urlopen(f"{url}/metrics", timeout=60).read().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("vllm:request_success_total{"))


def test_two_servers_share_the_work_and_have_the_same_weights(url, start, codec, tmp_path):
    """Would catch a server with old weights or without work, and answers that come back in another order."""
    rows = [build_sample(make_sample("train", 5, i), "train") for i in range(12)]
    model = changed(start.model, 0.005)
    with rollout_server(tmp_path) as second:
        urls = [url, second.url]
        servers = VllmServers.at(urls, stop_ids(start.model))
        servers.check()
        servers.push_weights(model, tmp_path / "weights")
        assert greedy(servers, codec, rows) == greedy_here(model, codec, rows)
        for policy in (TEXT, COPY, ROUTE):
            before = [count_answered(each) for each in urls]
            found = servers.sample_groups(codec, rows, policy, group=4, max_new_tokens=250, seed=11, model=model)
            shares = [count_answered(each) - count for each, count in zip(urls, before, strict=True)]
            largest = difference(model, codec, found, 1.0)
            looks = sum(bool(chosen) for rollout in found for chosen in rollout.example.chosen)
            print(f"{policy.mode}: {len(found)} answers, {looks} looks, requests {shares}, within {largest:.1e}")
            assert [rollout.sample.id for rollout in found] == [row.id for row in rows for _ in range(4)]
            assert largest <= TOLERANCE
            assert min(shares) >= max(shares) / 3
            assert bool(looks) == policy.inserts


@pytest.mark.parametrize("asleep", [False, True])
def test_pushed_weights_answer(server, start, codec, rows, tmp_path, asleep):
    """Would catch weights, a tied head, a prefix or a picture's features that stay as they were."""
    before, model = greedy(server, codec, rows), changed(start.model)
    assert before == greedy_here(start.model, codec, rows)
    if asleep:
        server.sleep()
    began = time.perf_counter()
    server.push_weights(model, tmp_path / "weights")
    seconds, after = time.perf_counter() - began, greedy(server, codec, rows)
    assert after == greedy_here(model, codec, rows)
    different = sum(a != b for a, b in zip(before, after, strict=True))
    assert different >= len(rows) // 2
    found = difference(model, codec, server.sample_groups(codec, rows, TEXT, group=4, max_new_tokens=100), 1.0)
    print(f"{different} of {len(rows)} greedy answers changed, pushed in {seconds:.2f} s, within {found:.1e}")
    assert found <= TOLERANCE


def test_vision_tokens_are_never_sampled(server, start, codec, rows, tmp_path):
    """With weights that would: the video token, which no prompt holds, has the row of the tag that opens answers."""
    model, tokens = copy.deepcopy(start.model), find_family(start.model.config).vision_tokens(start.model.config)
    with torch.no_grad():
        table = model.get_input_embeddings().weight
        table[tokens.video] = table[codec.tag_ids["<SUMMARY>"]]
    server.push_weights(model, tmp_path / "weights")
    found = server.sample_groups(codec, rows[:4], TEXT, group=16, max_new_tokens=4)
    assert not {token for rollout in found for token in rollout.completion_ids} & set(tokens.never_sampled)
    assert difference(model, codec, found, 1.0) <= TOLERANCE
    assert all(rollout.log_probs[0] > np.log(0.9) for rollout in found)  # half without the ban
