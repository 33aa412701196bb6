"""`look-again train sft`: the stages of a recipe, one after the other, each resumable.

A finished stage leaves `<output>/<stage>/final`, moved into place whole; a killed run goes on from its last checkpoint
and redoes the steps after it. Started by `accelerate launch`, it runs in as many processes as that starts.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from look_again.extras import require
from look_again.registry import lookup
from look_again.training.base_model import BaseModel, load_processors
from look_again.training.datasets import load_stage_samples
from look_again.training.export import Export, write_checkpoint
from look_again.training.packing import check_packing
from look_again.training.sft_config import TASKS, SftConfig, Stage
from look_again.training.sft_plan import empty_model
from look_again.training.sft_task import SftTask
from look_again.training.step_log import append_line, keep_lines
from look_again.yaml_config import ConfigError, as_keys

RECIPE_FILE = "recipe.json"
# What may change between restarts: where, how often and how fast things happen, not what comes of it.
FREE_KEYS = (
    *("output", "workers", "save_steps", "log_steps", "report_to", "hardware", "on_bad_row", "on_long_row"),
    *("loss_chunk", "packing", "gradient_checkpointing", "compile", "vllm_url", "vllm_weights"),
)
PRESENT_KEYS = ("at_once",)  # decide by being there at all: results are the same for any value
SCHEDULERS = {
    "cosine_to_tenth": ("cosine_with_min_lr", {"min_lr_rate": 0.1}),
    "cosine": ("cosine", {}),
    "linear": ("linear", {}),
    "constant_with_warmup": ("constant_with_warmup", {}),
}


class LogFile(TrainerCallback):
    """`log.jsonl` of a stage: one line per logged step, also when steps are redone after a kill."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            keep_lines(self.path, state.global_step)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if state.is_world_process_zero and "loss" in (logs or {}):
            append_line(self.path, {"step": state.global_step, **logs})


def train(config: SftConfig) -> Path:
    """Run or resume every stage; returns the folder of the last stage's checkpoint.

    ConfigError, SampleError or LoadError before the first step for a recipe, samples or a base that cannot be used.
    """
    if torch.cuda.device_count() > 1 and int(os.environ.get("WORLD_SIZE", "1")) == 1:
        raise ConfigError(
            "several GPUs are visible: start with `accelerate launch`, or set CUDA_VISIBLE_DEVICES to one"
        )
    output = Path(config.output)
    check_recipe(as_keys(config), output)
    processors = load_processors(config.base, config.tiny)
    check_early(config, processors)
    before: str | Path | None = config.base
    for stage in config.stages:
        final = output / stage.name / "final"
        if not final.exists():
            _run_stage(config, stage, stage_base(config, stage, before, processors), final)
        before = final
    assert before is not None
    return Path(before)


def check_early(config: SftConfig, processors: tuple[Any, Any]) -> None:
    """What would only come to light in a later stage: a package that is not there, samples that cannot train, packing
    of a model that cannot keep sequences apart, a bound below one visual token.

    MissingExtraError, SampleError, PackingError or ValueError.
    """
    if any(stage.parts.trains == "lora" for stage in config.stages):
        require("peft", extra="train")
    waiting = [stage for stage in config.stages if not (Path(config.output) / stage.name / "final").exists()]
    if any(stage.passes.packing for stage in waiting):
        check_packing(empty_model(config.base, config.hardware, config.tiny))
    for stage in waiting:
        codec = stage_base(config, stage, config.base, processors).early_codec()
        if stage.selection.data and stage is not config.stages[0]:
            load_stage_samples(stage, config.seed, codec)


def stage_base(config: SftConfig, stage: Stage, before: str | Path | None, processors: tuple[Any, Any]) -> BaseModel:
    """What a stage starts from: the checkpoint `before` it, with the tokenizer and image processor of the run."""
    tokenizer, image_processor = processors
    return BaseModel(
        base=before,
        tokenizer=tokenizer,
        image_processor=image_processor,
        parts=stage.parts,
        seed=config.seed,
        max_pixels=stage.sequence.max_pixels,
        loss_chunk=stage.passes.loss_chunk,
        packing=stage.passes.packing,
        shapes=config.tiny,
    )


def check_recipe(settings: Mapping[str, Any], output: Path) -> None:
    """A folder belongs to one recipe; `settings` are its keys. ConfigError names what differs."""
    path = output / RECIPE_FILE
    if path.exists():
        stored = json.loads(path.read_text(encoding="utf-8"))
        if differing := sorted(_differing(_deciding(settings), _deciding(stored))):
            raise ConfigError(f"{output} holds a run of another recipe (differs in {', '.join(differing)})")


def write_recipe(settings: Mapping[str, Any], output: Path) -> None:
    """From now on the folder belongs to this recipe: right before the first step, so that a run that fails before it
    may be corrected.
    """
    path = output / RECIPE_FILE
    output.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(f".{os.getpid()}")
    beside.write_text(json.dumps(_deciding(settings), indent=2) + "\n", encoding="utf-8")
    beside.replace(path)


def _deciding(settings: Mapping[str, Any]) -> Any:
    """The keys that results depend on, as JSON has them."""
    kept = {name: value for name, value in settings.items() if name not in FREE_KEYS}
    present = {name: bool(kept[name]) for name in PRESENT_KEYS if name in kept}
    return json.loads(json.dumps(kept | present))


