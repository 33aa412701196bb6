"""Dry runs: counts from shapes, and a refusal of what cannot fit."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from look_again.commands.main import main
from look_again.data.source import Source
from look_again.training.run_parts import Hardware
from look_again.training.sft_config import SftConfig, build_stage, load_config
from look_again.training.sft_plan import as_text, plan
from look_again.yaml_config import ConfigError, with_keys

RECIPES = Path(__file__).parents[2] / "recipes"


def test_the_papers_recipe_fits_its_hardware():
    """8.3 billion parameters, untied head; 28 layers of 233.1 million and the norm and twice ten tag rows train."""
    made = plan(load_config(RECIPES / "paper" / "sft_copy.yaml"))[0]
    layer = 3584 * (3584 + 512 + 512 + 3584) + (3584 + 512 + 512) + 3 * 3584 * 18944 + 2 * 3584
    assert made.trainable == 28 * layer + 3584 + 2 * 10 * 3584
    assert 8.2e9 < made.parameters < 8.4e9
    assert made.steps == 13 * 40000 // 64
    assert 20 < made.total_gb < 76


def test_what_cannot_fit_is_refused_with_advice():
    """Would catch a plan that lets a run start and die of memory an hour later."""
    config = load_config(RECIPES / "paper" / "sft_copy.yaml")
    with pytest.raises(ConfigError, match=r"GB per GPU.*optimizer.*shard over more GPUs"):
        plan(dataclasses.replace(config, hardware=Hardware(gpus=1, memory_gb=80)))


def test_lora_fits_a_small_card_and_full_training_does_not():
    config = load_config(RECIPES / "lora_24gb" / "sft_copy.yaml")
    assert plan(config)[0].total_gb < 24
    stages = tuple(with_keys(stage, trains="language_model") for stage in config.stages)
    with pytest.raises(ConfigError, match="24 GB"):
        plan(dataclasses.replace(config, stages=stages))


def test_rows_are_counted_where_they_are(tmp_path):
    data = tmp_path / "rows.jsonl"
    data.write_text('{"id": 1}\n{"id": 2}\n\n{"id": 3}\n')
    source = Source(loader="jsonl", path=str(data))
    stage = build_stage(name="s", task="rows", data=(source,), epochs=4, batch=2)
    assert [(p.rows, p.steps) for p in plan(SftConfig(output="x", stages=(stage,)))] == [(3, 8)]
    missing = with_keys(stage, data=(Source(loader="jsonl", path=str(tmp_path / "none.jsonl")),))
    made = plan(SftConfig(output="x", stages=(missing,)))
    assert made[0].steps is None
    assert "unknown" in as_text(SftConfig(output="x", stages=(missing,)), made)


def test_a_base_out_of_reach_is_named():
    stage = build_stage(name="s", task="answers", steps=1)
    with pytest.raises(ConfigError, match="nobody/nothing"):
        plan(SftConfig(output="x", stages=(stage,), base="nobody/nothing"))


def test_the_command_prints_the_plan(capsys):
    path = str(RECIPES / "paper" / "sft_route.yaml")
    assert main(["train", "sft", "--config", path, "--dry-run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["hardware"] == {"gpus": 8, "memory_gb": 80, "engine": "zero3", "shapes": None}
    assert found["stages"][0]["steps"] == 8125
    assert main(["train", "sft", "--config", path, "--dry-run"]) == 0
    assert "memory per GPU" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["tiny", "cold_start", "sft_copy"])
def test_a_recipe_for_a_cpu_is_planned_on_one(name, monkeypatch, capsys):
    """Would catch a plan of GPUs that nobody has, and one that a laptop's memory refuses."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.chdir(RECIPES.parent)
    config = load_config(RECIPES / "tabletop" / f"{name}.yaml")
    assert config.hardware.gpus == 0
    config = dataclasses.replace(config, base=None, hardware=dataclasses.replace(config.hardware, memory_gb=8))
    text = as_text(config, plan(config))
    assert "on a CPU with 8 GB" in text
    assert "GPU" not in text


def test_logits_are_planned_by_the_chunk(tmp_path):
    """By hand: 1,000 targets x 152,064 logits x 12 bytes are 1.8 GB; ZeRO-3 takes them whole."""
    config = load_config(RECIPES / "paper" / "sft_copy.yaml")
    chunked = with_keys(config.stages[0], loss_chunk=1000)
    fsdp2 = dataclasses.replace(config.hardware, engine="fsdp2")
    made = plan(dataclasses.replace(config, stages=(chunked,), hardware=fsdp2))[0]
    assert made.memory_gb["logits"] == pytest.approx(1000 * 152064 * 12 / 1e9)
    assert plan(config)[0].memory_gb["logits"] == pytest.approx(4096 * 152064 * 12 / 1e9)
