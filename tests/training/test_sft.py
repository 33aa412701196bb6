"""Runs of a recipe: stages, resuming, what a finished run leaves behind."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoTokenizer, TrainerState

import look_again
from look_again.data.sample import SampleError
from look_again.data.source import Source
from look_again.loading import LoadError
from look_again.rl.brpo_config import load_brpo_config
from look_again.tabletop.sft_tasks import AnswersTask
from look_again.tabletop.tiny import TinyConfig, build_image_processor, build_model, build_tokenizer
from look_again.text.grammar import TAG_TOKENS
from look_again.text.tags import tag_ids
from look_again.training.base_model import load_processors
from look_again.training.datasets import SampleDataset
from look_again.training.sft import LogFile, last_complete_checkpoint, stage_base, train
from look_again.training.sft_config import SftConfig, build_stage, load_config
from look_again.training.trainer import ReattentionTrainer
from look_again.yaml_config import ConfigError, with_keys

ROOT = Path(__file__).parents[2] / "recipes"
SFT = sorted(path for path in ROOT.glob("**/*.yaml") if "\nstages:" in path.read_text() and path.parent != ROOT / "box")
BRPO = sorted(ROOT.glob("**/brpo.yaml"))
ENGINES = sorted((ROOT / "engines").glob("*.yaml"))
TINY = TinyConfig(
    hidden=64, layers=2, heads=2, kv_heads=1, mlp=96, vision_hidden=32, vision_layers=2, vision_heads=2, vision_mlp=64,
    full_attention_layers=(1,),
)  # fmt: skip


def recipe(output: Path) -> SftConfig:
    stages = (
        build_stage(name="vision", task="vision", steps=2, batch=4, warmup_steps=1),
        build_stage(name="captions", task="captions", steps=2, batch=4, warmup_steps=1, modes={"text": 1.0}),
        build_stage(
            name="answers",
            task="answers",
            steps=5,
            batch=6,
            warmup_steps=1,
            modes={"text": 1.0, "copy": 1.0, "route": 1.0},
            error_rate=0.3,
            trains="without_vision",
        ),
    )
    return SftConfig(output=str(output), stages=stages, tiny=TINY, save_steps=1, log_steps=1, workers=0)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return train(recipe(tmp_path_factory.mktemp("run")))


@pytest.mark.parametrize("path", SFT, ids=lambda path: path.stem)
def test_every_shipped_recipe_loads(path):
    assert load_config(path).stages


@pytest.mark.parametrize("path", BRPO, ids=lambda path: path.parent.name)
def test_every_shipped_recipe_of_brpo_loads(path):
    assert load_brpo_config(path).steps


@pytest.mark.parametrize("path", ENGINES, ids=lambda path: path.stem)
def test_every_engine_configuration_is_one_of_accelerate(path):
    """Would catch a key that `accelerate launch` refuses."""
    assert load_config_from_file(str(path)).num_processes == 8


@pytest.mark.parametrize("path", sorted((ROOT / "paper").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_papers_recipes_say_of_every_value_where_it_is_from(path):
    lines = path.read_text().splitlines()
    values = [line for line in lines if ":" in line.partition("#")[0] and not line.rstrip().endswith(":")]
    bare = [line for line in values if "# paper" not in line and not line.strip().startswith(("output", "- ", "task"))]
    assert bare == []


def test_a_finished_run_is_a_checkpoint_that_answers(undisturbed):
    looker = look_again.load(undisturbed, device="cpu")
    assert looker.checkpoint.trained
    assert not looker.checkpoint.notes
    torch.manual_seed(0)
    answer = looker.ask([], "How many?", sampling=look_again.Sampling(max_new_tokens=3))
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


def test_the_log_has_every_step_once_after_steps_were_redone(tmp_path):
    """Would catch a merged log with the lost steps of a killed run in it, or a line that the kill cut off."""
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1, "loss": 3}\n{"step": 2, "loss": 2}\n{"step": 3, "loss": 1}\n{"step": 4, "lo')
    log, state = LogFile(path), TrainerState(global_step=2, is_world_process_zero=True)
    log.on_train_begin(None, state, None)
    log.on_log(None, dataclasses.replace(state, global_step=3), None, {"loss": 0.5})
    log.on_log(None, state, None, {"train_runtime": 5})
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"step": 1, "loss": 3},
        {"step": 2, "loss": 2},
        {"step": 3, "loss": 0.5},
    ]


def test_a_folder_of_another_recipe_is_refused(undisturbed, tmp_path):
    """Would catch stages of two recipes mixed in one folder; what does not change results may change."""
    config = recipe(undisturbed.parents[1])
    assert train(dataclasses.replace(config, workers=2, log_steps=5)) == undisturbed
    slower = [with_keys(stage, loss_chunk=7, gradient_checkpointing=True) for stage in config.stages[1:]]
    assert train(dataclasses.replace(config, stages=(config.stages[0], *slower))) == undisturbed
    with pytest.raises(ConfigError, match=r"another recipe \(differs in seed\)"):
        train(dataclasses.replace(config, seed=1))


def test_a_run_that_fails_before_its_first_step_may_be_corrected(tmp_path, monkeypatch):
    """Would catch a folder that is lost to a recipe which could never run."""
    config = SftConfig(
        output=str(tmp_path), stages=(build_stage(name="a", task="answers", steps=1, batch=2),), tiny=TINY, workers=0
    )

    def fail(*args):
        raise MemoryError

    with monkeypatch.context() as broken:
        broken.setattr(AnswersTask, "module", fail)
        with pytest.raises(MemoryError):
            train(config)
    assert train(dataclasses.replace(config, seed=1)).is_dir()


def rows_stage(tmp_path, lines, **changes) -> SftConfig:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    source = Source(loader="jsonl", path=str(tmp_path / "rows.jsonl"))
    settings = {"epochs": 1, "batch": 2, "warmup_steps": 0, **changes}
    stage = build_stage(name="sft", task="rows", data=(source,), **settings)
    return SftConfig(output=str(tmp_path / "run"), stages=(stage,), tiny=TINY, log_steps=1, workers=0)


GOOD = "<SUMMARY>a</SUMMARY><CAPTION>b</CAPTION><REASONING>c</REASONING><REFLECTION>d</REFLECTION><CONCLUSION>e</CONCLUSION>"  # fmt: skip  # noqa: E501


def test_one_worker_lasts_a_stage(tmp_path, monkeypatch):
    """Would catch a worker forked anew for every epoch, which keeps as much memory as the trainer holds by then."""
    made = SampleDataset.__getitem__

    def item(self, index):
        with (tmp_path / "workers").open("a") as file:
            file.write(f"{os.getpid()}\n")
        return made(self, index)

    monkeypatch.setattr(SampleDataset, "__getitem__", item)
    lines = [{"question": f"{n}?", "response": GOOD} for n in range(4)]
    train(dataclasses.replace(rows_stage(tmp_path, lines, epochs=3), workers=1))
    asked = (tmp_path / "workers").read_text().split()
    assert len(asked) >= 12
    assert len(set(asked) - {str(os.getpid())}) == 1


def test_rows_of_ones_own_train_with_and_without_images(tmp_path):
    """Two epochs over five rows, two of them without image, in length groups."""
    Image.new("RGB", (56, 84), "red").save(tmp_path / "red.png")
    lines = [{"id": f"r{i}", "question": "What?" * i, "response": GOOD, "image": "red.png"} for i in range(1, 4)]
    lines += [{"id": f"t{i}", "question": "What?", "response": GOOD} for i in range(2)]
    final = train(rows_stage(tmp_path, lines, epochs=2, trains="language_model", group_by_length=True))
    log = [json.loads(line) for line in (final.parent / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in log] == list(range(1, 7))
    assert {"loss_SUMMARY", "loss_REFLECTION", "loss_outside"} <= log[0].keys()
    assert "'trained on': 5, 'of these without an image': 2" in (final / "README.md").read_text()


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        ({"response": "no tags"}, "bad1.*missing"),
        ({"response": GOOD, "image": "nowhere.png"}, "bad1.*nowhere.png"),
        ({"response": GOOD, "image": 5}, "bad1"),
    ],
)
def test_bad_rows_stop_the_run_before_its_first_step_or_are_counted(tmp_path, bad, named):
    lines = [{"id": "good", "question": "What?", "response": GOOD}, {"id": "bad1", "question": "What?", **bad}]
    config = rows_stage(tmp_path, lines)
    with pytest.raises(SampleError, match=f"(?s){named}"):
        train(config)
    stage = with_keys(config.stages[0], on_bad_row="skip")
    final = train(dataclasses.replace(config, output=str(tmp_path / "skipping"), stages=(stage,)))
    assert "'read': 2, 'bad': 1" in (final / "README.md").read_text()


def test_long_rows_are_named_or_dropped_and_never_cut(tmp_path):
    lines = [{"id": f"n{i}", "question": "What?" * (1 + 60 * (i == 1)), "response": GOOD} for i in range(3)]
    config = rows_stage(tmp_path, lines, max_length=150)
    with pytest.raises(ConfigError, match=r"1 of 3 rows are longer than max_length=150 slots: n1"):
        train(config)
    stage = with_keys(config.stages[0], on_long_row="drop")
    final = train(dataclasses.replace(config, output=str(tmp_path / "dropping"), stages=(stage,)))
    assert "'too long': 1, 'trained on': 2" in (final / "README.md").read_text()
    impossible = dataclasses.replace(config, output="x", stages=(with_keys(stage, max_length=5),))
    with pytest.raises(ConfigError, match="no row is left"):
        train(dataclasses.replace(impossible, output=str(tmp_path / "none")))


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
        ("output: x\nstages: [{name: a, task: vision, epochs: 1}]", "take steps"),
        ("output: x\nstages: [{name: a, task: vision}]", "steps or epochs"),
        ("output: x\nstages: [{name: a, task: rows, epochs: 1}]", "data"),
        ("output: x\nstages: [{name: a, task: rows, epochs: 1, data: [{loader: csv, path: a}]}]", "csv"),
        ("output: x\nstages: [{name: a, task: answers, steps: 1, trains: head}]", "head"),
        ("output: x\nstages: [{name: a, task: answers, steps: 1, max_length: 0}]", "max_length"),
        ("output: x\nstages: [{name: a, task: answers, steps: 1, loss_chunk: 0}]", "loss_chunk must be above 0"),
        ("output: x\nstages: [{name: a, task: vision, steps: 1, packing: true}]", "packing is of the language model"),
        ("output: x\nstages: [{name: a, task: vision, steps: 1, loss_chunk: 4}]", "loss_chunk is of the language"),
        ("output: ''\nstages: [{name: a, task: vision, steps: 1}]", "output names the run's folder"),
        ("output: x\nseed: -1\nstages: [{name: a, task: vision, steps: 1}]", "seed is from 0"),
        ("output: x\nworkers: -1\nstages: [{name: a, task: vision, steps: 1}]", "workers is at least 0"),
        ("output: x\nsave_steps: 0\nstages: [{name: a, task: vision, steps: 1}]", "save_steps must be above 0"),
        ("output: x\nlog_steps: 0\nstages: [{name: a, task: vision, steps: 1}]", "log_steps must be above 0"),
        ("output: x\ntiny: {heads: 0}\nstages: [{name: a, task: vision, steps: 1}]", "heads must be above 0"),
        ("output: x\ntiny: {rope_theta: .nan}\nstages: [{name: a, task: vision, steps: 1}]", "finite number"),
        ("output: x\nstages: [{name: ../b, task: vision, steps: 1}]", "one part of a path"),
        ("output: x\nstages: [{name: .., task: vision, steps: 1}]", "one part of a path"),
        ("output: x\nstages: [{name: '', task: vision, steps: 1}]", "one part of a path"),
        ("output: x\nstages: [{name: 5, task: vision, steps: 1}]", "name is a text"),
        ("output: x\nstages: [{name: a, task: answers, steps: 1, modes: {copy: .nan}}]", "copy is a finite number"),
        ("output: x\nstages: [{name: a, task: answers, steps: 1, modes: {}}]", "modes has weights"),
        ("output: x\nstages: [{name: a, task: answers, steps: 1, lengths: {brief: 0}}]", "lengths has weights"),
        ("output: x\nstages: [{name: a, task: answers, steps: 1, reflections: -1}]", "reflections is at least 0"),
        ("output: x\nstages: [{name: a, task: phrased, steps: 1, forms: {made: -1}}]", "forms has weights"),
        ("output: x\nstages: [{name: a, task: long, steps: 1, kinds: {listed: 0}}]", "kinds has weights"),
        ("output: x\nstages: [{name: a, task: long, steps: 1, kinds: {listed: -1, swap: 1}}]", "kinds has weights"),
        ("output: x\nstages: [{name: a, task: long, steps: 1, kinds: {listed: x}}]", "listed is a number"),
        ("output: x\nstages: [{name: a, task: clips, steps: 1, distinct: 0}]", "distinct must be above 0"),
        ("output: x\nstages: [{name: a, task: answers, steps: 1, learning_rate: -1.0}]", "learning_rate must be"),
        ("output: x\nstages: [{name: a, task: answers, steps: 1, max_pixels: 0}]", "max_pixels must be above 0"),
        ("output: x\nstages: [{name: a, task: answers, steps: 1, lora: {dropout: 1}}]", "dropout is from 0"),
        (
            "output: x\nstages: [{name: a, task: rows, epochs: 1, error_rate: 0.1}]",
            "stages 'a': error_rate belongs to the tasks vision, captions, plain, answers, goals, phrased, long, "
            "not to 'rows'",
        ),
        ("output: x\nreport_to: wandb\nstages: [{name: a, task: answers, steps: 1}]", "report_to is a list"),
        ("output: x\nhardware: {engine: warp}\nstages: [{name: a, task: vision, steps: 1}]", "warp"),
        ("output: x\nstages: [{name: a, task: answers, steps: 1, lora: {rank: 4, size: 3}}]", "size"),
    ],
)
def test_bad_recipes_are_refused_before_anything_is_loaded(tmp_path, text, named):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=named):
        load_config(path)


def test_stage_names_must_differ():
    stage = build_stage(name="a", task="vision", steps=1)
    with pytest.raises(ConfigError, match="names of their own"):
        SftConfig(output="x", stages=(stage, dataclasses.replace(stage)))


def bare_base(folder: Path) -> Path:
    """A checkpoint whose tokenizer has no tags, with a template that shows images in `chat_template.json` alone."""
    tokenizer = build_tokenizer()
    build_model(tokenizer, TINY).save_pretrained(folder)
    build_image_processor().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    raw = json.loads((folder / "tokenizer.json").read_text())
    raw["added_tokens"] = [token for token in raw["added_tokens"] if token["content"] not in TAG_TOKENS]
    (folder / "tokenizer.json").write_text(json.dumps(raw))
    shown = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": shown}))
    text_only = "{% for m in messages %}{{ m['role'] + m['content'] }}{% endfor %}"
    (folder / "chat_template.jinja").write_text(text_only)
    return folder


def test_a_base_without_tags_gets_them_with_rows_made_of_their_pieces(tmp_path):
    """Would catch tags that are left at what an unused row happened to hold, and a template that cannot show images."""
    folder = bare_base(tmp_path / "base")
    stage = build_stage(name="s", task="answers", steps=1, batch=2, warmup_steps=0, learning_rate=1e-12, trains="lora")
    config = SftConfig(output=str(tmp_path / "run"), stages=(stage,), base=str(folder), workers=0)
    processors = load_processors(config.base)
    tokenizer, _ = processors
    model = stage_base(config, stage, config.base, processors).load()
    rows = model.get_input_embeddings().weight
    pieces = AutoTokenizer.from_pretrained(folder)("<REFLECTION>", add_special_tokens=False)["input_ids"]
    assert len(pieces) > 1
    assert torch.allclose(rows[tag_ids(tokenizer)["<REFLECTION>"]], rows[pieces].mean(0), atol=1e-6)
    final = train(config)
    assert look_again.load(final, device="cpu").checkpoint.notes == ()


def test_a_base_that_is_not_there_is_named(tmp_path):
    stage = build_stage(name="s", task="answers", steps=1)
    with pytest.raises(LoadError, match="nowhere"):
        train(SftConfig(output=str(tmp_path / "run"), stages=(stage,), base=str(tmp_path / "nowhere")))


def test_the_picture_bound_of_one_stage_does_not_reach_the_next(tmp_path):
    """Would catch a resumed run whose later stage sees larger pictures than the undisturbed one's."""
    stages = [build_stage(name=n, task="answers", steps=1, max_pixels=m) for n, m in (("a", 56 * 56), ("b", None))]
    config = SftConfig(output=str(tmp_path), stages=tuple(stages), tiny=TINY)
    processors = load_processors(None, TINY)
    grids = []
    for stage in stages:
        base = stage_base(config, stage, None, processors)
        dataset, _ = AnswersTask().dataset(stage, config.seed, base.codec(base.load().config), 1)
        grids.append(dataset[0].image_grid_thw.tolist())
    assert grids == [[[1, 4, 4]], [[1, 12, 12]]]


