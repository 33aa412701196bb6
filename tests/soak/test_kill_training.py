"""Training runs killed at random moments and started again each time end as undisturbed ones.

python -m pytest tests/soak/test_kill_training.py
"""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

from look_again.loading import default_checkpoint
from look_again.rl.brpo import SECONDS
from tests.soak.killing import finish, kill_at_random, read_log, start

SFT = """output: {output}
seed: 5
workers: 0
log_steps: 1
save_steps: 4
tiny: {{hidden: 64, layers: 2, heads: 2, kv_heads: 1, mlp: 96, vision_hidden: 32, vision_layers: 2, vision_heads: 2,
  vision_mlp: 64, full_attention_layers: [1]}}
stages:
  - {{name: sft, task: answers, steps: 60, batch: 4, trains: language_model, warmup_steps: 2,
     learning_rate: 3.0e-3, modes: {{route: 1, copy: 1, text: 1}}, error_rate: 0.2}}
"""
BRPO = """output: {output}
base: {base}
data: [{{loader: tabletop, path: "3:40"}}]
steps: 24
questions: 2
group: 4
max_new_tokens: 160
temperature: 1.2
balance_tokens: 30
learning_rate: 1.0e-4
reattention: copy
save_steps: 3
seed: 2
"""
RUNS = {  # method: recipe, its log, its result, steps, kills, most steps between kills, most seconds after a step
    "sft": (SFT, "sft/log.jsonl", "sft/final", 60, 10, 7, 0.6),
    "brpo": (BRPO, "log.jsonl", "final", 24, 5, 5, 3.0),
}


def prepare(folder: Path, method: str) -> tuple[tuple[str, ...], Path, Path]:
    """The command, its log and its result."""
    folder.mkdir(exist_ok=True)
    recipe, (text, log, result, *_) = folder / "recipe.yaml", RUNS[method]
    recipe.write_text(text.format(output=folder / "run", base=default_checkpoint()))
    return ("train", method, "--config", str(recipe)), folder / "run" / log, folder / "run" / result


def compared(entry: dict[str, float]) -> dict[str, float]:
    """What has to be the same when a step is made again."""
    return {name: value for name, value in entry.items() if name not in SECONDS}


@pytest.mark.parametrize("method", RUNS)
def test_killed_again_and_again(method, tmp_path):
    """Step, weights, optimizer, data order and sampling are restored, so every step is redone with the same figures."""
    *_, steps, kills, stride, wait = RUNS[method]
    arguments, log, final = prepare(tmp_path / "undisturbed", method)
    finish(tmp_path / "undisturbed", start(tmp_path / "undisturbed", *arguments))
    expected, weights = read_log(log), load_file(final / "model.safetensors")
    assert sorted(expected) == list(range(1, steps + 1))

    arguments, log, final = prepare(tmp_path / "killed", method)
    seen = kill_at_random(tmp_path / "killed", log, arguments, kills=kills, steps=steps, stride=stride, wait=wait)
    for found in (*seen, read_log(log)):
        for step, entry in found.items():
            assert compared(entry) == pytest.approx(compared(expected[step]), abs=1e-6), f"step {step}"
    assert sorted(read_log(log)) == list(range(1, steps + 1))
    result = load_file(final / "model.safetensors")
    assert max(float((weights[name] - result[name]).abs().max()) for name in weights) <= 1e-6
    again = sum(len(found) for found in seen) - len(set().union(*seen))
    print(f"{method}: {kills} kills, {steps} steps, {again} log lines seen by several runs, all figures equal to 1e-6")
