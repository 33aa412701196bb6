"""A real vLLM server samples what the loss pass computes, before and after it has read other weights.

LOOKAGAIN_VLLM_PYTHON=/path/to/env/bin/python python -m pytest -s soak/test_vllm_rollouts.py

The server needs an environment of its own with vLLM 0.32; LOOKAGAIN_VLLM_PYTHONPATH is what its PYTHONPATH has to be,
where it needs one. It serves the shipped tiny model in float32, on a CPU where there is no GPU.
"""

from __future__ import annotations

import copy
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import numpy as np
import pytest
import torch
from PIL import Image

from lookagain.chat import left_padded
from lookagain.data.rows import Row
from lookagain.data.tabletop import row_of
from lookagain.decoding import LookAgainDecoding
from lookagain.families import family_of
from lookagain.loading import default_checkpoint, load_checkpoint
from lookagain.reattention import Reattention
from lookagain.rl.rollouts import Rollout
from lookagain.rl.vllm import VllmServer, stop_ids
from lookagain.tabletop.rows import make_row
from lookagain.training.items import Codec, collate
from lookagain.training.module import Reattending
from lookagain.trigger import Trigger

TEXT = Reattention(mode="text")
TOLERANCE = 1e-3  # of log-probabilities
START_SECONDS = 1800  # it takes 30 on idle cores; a server that dies is noticed at once
OPTIONS = (
    *("--dtype", "float32", "--max-model-len", "1024", "--max-num-seqs", "16", "--enforce-eager", "--block-size", "32"),
    *("--enable-scale-out", "--logprobs-mode", "processed_logprobs", "--host", "127.0.0.1"),
)
SETTINGS = {
    "VLLM_SERVER_DEV_MODE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_HOST_IP": "127.0.0.1",
    "GLOO_SOCKET_IFNAME": "lo",
    "HF_HUB_OFFLINE": "1",
}


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def is_up(url: str) -> bool:
    try:
        with urlopen(f"{url}/health", timeout=5):
            return True
    except (URLError, OSError):
        return False


def stop(server: subprocess.Popen) -> None:
    """And its workers."""
    os.killpg(server.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        server.wait(60)
    with suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()


@pytest.fixture(scope="module")
def url(tmp_path_factory) -> Iterator[str]:
    """Of a server in a process group of its own. Without one these tests fail: they check nothing else."""
    python = os.environ.get("LOOKAGAIN_VLLM_PYTHON")
    if not python:
        pytest.fail("set LOOKAGAIN_VLLM_PYTHON to the python of an environment with vLLM 0.32")
    port, log = free_port(), tmp_path_factory.mktemp("vllm") / "out.txt"
    command = [str(Path(python).with_name("vllm")), "serve", str(default_checkpoint()), "--port", str(port), *OPTIONS]
    environment = {**os.environ, **SETTINGS, "PYTHONPATH": os.environ.get("LOOKAGAIN_VLLM_PYTHONPATH", "")}
    with log.open("w") as out:
        server = subprocess.Popen(command, env=environment, stdout=out, stderr=out, start_new_session=True)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not is_up(f"http://127.0.0.1:{port}"):
            assert server.poll() is None, log.read_text()[-4000:]
            assert time.monotonic() < deadline, f"vLLM is not up after {START_SECONDS} s: {log.read_text()[-4000:]}"
            time.sleep(1)
        yield f"http://127.0.0.1:{port}"
    finally:
        stop(server)


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
    tabletop = [row_of(make_row("train", 1, i), "train") for i in range(4)]
    two = (Image.fromarray(pixels), tabletop[0].images[0])
    return [
        *tabletop,
        Row(id="none", question="How many red cubes are there?", source="s"),
        Row(id="two", question="Where is the cone?", images=two, source="s"),
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


def greedy(server: VllmServer, codec: Codec, rows: Sequence[Row]) -> list[list[int]]:
    found = server.sample_groups(codec, rows, TEXT, group=1, max_new_tokens=120, temperature=0.0)
    return [rollout.completion_ids for rollout in found]


@torch.no_grad()
def greedy_here(model: Any, codec: Codec, rows: Sequence[Row]) -> list[list[int]]:
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
    assert all(len({tuple(r.completion_ids) for r in first[i : i + 4]}) > 1 for i in range(0, len(first), 4))
    other = server.sample_groups(codec, rows, TEXT, **ask, seed=2)
    assert [rollout.completion_ids for rollout in first] != [rollout.completion_ids for rollout in other]


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
    model, tokens = copy.deepcopy(start.model), family_of(start.model.config).vision_tokens(start.model.config)
    with torch.no_grad():
        table = model.get_input_embeddings().weight
        table[tokens.video] = table[codec.tag_ids["<SUMMARY>"]]
    server.push_weights(model, tmp_path / "weights")
    found = server.sample_groups(codec, rows[:4], TEXT, group=16, max_new_tokens=4)
    assert not {token for rollout in found for token in rollout.completion_ids} & set(tokens.never_sampled)
    assert difference(model, codec, found, 1.0) <= TOLERANCE
    assert all(rollout.log_probs[0] > np.log(0.9) for rollout in found)  # half without the ban
