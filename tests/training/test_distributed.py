"""Two processes on the CPU give the losses of one at equal global batch: DDP, and FSDP2 with its sharded checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.training.launching import ENGINES, launch

TINY = """
tiny: {hidden: 64, layers: 2, heads: 2, kv_heads: 1, mlp: 96, vision_hidden: 32, vision_layers: 2, vision_heads: 2,
  vision_mlp: 64, full_attention_layers: [1]}
"""
CHUNK = 40  # targets, in the runs of two processes: a step has hundreds
FSDP = Path(__file__).with_name("fsdp_on_cpus.py")


def write_recipe(folder: Path, batch: int, trains: str = "language_model", chunk: int | None = None) -> Path:
    """Four rows a step, of all modes, some of which need a ranking, so that processes differ in their passes."""
    path = folder / "recipe.yaml"
    path.write_text(
        f"""output: {folder / "run"}
seed: 3
workers: 0
log_steps: 1
save_steps: 3
{TINY}
stages:
  - {{name: sft, task: answers, steps: 5, batch: {batch}, trains: {trains}, warmup_steps: 1, learning_rate: 3.0e-3,
     loss_chunk: {chunk or "null"},
     modes: {{route: 2, copy: 1, text: 1}}, error_rate: 0.2}}
"""
    )
    return path


def train(folder: Path, batch: int, engine: str | None = None, trains: str = "language_model") -> list[dict]:
    """The log of a run of its own process or processes."""
    folder.mkdir(exist_ok=True)
    recipe = write_recipe(folder, batch, trains, chunk=None if engine is None else CHUNK)
    launch(["train", "sft", "--config", str(recipe)], engine, FSDP)
    return [json.loads(line) for line in (folder / "run" / "sft" / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    return train(folder, batch=4), folder / "run" / "sft" / "final" / "model.safetensors"


@pytest.mark.parametrize("engine", sorted(ENGINES))
def test_two_processes_give_the_losses_of_one(alone, tmp_path, engine):
    """Would catch losses averaged per process, rows that one process sees twice, and collectives out of step."""
    expected, weights = alone
    found = train(tmp_path, batch=2, engine=engine)
    assert [(entry["step"], entry["epoch"]) for entry in found] == [(i, i / 5) for i in range(1, 6)]
    assert max(abs(a["loss"] - b["loss"]) for a, b in zip(expected, found, strict=True)) <= 1e-5
    for name in ("loss_CAPTION", "loss_REFLECTION"):
        assert max(abs(a[name] - b[name]) for a, b in zip(expected, found, strict=True)) <= 1e-4
    old, new = load_file(weights), load_file(tmp_path / "run" / "sft" / "final" / "model.safetensors")
    assert old.keys() == new.keys()
    assert max(float((old[name] - new[name]).abs().max()) for name in old) <= 1e-3
    assert all(torch.equal(old[name], new[name]) for name in old if "visual" in name)


def test_a_sharded_run_goes_on_from_its_checkpoint(alone, tmp_path):
    """The last checkpoint (step 3) alone is left of a run; the rest is redone with the same losses."""
    import shutil

    first = train(tmp_path, batch=2, engine="fsdp2")
    shutil.rmtree(tmp_path / "run" / "sft" / "final")
    for checkpoint in (tmp_path / "run" / "sft").glob("checkpoint-5"):
        shutil.rmtree(checkpoint)
    assert (tmp_path / "run" / "sft" / "checkpoint-3" / "pytorch_model_fsdp_0").is_dir()
    again = train(tmp_path, batch=2, engine="fsdp2")
    assert [entry["step"] for entry in again] == [1, 2, 3, 4, 5]
    assert max(abs(a["loss"] - b["loss"]) for a, b in zip(first, again, strict=True)) <= 1e-6
