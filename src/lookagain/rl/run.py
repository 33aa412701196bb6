"""`lookagain train brpo`: group-relative policy optimisation with the paper's rewards, also inside re-attention.

A loop of its own rather than TRL's: answers may hold re-inserted image rows, which a trainer that rebuilds sequences
from token ids cannot carry. One update per batch of rollouts, so the ratio is 1 at every step and clipping never binds;
it is computed all the same.

Everything random in a step is drawn from (seed, step). So a checkpoint is the weights, the optimizer and the step, and
a killed run goes on as if nothing had happened.

Legend: Q questions, G answers per question, B = Q * G answers, L longest answer.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm
from transformers import get_scheduler

from lookagain.families import family_of
from lookagain.preparation import tag_ids
from lookagain.rl.config import BrpoConfig
from lookagain.rl.log import append_line, keep_lines
from lookagain.rl.objective import brpo_loss, group_advantages
from lookagain.rl.rollouts import Rollout, sample_groups
from lookagain.rl.step import describe, load_references, padded, questions_of_step, reward_table, step_seed
from lookagain.training.config import SftConfig
from lookagain.training.export import merged, write_checkpoint
from lookagain.training.items import Codec, bounded, collate
from lookagain.training.module import Reattending
from lookagain.training.run import check_recipe, load_start, processors_of, stored_dtype
from lookagain.training.trainable import choose_trainable

STATE = "state.pt"
EVAL_SEED = 777  # of the questions that accuracy is measured on while training


def train_brpo(config: BrpoConfig) -> Path:
    """Run or resume; returns the folder of the trained checkpoint. ConfigError or RowError before the first step."""
    output = Path(config.output)
    output.mkdir(parents=True, exist_ok=True)
    check_recipe(asdict(config), output)
    final = output / "final"
    if not final.exists():
        _Run(config).train(final)
    return final


class _Run:
    """Three levels: `train` loops, `step` makes a step, the functions below it are pure."""

    def __init__(self, config: BrpoConfig) -> None:
        self.config, self.output = config, Path(config.output)
        self.accelerator = Accelerator(
            mixed_precision="bf16" if config.bf16 else "no", cpu=not torch.cuda.is_available()
        )
        self.sft = SftConfig(output=config.output, stages=(config.stage,), base=config.base, seed=config.seed)
        self.tokenizer, image_processor = processors_of(self.sft)
        model = load_start(self.sft, config.base, self.tokenizer)
        ids = tag_ids(self.tokenizer)
        image_processor = bounded(image_processor, config.max_pixels)
        self.codec = Codec(family_of(model.config), self.tokenizer, ids, image_processor, model.config)
        self.rows = load_references(config)
        reference = copy.deepcopy(model).requires_grad_(False).eval() if config.beta else None
        module = Reattending(model, ids, choose_trainable(model, config.stage, list(ids.values())))
        if config.gradient_checkpointing:
            module.gradient_checkpointing_enable({"use_reentrant": False})
        self.inner = module
        optimizer = torch.optim.AdamW(
            [p for p in module.parameters() if p.requires_grad],
            lr=config.learning_rate,
            betas=(config.adam_beta1, config.adam_beta2),
            eps=config.adam_epsilon,
            weight_decay=config.weight_decay,
        )
        warmup = config.warmup_steps if config.warmup_steps >= 1 else config.warmup_steps * config.steps
        scheduler = get_scheduler("constant_with_warmup", optimizer, num_warmup_steps=round(warmup))
        self.module, self.optimizer, self.scheduler = self.accelerator.prepare(module, optimizer, scheduler)
        self.reference = None if reference is None else Reattending(reference.to(self.accelerator.device), ids)

    def train(self, final: Path) -> None:
        """From the last checkpoint to the end."""
        start = self.resume()
        for step in tqdm(range(start, self.config.steps), initial=start, total=self.config.steps, desc="brpo"):
            log = self.step(step)
            if self.config.eval_steps and (step + 1) % self.config.eval_steps == 0:
                log["test_accuracy"] = self.evaluate()
            if self.accelerator.is_main_process:
                append_line(self.output / "log.jsonl", {"step": step + 1, **log})
            if (step + 1) % self.config.save_steps == 0 or step + 1 == self.config.steps:
                self.save(step + 1)
        self.export(final)

    def step(self, step: int) -> dict[str, float]:
        """Sample, reward, update; what is logged."""
        config, process = self.config, self.accelerator.process_index
        rows = questions_of_step(self.rows, config, step, process, self.accelerator.num_processes)
        generator = torch.Generator(self.accelerator.device).manual_seed(step_seed(config.seed, step, process))
        rollouts = sample_groups(
            self.inner.model,
            self.codec,
            rows,
            config.policy,
            group=config.group,
            max_new_tokens=config.max_new_tokens,
            temperature=config.temperature,
            generator=generator,
        )
        rewards = reward_table(config, rollouts, self.codec.tag_ids)
        total = torch.stack([config.rewards.get(name, 0.0) * values for name, values in rewards.items()]).sum(0)
        advantages = group_advantages(total, config.group).to(self.accelerator.device)
        metrics = self.update(rollouts, advantages)
        return describe(config, rollouts, rewards, total, self.codec.tag_ids) | metrics

    def update(self, rollouts: Sequence[Rollout], advantages: Tensor) -> dict[str, float]:
        """One optimizer step on a batch of rollouts."""
        config, sums = self.config, dict[str, float]()
        tokens = sum(len(rollout.completion_ids) for rollout in rollouts)
        self.module.train()
        order = sorted(range(len(rollouts)), key=lambda i: len(rollouts[i].completion_ids))
        for start in range(0, len(order), config.micro_batch):
            part = order[start : start + config.micro_batch]
            loss, metrics = self.loss([rollouts[i] for i in part], advantages[part])
            asked = sum(len(rollouts[i].completion_ids) for i in part)
            share = asked / tokens if config.aggregation == "token" else len(part) / len(rollouts)
            self.accelerator.backward(loss * share)
            for name, value in {"loss": loss.detach(), **metrics}.items():
                sums[name] = sums.get(name, 0.0) + float(value) * share
        norm = self.accelerator.clip_grad_norm_(self.module.parameters(), config.max_grad_norm)
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad()
        return {**sums, "grad_norm": float(norm), "learning_rate": self.scheduler.get_last_lr()[0]}

    def loss(self, rollouts: Sequence[Rollout], advantages: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Of a few rollouts, by the sequences that they were sampled as."""
        config = self.config
        batch = {k: v for k, v in collate([rollout.item for rollout in rollouts]).items() if k != "labels"}
        batch = {k: v.to(self.accelerator.device) if isinstance(v, Tensor) else v for k, v in batch.items()}
        options = {"log_probs": True, "temperature": config.temperature}
        new, mask = padded(self.module(**batch, **options))
        ref = None
        if self.reference is not None:
            with torch.no_grad():
                ref, _ = padded(self.reference(**batch, **options))
        return brpo_loss(
            new,
            new.detach(),
            ref,
            advantages,
            mask,
            level=config.level,  # type: ignore[arg-type]
            aggregation=config.aggregation,  # type: ignore[arg-type]
            beta=config.beta,
            epsilon=config.epsilon,
        )

    def evaluate(self) -> float:
        """Greedy accuracy on Tabletop's test split, in the run's own mode."""
        from lookagain.loading import Checkpoint
        from lookagain.model import LookAgain
        from lookagain.tabletop.evaluate import EvalConfig, evaluate

        codec = self.codec
        checkpoint = Checkpoint(
            "brpo", self.inner.model, codec.tokenizer, codec.image_processor, codec.family, trained=True
        )
        self.module.eval()
        settings = EvalConfig(n=self.config.eval_rows, seed=EVAL_SEED, planted=False)
        return float(evaluate(LookAgain(checkpoint), settings, self.config.policy)["accuracy"])

    def save(self, step: int) -> None:
        """Write a checkpoint beside its place, move it there whole and drop older ones."""
        if not self.accelerator.is_main_process:
            return
        beside = self.output / "checkpoint.unfinished"
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir()
        weights = {name: p.detach().cpu() for name, p in self.inner.named_parameters() if p.requires_grad}
        save_file(weights, beside / "model.safetensors")
        state = {"optimizer": self.optimizer.state_dict(), "scheduler": self.scheduler.state_dict(), "step": step}
        torch.save(state, beside / STATE)
        older = list(self.output.glob("checkpoint-*"))
        beside.rename(self.output / f"checkpoint-{step}")
        for folder in older:
            shutil.rmtree(folder)

    def resume(self) -> int:
        """The step to go on from; weights, optimizer and log as they were after it."""
        found = sorted(self.output.glob("checkpoint-*"), key=lambda path: int(path.name.rsplit("-", 1)[1]))
        step = 0
        if found:
            self.inner.load_state_dict(load_file(found[-1] / "model.safetensors"), strict=False)
            state = torch.load(found[-1] / STATE, map_location=self.accelerator.device, weights_only=True)
            self.optimizer.load_state_dict(state["optimizer"])
            self.scheduler.load_state_dict(state["scheduler"])
            step = state["step"]
        if self.accelerator.is_main_process:
            keep_lines(self.output / "log.jsonl", step)
        return step

    def export(self, final: Path) -> None:
        """The checkpoint folder that `ask --model` takes."""
        state = self.accelerator.get_state_dict(self.module)
        if self.accelerator.is_main_process:
            config = self.config
            fresh = load_start(self.sft, config.base, self.tokenizer)
            model = merged(state, config.stage, fresh, self.tokenizer)
            facts = {
                "Rows": len(self.rows),
                "Method": "BRPO, " + ", ".join(f"{k} {v}" for k, v in config.rewards.items()),
            }
            write_checkpoint(
                final,
                model,
                self.tokenizer,
                self.codec.image_processor,
                config=self.sft,
                stage=config.stage,
                facts=facts,
                dtype=stored_dtype(config.base),
            )
        self.accelerator.wait_for_everyone()
