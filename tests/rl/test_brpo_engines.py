"""BRPO with adapters, in two processes, and sharded: the same figures as whole, and the policy it is held near."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from look_again.data.source import Source
from look_again.loading import default_checkpoint
from look_again.rl.brpo import SECONDS, Run
from look_again.rl.brpo_config import BrpoConfig
from look_again.rl.brpo_plan import as_text, plan_brpo
from look_again.training.batches import collate
from look_again.training.run_parts import Hardware, Lora
from look_again.yaml_config import ConfigError, build, with_keys
from tests.training.launching import launch

SETTINGS = {
    "steps": 3,
    "questions": 1,
    "group": 4,
    "max_new_tokens": 40,
    "temperature": 1.5,
    "balance_tokens": 30,
    "learning_rate": 3e-4,
    "micro_batch": 2,
    "save_steps": 2,
    "reattention": "copy",
}


def config(folder, **changes) -> BrpoConfig:
    source = Source(loader="tabletop", path="3:20")
    settings = {"output": str(folder), "base": str(default_checkpoint()), "data": (source,), **SETTINGS, **changes}
    return build(BrpoConfig, settings, "recipe")


def test_adapters_need_no_copy_of_the_start(tmp_path):
    """Would catch a reference that moves with the policy, and one that stays switched on."""
    run = Run(config(tmp_path, trains="lora", lora=Lora(rank=4, alpha=8), learning_rate=1e-2))
    assert run.reference.copy is None
    rollouts = run.sample(run.samples[:1], seed=1)
    batch = {k: v for k, v in collate([r.item for r in rollouts]).items() if k != "labels"} | {"log_probs": True}
    with torch.no_grad():
        first = torch.cat(run.inner(**batch))
    logs = [run.step(step) for step in range(3)]
    with torch.no_grad():
        now = torch.cat(run.inner(**batch))
    after = torch.cat(run.reference.log_probs(run.module, run.inner, batch))
    assert logs[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert logs[-1]["kl"] > 1e-6
    assert float((now - first).abs().max()) > 1e-3
    assert float((after - first).abs().max()) < 1e-5


def train(folder: Path, engine: str) -> tuple[list[dict], Path]:
    """The log of two processes, and their result."""
    folder.mkdir()
    settings = SETTINGS | {
        "output": str(folder / "run"),
        "base": str(default_checkpoint()),
        "data": [{"loader": "tabletop", "path": "3:20"}],
    }
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(settings))
    launch(["train", "brpo", "--config", str(recipe)], engine, Path(__file__).with_name("brpo_on_sharded_cpus.py"))
    lines = (json.loads(line) for line in (folder / "run" / "log.jsonl").read_text().splitlines())
    log = [{name: value for name, value in line.items() if name not in SECONDS} for line in lines]
    return log, folder / "run" / "final" / "model.safetensors"


def test_sharded_processes_do_what_whole_ones_do(tmp_path):
    """Would catch collectives out of step while sampling, stale shards, and gradients summed instead of averaged."""
    whole, weights = train(tmp_path / "ddp", "ddp")
    sharded, others = train(tmp_path / "fsdp2", "fsdp2")
    assert [entry["step"] for entry in whole] == [1, 2, 3]
    for one, other in zip(whole, sharded, strict=True):
        assert other == pytest.approx(one, abs=1e-4, rel=1e-3)
    expected, found = load_file(weights), load_file(others)
    assert max(float((expected[name] - found[name]).abs().max()) for name in expected) <= 1e-3


def test_the_plan_counts_what_brpo_adds(tmp_path):
    """Worked by hand for the 7B: 8.29e9 weights of 2 bytes are 16.6 GB of reference; 313 x 32 / 10,016 is one epoch."""
    source = Source(loader="math", path="math", limit=10016)
    settings = with_keys(
        config(tmp_path),
        base="not/made/yet",
        data=(source,),
        steps=313,
        questions=4,
        group=8,
        max_new_tokens=1024,
        bf16=True,
        gradient_checkpointing=True,
        hardware=Hardware(gpus=8, memory_gb=80, engine="zero3", shapes="Qwen/Qwen2.5-VL-7B-Instruct"),
    )
    made = plan_brpo(settings)
    assert made.memory_gb["reference"] == pytest.approx(16.58, abs=0.01)
    assert "313 of 32 questions x 8 answers (1.00 epochs)" in as_text(settings, made)
    adapters = with_keys(settings, trains="lora", micro_batch=1)
    assert plan_brpo(adapters).memory_gb["reference"] == 0
    with pytest.raises(ConfigError, match="needs about"):
        plan_brpo(dataclasses.replace(settings, hardware=dataclasses.replace(settings.hardware, memory_gb=24)))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"rollouts": "guessing"}, "guessing"),
        ({"rollouts": "vllm"}, "vllm_url"),
        ({"rollouts": "vllm", "vllm_url": []}, "vllm_url"),
        ({"vllm_url": "http://localhost:1"}, "vllm_url"),
        (
            {"rollouts": "vllm", "vllm_url": "http://localhost:1", "reattention": "vision"},
            "vision",
        ),
        ({"rollouts": "vllm", "vllm_url": "http://localhost:1", "reattention": "text", "trains": "lora"}, "lora"),
    ],
)
def test_rollouts_that_cannot_be_had_are_refused(tmp_path, changes, named):
    with pytest.raises(ConfigError, match=named):
        config(tmp_path, **changes)


def test_a_vllm_server_that_is_not_there_is_named_before_the_model_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr("look_again.rl.brpo.run_base", lambda config: pytest.fail("the model was loaded"))
    with pytest.raises(ValueError, match="localhost:1"):
        Run(config(tmp_path, rollouts="vllm", vllm_url="http://localhost:1", reattention="text"))
