"""`look-again train sft`: the stages of a recipe, one after the other, each resumable.

A finished stage leaves `<output>/<stage>/final`, moved into place whole; a killed run goes on from its last checkpoint
and redoes the steps after it. Started by `accelerate launch`, it runs in as many processes as that starts.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    Qwen2VLImageProcessorPil,
    TrainerCallback,
    TrainingArguments,
)
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from look_again.core.families import find_family
from look_again.loading import LoadError, load_tokenizer
from look_again.tabletop.tiny import build_image_processor, build_model, build_tokenizer
from look_again.text.tags import has_tags, prepare, prepare_tokenizer, tag_ids
from look_again.training.batches import Codec, bounded, collate
from look_again.training.datasets import TabletopDataset, load_stage_samples
from look_again.training.export import merged, write_checkpoint
from look_again.training.module import Reattending
from look_again.training.recipe import SftConfig, Stage
from look_again.training.step_log import append_line, keep_lines
from look_again.training.trainable import choose_trainable
from look_again.training.trainer import ReattentionTrainer, Trainer, VisionProbe
from look_again.yaml_config import ConfigError

RECIPE_FILE = "recipe.json"
# What may change between restarts.
FREE_KEYS = ("output", "workers", "save_steps", "log_steps", "report_to", "hardware", "on_bad_row", "on_long_row")
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

    ConfigError, RowError or LoadError before the first step for a recipe, rows or a base that cannot be used.
    """
    if torch.cuda.device_count() > 1 and int(os.environ.get("WORLD_SIZE", "1")) == 1:
        raise ConfigError(
            "several GPUs are visible: start with `accelerate launch`, or set CUDA_VISIBLE_DEVICES to one"
        )
    output = Path(config.output)
    output.mkdir(parents=True, exist_ok=True)
    check_recipe(asdict(config), output)
    tokenizer, image_processor = processors_of(config)
    before: str | Path | None = config.base
    for stage in config.stages:
        final = output / stage.name / "final"
        if not final.exists():
            _run_stage(config, stage, before, tokenizer, image_processor, final)
        before = final
    assert before is not None
    return Path(before)


def check_recipe(settings: Mapping[str, Any], output: Path) -> None:
    """A folder belongs to one recipe. ConfigError names what differs."""
    path = output / RECIPE_FILE
    recipe = json.loads(json.dumps({name: value for name, value in settings.items() if name not in FREE_KEYS}))
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        if differing := sorted(_differing(recipe, found)):
            raise ConfigError(f"{output} holds a run of another recipe (differs in {', '.join(differing)})")
    beside = path.with_suffix(f".{os.getpid()}")
    beside.write_text(json.dumps(recipe, indent=2) + "\n", encoding="utf-8")
    beside.replace(path)


def _differing(recipe: Any, found: Any, name: str = "") -> Iterator[str]:
    """Names of what differs; a key that an older version did not know yet has its default."""
    if isinstance(recipe, dict) and isinstance(found, dict):
        for key in (recipe.keys() & found.keys() | (found.keys() - recipe.keys())) - set(FREE_KEYS):
            yield from _differing(recipe.get(key), found[key], f"{name}.{key}".lstrip("."))
    elif isinstance(recipe, list) and isinstance(found, list) and len(recipe) == len(found):
        for place, (one, other) in enumerate(zip(recipe, found, strict=True)):
            yield from _differing(one, other, f"{name}[{place}]")
    elif recipe != found:
        yield name


def processors_of(config: SftConfig) -> tuple[Any, Any]:
    """Tokenizer (with tags) and image processor: the base checkpoint's, or those of the tiny model."""
    if config.base is None:
        return build_tokenizer(config.tiny.vocabulary), build_image_processor()
    try:
        tokenizer = load_tokenizer(config.base)
        image_processor = Qwen2VLImageProcessorPil.from_pretrained(config.base)
    except (OSError, ValueError) as error:
        raise LoadError(f"{config.base} cannot be loaded: {str(error).splitlines()[0]}") from error
    if tokenizer.eos_token_id is None:
        raise ConfigError(
            f"the tokenizer of {config.base} has no end-of-turn token (eos_token), which responses end with"
        )
    if not has_tags(tokenizer):
        prepare_tokenizer(tokenizer)
    return tokenizer, image_processor


def load_start(config: SftConfig, before: str | Path | None, tokenizer: Any, dtype: torch.dtype = torch.float32) -> Any:
    """The model that a stage starts from, with tags."""
    if before is None:
        return build_model(tokenizer, config.tiny, config.seed)
    try:
        find_family(AutoConfig.from_pretrained(before))
        model = AutoModelForImageTextToText.from_pretrained(before, dtype=dtype, use_safetensors=True)
    except OSError as error:
        raise LoadError(f"{before} cannot be loaded: {str(error).splitlines()[0]}") from error
    own = load_tokenizer(str(before))
    if not has_tags(own):
        if hasattr(model.get_input_embeddings().weight, "ds_id"):
            raise ConfigError(
                f"{before} has no tags; under ZeRO-3 it needs them first: look-again prepare {before} OUT"
            )
        prepare(model, own)
    return model


