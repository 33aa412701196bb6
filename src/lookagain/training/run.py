"""`lookagain train sft`: the stages of a recipe, one after the other, each resumable.

A finished stage leaves `<output>/<stage>/final`, moved into place whole; a killed run goes on from its last checkpoint.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoTokenizer,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
    TrainerCallback,
    TrainingArguments,
)

from lookagain.families import family_of
from lookagain.loading import SIDE_FILE
from lookagain.preparation import tag_ids
from lookagain.tabletop.tiny import build_image_processor, build_model, build_tokenizer
from lookagain.training.config import ConfigError, SftConfig, Stage
from lookagain.training.tabletop_data import TabletopDataset
from lookagain.training.trainer import ReattentionTrainer, Trainer, VisionProbe, collate


class LogFile(TrainerCallback):
    """Appends every log line of a stage to `log.jsonl`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_log(self, args, state, control, logs=None, **kwargs):
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": state.global_step, **(logs or {})}) + "\n")


def train(config: SftConfig) -> Path:
    """Run or resume every stage; returns the folder of the last stage's checkpoint."""
    output = Path(config.output)
    output.mkdir(parents=True, exist_ok=True)
    if torch.cuda.device_count() > 1 or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("train sft runs in one process on one device so far; set CUDA_VISIBLE_DEVICES to one")
    tokenizer, image_processor = _processors(config)
    before: Path | None = Path(config.base) if config.base else None
    for stage in config.stages:
        final = output / stage.name / "final"
        if not final.exists():
            model = _start(config, tokenizer, before)
            _run_stage(config, stage, model, tokenizer, image_processor, final)
        before = final
    assert before is not None
    return before


def _processors(config: SftConfig) -> tuple[Any, Any]:
    """Tokenizer (with tags) and image processor: the base checkpoint's, or those of the tiny model."""
    if config.base is None:
        return build_tokenizer(config.tiny.vocabulary), build_image_processor()
    tokenizer = AutoTokenizer.from_pretrained(config.base)
    tag_ids(tokenizer)
    return tokenizer, Qwen2VLImageProcessorPil.from_pretrained(config.base)


def _start(config: SftConfig, tokenizer: Any, before: Path | None) -> Any:
    if before is None:
        return build_model(tokenizer, config.tiny, config.seed)
    return Qwen2_5_VLForConditionalGeneration.from_pretrained(before, dtype=torch.float32)


def _run_stage(config: SftConfig, stage: Stage, model: Any, tokenizer: Any, image_processor: Any, final: Path) -> None:
    folder = final.parent
    dataset = TabletopDataset(stage, config.seed, family_of(model.config), tokenizer, image_processor, model.config)
    for parameter in model.base_model.visual.parameters():
        parameter.requires_grad_(not stage.freeze_vision)
    kinds: dict[str, Any] = {"model": model, "trainer": ReattentionTrainer}
    if stage.task == "vision":
        torch.manual_seed(config.seed)
        hidden = model.config.get_text_config().hidden_size
        kinds = {"model": VisionProbe(model.base_model.visual, hidden), "trainer": Trainer}
    trainer = kinds["trainer"](
        model=kinds["model"],
        args=_arguments(config, stage, folder),
        data_collator=collate,
        train_dataset=dataset,
        processing_class=tokenizer,
        callbacks=[LogFile(folder / "log.jsonl")],
    )
    folder.mkdir(parents=True, exist_ok=True)
    trainer.train(resume_from_checkpoint=last_complete_checkpoint(folder))
    _save(model, tokenizer, image_processor, stage, final)


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


def _arguments(config: SftConfig, stage: Stage, folder: Path) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=stage.steps,
        per_device_train_batch_size=stage.batch,
        learning_rate=stage.learning_rate,
        warmup_steps=stage.warmup_steps,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": 0.1},
        weight_decay=stage.weight_decay,
        max_grad_norm=stage.max_grad_norm,
        adam_beta2=stage.adam_beta2,
        bf16=config.bf16,
        seed=config.seed,
        save_steps=config.save_steps,
        save_total_limit=2,
        logging_steps=config.log_steps,
        dataloader_num_workers=config.workers,
        remove_unused_columns=False,
        report_to="none",
        use_cpu=not torch.cuda.is_available(),
    )


def _save(model: Any, tokenizer: Any, image_processor: Any, stage: Stage, final: Path) -> None:
    """Write the checkpoint beside its place and move it there whole."""
    unfinished = final.with_name("final.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    model.save_pretrained(unfinished)
    tokenizer.save_pretrained(unfinished)
    image_processor.save_pretrained(unfinished)
    (unfinished / SIDE_FILE).write_text(json.dumps({"trained": True, "stage": asdict(stage)}, indent=2) + "\n")
    unfinished.rename(final)