def test_samples_of_a_later_stage_are_checked_before_the_first_step(tmp_path):
    """Would catch a run that trains its first stage for hours and then stops at a bad row of the second."""
    config = rows_stage(tmp_path, [{"id": "bad1", "question": "What?", "response": "no tags"}])
    first = build_stage(name="first", task="answers", steps=1, batch=2, warmup_steps=0)
    with pytest.raises(SampleError, match="bad1"):
        train(dataclasses.replace(config, stages=(first, *config.stages)))
    assert not (tmp_path / "run" / "first").exists()


@pytest.mark.parametrize(
    ("changes", "named"), [({"packing": True}, "packing cuts no masks"), ({"max_pixels": 5}, "max_pixels is 5")]
)
def test_what_a_later_stage_cannot_do_is_told_before_the_first_step(tmp_path, changes, named):
    """A base whose layers have windows: would catch hours of the first stage before packing is refused."""
    tokenizer = build_tokenizer()
    model = build_model(tokenizer, TINY)
    text = model.config.text_config
    text.layer_types, text.sliding_window = ["sliding_attention"] * len(text.layer_types), 128
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    build_image_processor().save_pretrained(tmp_path / "base")
    first = build_stage(name="first", task="answers", steps=1, batch=2, warmup_steps=0)
    stages = (first, with_keys(first, name="later", **changes))
    with pytest.raises(ValueError, match=named):
        train(SftConfig(output=str(tmp_path / "run"), stages=stages, base=str(tmp_path / "base"), workers=0))
    assert not (tmp_path / "run").exists()


@pytest.mark.filterwarnings("error::FutureWarning", "error::DeprecationWarning:look_again")
def test_training_with_adapters_and_recomputed_layers_warns_of_nothing(tmp_path):
    """Would catch names that the library is about to drop."""
    stage = build_stage(
        name="s", task="answers", steps=1, batch=2, warmup_steps=0, trains="lora", gradient_checkpointing=True
    )
    train(SftConfig(output=str(tmp_path), stages=(stage,), tiny=TINY, workers=0))


@pytest.mark.parametrize("base", ["runs/captions/final", "src/look_again/assets/nowhere"])
def test_a_relative_base_says_where_paths_start(tmp_path, monkeypatch, base):
    """Would catch a shipped recipe that speaks of repositories on a hub when it runs outside of a clone."""
    monkeypatch.chdir(tmp_path)
    stage = build_stage(name="s", task="answers", steps=1)
    with pytest.raises(LoadError, match="root of a clone"):
        train(SftConfig(output="run", stages=(stage,), base=base))
