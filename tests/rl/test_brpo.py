"""Runs of BRPO: what a step logs, resuming, and the checkpoint that is left."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file

import look_again
from look_again.clients.vllm_answers import VllmError
from look_again.core.compiled.compiled_step import CompileError
from look_again.data.sample import SampleError
from look_again.data.source import Source
from look_again.loading import default_checkpoint
from look_again.rl import brpo as run
from look_again.rl.brpo_config import BrpoConfig, load_brpo_config
from look_again.rl.step import draw_questions, padded
from look_again.yaml_config import ConfigError, as_keys, build


@pytest.fixture(scope="module")
def base():
    """The shipped model: answers of a random one would all be worth the same, and teach nothing."""
    return str(default_checkpoint())


def config(base, output, **changes) -> BrpoConfig:
    settings = {
        "steps": 4,
        "questions": 2,
        "group": 3,
        "max_new_tokens": 120,
        "temperature": 1.5,
        "balance_tokens": 30,
        "learning_rate": 1e-3,
        "micro_batch": 4,
        "save_steps": 1,
        "reattention": "copy",
        **changes,
    }
    source = Source(loader="tabletop", path="3:20")
    return build(BrpoConfig, {"output": str(output), "base": base, "data": (source,), **settings}, "recipe")


def log_of(folder) -> list[dict]:
    """Without the seconds, which no run repeats."""
    lines = (json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines())
    return [{name: value for name, value in line.items() if name not in run.SECONDS} for line in lines]


@pytest.fixture(scope="module")
def undisturbed(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    run.train_brpo(config(base, folder))
    return folder


def test_a_run_logs_every_reward_and_leaves_a_checkpoint_that_answers(undisturbed, base):
    log = log_of(undisturbed)
    assert [entry["step"] for entry in log] == [1, 2, 3, 4]
    wanted = {"reward_format", "reward_accuracy", "reward_balance", "reflections", "tokens_per_reflection", "kl"}
    assert wanted | {"empty_reflections", "well_formed", "clipped", "accuracy"} <= log[0].keys()
    assert log[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert all(entry["ratio"] == 1 for entry in log)
    before, after = (load_file(f"{folder}/model.safetensors") for folder in (base, undisturbed / "final"))
    assert any(not torch.equal(before[name], after[name]) for name in before)
    answer = look_again.load(undisturbed / "final", device="cpu").ask(
        [], "How many?", sampling=look_again.Sampling(max_new_tokens=3)
    )
    assert answer.tokens["sampled"] == 3


def test_a_killed_run_goes_on_as_if_nothing_had_happened(undisturbed, base, tmp_path, monkeypatch):
    """Step, weights, optimizer, data order and sampling are restored exactly, so the curve is the same."""
    stopped = config(base, tmp_path)
    update, calls = run.Run.update, []

    def stop_in_the_third_step(self, *args):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return update(self, *args)

    monkeypatch.setattr(run.Run, "update", stop_in_the_third_step)
    with pytest.raises(KeyboardInterrupt):
        run.train_brpo(stopped)
    monkeypatch.setattr(run.Run, "update", update)
    run.train_brpo(stopped)
    for expected, found in zip(log_of(undisturbed), log_of(tmp_path), strict=True):
        assert found == pytest.approx(expected, abs=1e-5, rel=1e-4)


def test_a_run_that_fails_before_its_first_step_may_be_corrected(base, tmp_path):
    """Would catch a folder that is lost to an address with a typing error."""
    served = {"rollouts": "vllm", "vllm_url": "http://127.0.0.1:9"}
    with pytest.raises(VllmError, match=r"127\.0\.0\.1:9"):
        run.train_brpo(config(base, tmp_path, **served))
    assert run.train_brpo(config(base, tmp_path, steps=1, group=2, max_new_tokens=30)).is_dir()


def test_how_answers_are_computed_may_change_between_restarts(undisturbed, base):
    """The number of places decides nothing, and whether there are places decides which random numbers are drawn."""
    faster = {"loss_chunk": 5, "packing": True, "gradient_checkpointing": True, "compile": True}
    run.check_recipe(as_keys(config(base, undisturbed, **faster)), undisturbed)
    with pytest.raises(ConfigError, match=r"differs in at_once\)"):
        run.check_recipe(as_keys(config(base, undisturbed, at_once=2)), undisturbed)


def test_any_number_of_places_is_the_same_recipe(base, tmp_path):
    run.write_recipe(as_keys(config(base, tmp_path, at_once=2)), tmp_path)
    run.check_recipe(as_keys(config(base, tmp_path, at_once=5)), tmp_path)


def test_rewards_move_the_policy(base, tmp_path):
    """Would catch a sign error: what was rewarded must become likelier than what was not."""
    settings = config(base, tmp_path, steps=3, beta=0.0, reattention="text", learning_rate=1e-5)
    trainer = run.Run(settings)
    rollouts = []
    for step in range(3):
        rows = draw_questions(trainer.samples, settings, step, 0, 1)
        rollouts += run.sample_groups(
            trainer.inner.model,
            trainer.codec,
            rows,
            settings.sampling.policy,
            group=3,
            max_new_tokens=8,
            temperature=2.0,
        )
    advantages = torch.tensor([1.0, -1.0] * (len(rollouts) // 2))

    def liked() -> float:
        batch = run.collate([rollout.item for rollout in rollouts])
        batch.pop("labels")
        with torch.no_grad():
            log_probs, mask = padded(trainer.inner(**batch, log_probs=True))
        return float(((log_probs * mask).sum(1) * advantages).sum())

    before = liked()
    trainer.update(rollouts, advantages)
    assert liked() > before


def test_every_question_comes_once_an_epoch_whatever_the_processes(base, tmp_path):
    settings = config(base, tmp_path)
    rows = run.load_references(settings)
    alone = [row.id for step in range(10) for row in draw_questions(rows, settings, step, 0, 1)]
    shared = [row.id for step in range(5) for p in (0, 1) for row in draw_questions(rows, settings, step, p, 2)]
    assert alone == shared
    assert sorted(alone) == sorted(row.id for row in rows)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("group: 1", "group is 1"),
        ("max_new_tokens: 5", "the format alone"),
        ("rewards: {beauty: 1}", "beauty"),
        ("level: word", "word"),
        ("reattention: vision", "vision"),
        ("steps: 0", "steps"),
        ("speed: 3", "speed"),
        ("beta: -1", "beta"),
        ("kl_estimate: k1", "k1"),
        ("kl_estimate: answer\nlevel: token", "kl_estimate: answer goes with level: answer"),
        ("mask_truncated: 'no'", "true or false"),
        ("learning_rate: 1e-6", "1.0e-3"),
        ("rewards: {format: x}", "rewards: format is a number"),
        ("rewards: {format: .nan}", "rewards: format is a finite number"),
        ("rewards: {format: -1, accuracy: 2}", "weights from 0 on"),
        ("rewards: {format: 0}", "weights from 0 on"),
        ("rewards: {}", "weights from 0 on"),
        ("rewards: [format]", "rewards is a mapping"),
        ("min_reflections: -3", "min_reflections is at least 0"),
        ("eval_steps: -5", "eval_steps is at least 0"),
        ("eval_length: weird", "known: brief, normal, long"),
        ("keep: 150", "keep is a whole percentage"),
        ("temperature: .nan", "temperature is a finite number"),
        ("temperature: .inf", "temperature is a finite number"),
        ("beta: .nan", "beta is a finite number"),
        ("learning_rate: .nan", "learning_rate is a finite number"),
        ("warmup_steps: -1", "warmup_steps is at least 0"),
        ("adam_beta1: 2.0", "adam_beta1 is from 0 to below 1"),
        ("max_grad_norm: -1", "max_grad_norm must be above 0"),
        ("lora: {rank: 0}", "rank must be above 0"),
        ("on_bad_row: foo", "unknown on_bad_row"),
        ("max_pixels: 0", "max_pixels must be above 0"),
        ("seed: -1", "seed is from 0"),
        ("output: ''", "output names the run's folder"),
        ("vllm_url: ['']", "http://HOST:PORT, not ''"),
        ("vllm_url: [http://a:1, null]", "list of such texts"),
        ("vllm_url: 5", "list of such texts"),
        ("vllm_url: []", "list of such texts"),
        ("vllm_url: {a: 1}", "list of such texts"),
        ("vllm_url: [nonsense]", "http://HOST:PORT, not 'nonsense'"),
        ("vllm_url: http://a:port", "http://HOST:PORT"),
        ("vllm_url: [http://a:1, http://a:1/v1/]", "names a server twice"),
        ("vllm_url: http://ann:s3cret@a:1", r"at 'a:1' holds a user or a password: [^3]*$"),
    ],
)
def test_bad_recipes_are_refused(tmp_path, text, named):
    lines = {"output": "x", "base": "y", "steps": "5", "data": "[{loader: tabletop, path: '1:5'}]"}
    key, value = text.split(": ", 1)
    lines[key] = value
    path = tmp_path / "recipe.yaml"
    path.write_text("\n".join(f"{name}: {value}" for name, value in lines.items()))
    with pytest.raises(ConfigError, match=named):
        load_brpo_config(path)


def test_values_that_do_not_go_together_are_refused(base, tmp_path):
    config(base, tmp_path, eval_rows=0)
    with pytest.raises(ConfigError, match="eval_rows must be above 0"):
        config(base, tmp_path, eval_rows=0, eval_steps=1)
    with pytest.raises(ConfigError, match=r"takes 2\.0 at most"):
        config(base, tmp_path, rollouts="vllm", vllm_url="http://a:1", temperature=2.5)


def test_a_machine_without_a_compiler_is_told_before_anything_is_loaded(base, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr(run, "run_base", lambda config: pytest.fail("the base was read"))
    with pytest.raises(CompileError, match="needs a C\\+\\+ compiler"):
        run.Run(config(base, tmp_path, compile=True))


def test_a_bound_below_one_visual_token_is_told_before_the_model_is_loaded(base, tmp_path, monkeypatch):
    monkeypatch.setattr(run.BaseModel, "load", lambda *_: pytest.fail("the model was loaded"))
    with pytest.raises(ValueError, match="max_pixels is 5"):
        run.Run(config(base, tmp_path, max_pixels=5))


def test_rows_without_a_reference_are_named(base, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"id": "lost", "question": "How many?"}\n')
    source = Source(loader="jsonl", path=str(tmp_path / "rows.jsonl"))
    settings = dataclasses.replace(config(base, tmp_path / "run"), data=(source,))
    with pytest.raises(SampleError, match="lost"):
        run.train_brpo(settings)


@pytest.mark.parametrize("aggregation", ["answer", "token"])
def test_masked_answers_that_were_cut_off_give_no_loss(base, tmp_path, aggregation):
    """By hand: over answers the mean of one loss and a zero, over tokens that loss alone; all cut off: no gradient."""
    settings = config(base, tmp_path, mask_truncated=True, aggregation=aggregation, reattention="text", group=2)
    trainer = run.Run(settings)
    whole, cut = trainer.sample(trainer.samples[:1], seed=1)
    whole, cut = dataclasses.replace(whole, finished=True), dataclasses.replace(cut, finished=False)
    advantages = torch.tensor([0.5, -2.0])
    alone, _ = trainer.loss([whole], advantages[:1])
    both, metrics = trainer.loss([whole, cut], advantages)
    assert float(both) == pytest.approx(float(alone) * (0.5 if aggregation == "answer" else 1.0), abs=1e-6)
    assert float(alone) == pytest.approx(-0.5, abs=1e-6)
    assert float(metrics["ratio"]) == 1
    before = {name: value.detach().clone() for name, value in trainer.inner.trained.items()}
    logged = trainer.update([cut, cut], advantages)
    assert (logged["loss"], logged["grad_norm"]) == (0, 0)
    assert all(torch.equal(before[name], value) for name, value in trainer.inner.trained.items())