def _differing(recipe: Any, stored: Any, name: str = "") -> Iterator[str]:
    """Names of what differs; a key that an older version did not know yet has its default."""
    if isinstance(recipe, dict) and isinstance(stored, dict):
        for key in (recipe.keys() & stored.keys() | (stored.keys() - recipe.keys())) - set(FREE_KEYS):
            yield from _differing(recipe.get(key), stored[key], f"{name}.{key}".lstrip("."))
    elif isinstance(recipe, list) and isinstance(stored, list) and len(recipe) == len(stored):
        for index, (ours, theirs) in enumerate(zip(recipe, stored, strict=True)):
            yield from _differing(ours, theirs, f"{name}[{index}]")
    elif recipe != stored:
        yield name


def _run_stage(config: SftConfig, stage: Stage, base: BaseModel, final: Path) -> None:
    folder = final.parent
    folder.mkdir(parents=True, exist_ok=True)
    arguments = _arguments(config, stage, folder)  # before the model: ZeRO-3 cuts weights up as they are loaded
    model = base.load(base.loss_dtype(config.bf16))
    task: SftTask = lookup(TASKS, stage.task, what="task")()
    dataset, counts = task.dataset(stage, config.seed, base.codec(model.config), arguments.world_size)
    trainer = task.trainer(
        model=task.module(base, model, stage),
        args=arguments,
        data_collator=task.collate,
        train_dataset=dataset,
        processing_class=base.tokenizer,
        callbacks=[LogFile(folder / "log.jsonl")],
    )
    write_recipe(as_keys(config), Path(config.output))
    trainer.train(resume_from_checkpoint=_shared_checkpoint(folder, trainer))
    _finish(config, stage, base, task, trainer, final, counts)


def _shared_checkpoint(folder: Path, trainer: Trainer) -> str | None:
    """The checkpoint to resume from; the main process cleans up, then all read the same."""
    with trainer.args.main_process_first(local=False, desc="checkpoints"):
        return last_complete_checkpoint(folder)


def last_complete_checkpoint(folder: Path) -> str | None:
    """The latest checkpoint that was written to its end, None if there is none.

    The trainer writes `trainer_state.json` last, so a checkpoint without a readable one was cut off; it is removed.
    """
    checkpoints = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rsplit("-", 1)[1]), reverse=True)
    for checkpoint in checkpoints:
        try:
            json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            shutil.rmtree(checkpoint)
            continue
        return str(checkpoint)
    return None


def _finish(
    config: SftConfig,
    stage: Stage,
    base: BaseModel,
    task: SftTask,
    trainer: Trainer,
    final: Path,
    counts: Mapping[str, int],
) -> None:
    """Gather the weights and write the checkpoint folder."""
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    unset_hf_deepspeed_config()  # the model that the state goes into is whole
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    facts = {"Rows": dict(counts) or "made on the fly", "Last logged loss": losses[-1] if losses else "none"}
    if trainer.accelerator.is_main_process:
        model, export = task.trained(base, state), stage_export(config, stage, facts)
        write_checkpoint(final, model, base.tokenizer, base.image_processor, export, base.stored_dtype)
    trainer.accelerator.wait_for_everyone()


def stage_export(config: SftConfig, stage: Stage, facts: Mapping[str, Any]) -> Export:
    """What a stage's checkpoint says of it."""
    passes, optimizer = stage.passes, stage.optimizer
    length = f"{passes.steps} steps" if passes.steps is not None else f"{passes.epochs} epochs"
    return Export(
        title=f"{Path(config.output).name}, stage {stage.name}",
        base=config.base,
        trains=stage.parts.trains,
        data=[f"{source.loader}:{source.path}" for source in stage.selection.data]
        or ["Tabletop, rows made on the fly"],
        length=f"{length} of {passes.batch} x {passes.accumulation} rows per device",
        optimizer=f"peak rate {optimizer.learning_rate:g}, schedule {optimizer.schedule}, seed {config.seed}, "
        f"{'bf16' if config.bf16 else 'fp32'}",
        modes=stage.mixture.modes,
        keep=stage.mixture.keep,
        facts=facts,
        keys=as_keys(stage),
        max_pixels=stage.sequence.max_pixels,
    )


def _arguments(config: SftConfig, stage: Stage, folder: Path) -> TrainingArguments:
    passes, optimizer = stage.passes, stage.optimizer
    scheduler, scheduler_settings = SCHEDULERS[optimizer.schedule]
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=passes.steps or -1,
        num_train_epochs=passes.epochs or 1,
        per_device_train_batch_size=passes.batch,
        gradient_accumulation_steps=passes.accumulation,
        learning_rate=optimizer.learning_rate,
        warmup_steps=optimizer.warmup_steps,
        lr_scheduler_type=scheduler,
        lr_scheduler_kwargs=scheduler_settings,
        weight_decay=optimizer.weight_decay,
        max_grad_norm=optimizer.max_grad_norm,
        adam_beta1=optimizer.adam_beta1,
        adam_beta2=optimizer.adam_beta2,
        adam_epsilon=optimizer.adam_epsilon,
        bf16=config.bf16,
        seed=config.seed,
        save_steps=config.save_steps,
        save_total_limit=2,
        logging_steps=config.log_steps,
        dataloader_num_workers=config.workers,
        remove_unused_columns=False,
        report_to=list(config.report_to) or "none",
        use_cpu=not torch.cuda.is_available(),
    )
