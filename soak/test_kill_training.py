"""A training run killed at ten random moments and started again each time ends as an undisturbed one.

python -m pytest soak/test_kill_training.py
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

KILLS = 10
STEPS = 60
RECIPE = """output: {output}
seed: 5
workers: 0
log_steps: 1
save_steps: 4
tiny: {{hidden: 64, layers: 2, heads: 2, kv_heads: 1, mlp: 96, vision_hidden: 32, vision_layers: 2, vision_heads: 2,
  vision_mlp: 64, full_attention_layers: [1]}}
stages:
  - {{name: sft, task: answers, steps: {steps}, batch: 4, trains: language_model, warmup_steps: 2,
     learning_rate: 3.0e-3, modes: {{route: 1, copy: 1, text: 1}}, error_rate: 0.2}}
"""


def start(folder: Path) -> subprocess.Popen:
    """The same command each time, in a process group of its own."""
    folder.mkdir(exist_ok=True)
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE.format(output=folder / "run", steps=STEPS))
    command = [sys.executable, "-m", "lookagain", "train", "sft", "--config", str(recipe)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with (folder / "out.txt").open("a") as out:
        return subprocess.Popen(command, env=environment, stdout=out, stderr=out, start_new_session=True)


def losses(folder: Path) -> list[tuple[int, float]]:
    """What the log says, a line that is being written left out."""
    path, found = folder / "run" / "sft" / "log.jsonl", []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            entry = json.loads(line)
            found.append((entry["step"], entry["loss"]))
        except ValueError:
            continue
    return found


def wait_for(folder: Path, step: int, process: subprocess.Popen) -> None:
    """Until the log reaches `step`; an error of the run is an error of the test."""
    deadline = time.monotonic() + 300
    while max((s for s, _ in losses(folder)), default=0) < step:
        assert process.poll() is None, (folder / "out.txt").read_text()[-4000:]
        assert time.monotonic() < deadline, "the run does not move"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    process = start(folder)
    assert process.wait(600) == 0, (folder / "out.txt").read_text()[-4000:]
    return folder


def test_killed_ten_times(undisturbed, tmp_path):
    chance, seen, redone = random.Random(11), {}, 0
    for kill in range(KILLS):
        process = start(tmp_path)
        reached = max((s for s, _ in losses(tmp_path)), default=0)
        wait_for(tmp_path, min(reached + chance.randint(1, 7), STEPS - 2 * (KILLS - kill)), process)
        time.sleep(chance.random() * 0.6)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for step, loss in losses(tmp_path):
            redone += step in seen
            assert abs(seen.setdefault(step, loss) - loss) <= 1e-6, f"step {step} was redone with another loss"
    process = start(tmp_path)
    assert process.wait(600) == 0, (tmp_path / "out.txt").read_text()[-4000:]
    merged, expected = losses(tmp_path), losses(undisturbed)
    assert [step for step, _ in merged] == list(range(1, STEPS + 1))
    assert all(abs(seen.get(step, loss) - loss) <= 1e-6 for step, loss in merged)
    assert max(abs(a - b) for (_, a), (_, b) in zip(merged, expected, strict=True)) <= 1e-6
    final = [load_file(folder / "run" / "sft" / "final" / "model.safetensors") for folder in (undisturbed, tmp_path)]
    assert max(float((final[0][name] - final[1][name]).abs().max()) for name in final[0]) <= 1e-6
    print(f"{KILLS} kills, {len(merged)} steps, {redone} log lines read again after a kill, all losses equal to 1e-6")
