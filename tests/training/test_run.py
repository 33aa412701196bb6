"""Runs of a recipe: stages, resuming, what a finished run leaves behind."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import lookagain
from lookagain.tabletop.tiny import TinyConfig
from lookagain.training.config import ConfigError, SftConfig, Stage, load_config
from lookagain.training.run import last_complete_checkpoint, train
from lookagain.training.trainer import ReattentionTrainer

RECIPES = sorted(Path(__file__).parents[2].glob("recipes/**/*.yaml"))
TINY = TinyConfig(
    hidden=64, layers=2, heads=2, kv_heads=1, mlp=96, vision_hidden=32, vision_layers=2, vision_heads=2, vision_mlp=64,
    full_attention_layers=(1,),
)  # fmt: skip


def recipe(output: Path) -> SftConfig:
    stages = (
        Stage(name="vision", task="vision", steps=2, batch=4, warmup_steps=1),
        Stage(name="captions", task="captions", steps=2, batch=4, warmup_steps=1, modes={"text": 1.0}),
        Stage(
            name="answers",
            task="answers",
            steps=5,
            batch=6,
            warmup_steps=1,
            modes={"text": 1.0, "copy": 1.0, "route": 1.0},
            error_rate=0.3,
            freeze_vision=True,
        ),
    )
    return SftConfig(output=str(output), stages=stages, tiny=TINY, save_steps=1, log_steps=1, workers=0)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return train(recipe(tmp_path_factory.mktemp("run")))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_shipped_recipe_loads(path):
    assert load_config(path).stages


def test_a_finished_run_is_a_checkpoint_that_answers(undisturbed):
    looker = lookagain.load(undisturbed, device="cpu")
    assert looker.checkpoint.trained
    assert not looker.checkpoint.notes
    torch.manual_seed(0)
    answer = looker.ask([], "How many?", sampling=lookagain.Sampling(max_new_tokens=3))
    assert answer.tokens["sampled"] == 3


def test_frozen_vision_stays_bit_identical(undisturbed):
    before = load_file(undisturbed.parents[1] / "captions" / "final" / "model.safetensors")
    after = load_file(undisturbed / "model.safetensors")
    frozen = [name for name in before if ".visual." in name or name.startswith("visual")]
    assert frozen
    assert all(torch.equal(before[name], after[name]) for name in frozen)
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_an_interrupted_run_ends_as_an_undisturbed_one(undisturbed, tmp_path, monkeypatch):
    """Stopped in the third step of the last stage, with a half-written checkpoint left behind, and started again."""
    config, steps = recipe(tmp_path), []
    compute_loss = ReattentionTrainer.compute_loss

    def stop_in_step_five(self, *args, **kwargs):
        steps.append(1)
        if len(steps) == 2 + 3:
            raise KeyboardInterrupt
        return compute_loss(self, *args, **kwargs)

    monkeypatch.setattr(ReattentionTrainer, "compute_loss", stop_in_step_five)
    with pytest.raises(KeyboardInterrupt):
        train(config)
    (tmp_path / "answers" / "checkpoint-3").mkdir()
    monkeypatch.setattr(ReattentionTrainer, "compute_loss", compute_loss)
    final = train(config)
    expected, found = load_file(undisturbed / "model.safetensors"), load_file(final / "model.safetensors")
    worst = max(float((expected[name] - found[name]).abs().max()) for name in expected)
    assert worst <= 1e-6


def test_half_written_checkpoints_are_never_loaded(tmp_path):
    for step, state in ((9, "{}"), (10, "{"), (11, None)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        if state is not None:
            (folder / "trainer_state.json").write_text(state)
    assert last_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-9")
    assert last_complete_checkpoint(tmp_path / "nothing") is None


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("stages: []\noutput: x", "stages"),
        ("output: x\nstages: [{name: a, task: dance, steps: 1}]", "dance"),
        ("output: x\nstages: [{name: a, task: answers, steps: 1, modes: {mirror: 1}}]", "mirror"),
        ("output: x\nstages: [{name: a, task: answers, steps: 0}]", "steps"),
        ("output: x\ntiny: {hidden: 48, heads: 3}\nstages: [{name: a, task: vision, steps: 1}]", "head dimension"),
        ("output: x\nstages: [{name: a, task: answers, steps: 1, modes: {vision: 1}}]", "vision"),
        ("output: x\nstages: [{name: a, task: answers, steps: 1, learning_rate: 1e-3}]", "1.0e-3"),
        ("output: x\nstages: [{name: a, task: answers, steps: 1, keep: 150}]", "0..100"),
        ("output: x\nstages: 3", "stages is a list"),
        ("output: x\nstages:", "stages"),
        ("output: x\ntiny: 7\nstages: [{name: a, task: vision, steps: 1}]", "mapping"),
        ("- a list", "mapping"),
        ("output: [", "YAML"),
        ("stages: [{name: a, task: vision, steps: 1}]", "output"),
    ],
)
def test_bad_recipes_are_refused_before_anything_is_loaded(tmp_path, text, named):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=named):
        load_config(path)


def test_stage_names_must_differ():
    stage = Stage(name="a", task="vision", steps=1)
    with pytest.raises(ConfigError, match="names of their own"):
        SftConfig(output="x", stages=(stage, dataclasses.replace(stage)))