def stored_dtype(before: str | Path | None) -> torch.dtype:
    """What the start's weights are stored in, and the result's will be: frozen rows then stay bit-identical."""
    dtype = torch.float32 if before is None else AutoConfig.from_pretrained(before).dtype
    return dtype if isinstance(dtype, torch.dtype) else torch.float32


def _run_stage(
    config: SftConfig, stage: Stage, before: str | Path | None, tokenizer: Any, image_processor: Any, final: Path
) -> None:
    folder = final.parent
    folder.mkdir(parents=True, exist_ok=True)
    arguments = _arguments(config, stage, folder)  # before the model: ZeRO-3 cuts weights up as they are loaded
    half = stage.trains == "lora" and config.bf16  # frozen weights need no float32 copy
    model = load_start(config, before, tokenizer, torch.bfloat16 if half else torch.float32)
    codec = Codec.of(model.config, tokenizer, image_processor)
    dataset, counts = stage_dataset(config, stage, codec, arguments.world_size)
    trainer = _trainer(config, stage, model, tokenizer, arguments, dataset)
    trainer.train(resume_from_checkpoint=_checkpoint_of_all(folder, trainer))
    _finish(config, stage, before, trainer, tokenizer, image_processor, final, counts)


def stage_dataset(config: SftConfig, stage: Stage, codec: Codec, processes: int) -> tuple[Any, dict[str, int]]:
    """What a stage reads, and what was counted on the way."""
    codec = replace(codec, image_processor=bounded(codec.image_processor, stage.max_pixels))
    if stage.task == "rows":
        return load_stage_samples(stage, config.seed, codec)
    return TabletopDataset(stage, config.seed, codec, processes), {}


def _trainer(
    config: SftConfig, stage: Stage, model: Any, tokenizer: Any, arguments: TrainingArguments, dataset: Any
) -> Trainer:
    ids = tag_ids(tokenizer)
    module: torch.nn.Module
    torch.manual_seed(config.seed)  # of the vision head and of adapters
    if stage.task == "vision":
        module = VisionProbe(model.base_model.visual, model.config.get_text_config().hidden_size)
    else:
        tags = choose_trainable(model, stage, list(ids.values()))
        module = Reattending(model, ids, tags)
    kind = Trainer if stage.task == "vision" else ReattentionTrainer
    return kind(
        model=module,
        args=arguments,
        data_collator=collate,
        train_dataset=dataset,
        processing_class=tokenizer,
        callbacks=[LogFile(Path(str(arguments.output_dir)) / "log.jsonl")],
    )


def _checkpoint_of_all(folder: Path, trainer: Trainer) -> str | None:
    """The checkpoint to go on from; the main process cleans up, then all read the same."""
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
    before: str | Path | None,
    trainer: Trainer,
    tokenizer: Any,
    image_processor: Any,
    final: Path,
    counts: Mapping[str, int],
) -> None:
    """Gather the weights and write the checkpoint folder."""
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    unset_hf_deepspeed_config()  # the model that the state goes into is whole
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    facts = {"Rows": dict(counts) or "made on the fly", "Last logged loss": losses[-1] if losses else "none"}

    if trainer.accelerator.is_main_process:
        fresh = load_start(config, before, tokenizer)
        if stage.task == "vision":
            visual = {k.removeprefix("visual."): v for k, v in state.items() if k.startswith("visual.")}
            fresh.base_model.visual.load_state_dict(visual)
        else:
            fresh = merged(state, stage, fresh, tokenizer)
        dtype = stored_dtype(before)
        write_checkpoint(final, fresh, tokenizer, image_processor, config=config, stage=stage, facts=facts, dtype=dtype)
    trainer.accelerator.wait_for_everyone()


def _arguments(config: SftConfig, stage: Stage, folder: Path) -> TrainingArguments:
    scheduler, scheduler_settings = SCHEDULERS[stage.schedule]
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=stage.steps or -1,
        num_train_epochs=stage.epochs or 1,
        per_device_train_batch_size=stage.batch,
        gradient_accumulation_steps=stage.accumulation,
        learning_rate=stage.learning_rate,
        warmup_steps=stage.warmup_steps,
        lr_scheduler_type=scheduler,
        lr_scheduler_kwargs=scheduler_settings,
        weight_decay=stage.weight_decay,
        max_grad_norm=stage.max_grad_norm,
        adam_beta1=stage.adam_beta1,
        adam_beta2=stage.adam_beta2,
        adam_epsilon=stage.adam_epsilon,
        bf16=config.bf16,
        seed=config.seed,
        save_steps=config.save_steps,
        save_total_limit=2,
        logging_steps=config.log_steps,
        dataloader_num_workers=config.workers,
        remove_unused_columns=False,
        report_to=list(config.report_to) or "none",
        use_cpu=not torch.cuda.is_available(),
        gradient_checkpointing=stage.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False} if stage.gradient_checkpointing else None,
    )
