"""`look-again train brpo`: group-relative policy optimisation with the paper's rewards, also inside re-attention.

A loop of its own rather than TRL's: answers may hold re-inserted image rows, which a trainer that rebuilds sequences
from token ids cannot carry. One update per batch of rollouts, so the ratio is 1 at every step and clipping never binds;
it is computed all the same.

Everything random in a step is drawn from (seed, step). So a checkpoint is the weights, the optimizer and the step, and
a killed run goes on as if nothing had happened.

Legend: Q questions, G answers per question, B = Q * G answers, L longest answer.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor
from tqdm import tqdm
from transformers import get_scheduler

from look_again.data.sample import Sample
from look_again.rl.checkpoints import load_checkpoint, save_checkpoint
from look_again.rl.objective import brpo_loss, group_advantages
from look_again.rl.recipe import BrpoConfig
from look_again.rl.reference_policy import Reference, kept_whole, reference_copy
from look_again.rl.rollouts import Rollout, sample_groups
from look_again.rl.step import describe, load_references, padded, questions_of_step, reward_table, step_seed
from look_again.text.tags import tag_ids
from look_again.training.batches import Codec, bounded, collate
from look_again.training.export import merged, write_checkpoint
from look_again.training.module import Reattending, evaluating
from look_again.training.recipe import SftConfig
from look_again.training.sft import check_recipe, load_start, processors_of, stored_dtype
from look_again.training.step_log import append_line, keep_lines
from look_again.training.trainable import choose_trainable

# Of a log line; all else in it is the same when run again.
SECONDS = ("seconds_generation", "seconds_scoring", "seconds_loss")
EVAL_SEED = 777  # of the questions that accuracy is measured on while training
TABLETOP_ACCURACY = "look_again.tabletop.figures:measure_accuracy"


def train_brpo(config: BrpoConfig) -> Path:
    """Run or resume; returns the folder of the trained checkpoint. ConfigError or RowError before the first step."""
    output = Path(config.output)
    output.mkdir(parents=True, exist_ok=True)
    check_recipe(asdict(config), output)
    final = output / "final"
    if not final.exists():
        Run(config).train(final)
    return final


class Run:
    """Three levels: `train` loops, `step` makes a step, the functions below it are pure."""

    def __init__(self, config: BrpoConfig) -> None:
        self.config, self.output = config, Path(config.output)
        self.sft = SftConfig(output=config.output, stages=(config.stage,), base=config.base, seed=config.seed)
        self.tokenizer, image_processor = processors_of(self.sft)
        self.rows = load_references(config)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        copy = reference_copy(self._start, config.trains, config.beta, device, config.bf16)
        self.accelerator = _accelerator(config)  # after the reference: DeepSpeed cuts up what is loaded from now on
        model = self._start(torch.bfloat16 if config.trains == "lora" and config.bf16 else torch.float32)
        ids = tag_ids(self.tokenizer)
        self.codec = Codec.of(model.config, self.tokenizer, bounded(image_processor, config.max_pixels))
        torch.manual_seed(config.seed)  # of adapters
        module = Reattending(model, ids, choose_trainable(model, config.stage, list(ids.values())))
        if config.gradient_checkpointing:
            module.gradient_checkpointing_enable({"use_reentrant": False})
        self.inner = module
        optimizer = _optimizer(config, module)
        warmup = config.warmup_steps if config.warmup_steps >= 1 else config.warmup_steps * config.steps
        scheduler = get_scheduler("constant_with_warmup", optimizer, num_warmup_steps=round(warmup))
        self.module, self.optimizer = self.accelerator.prepare(module, optimizer)
        self.scheduler = scheduler  # stepped once per step by us, however many processes there are
        self.reference = Reference(module, None if copy is None else copy.to(self.accelerator.device))

    def _start(self, dtype: torch.dtype) -> Any:
        return load_start(self.sft, self.config.base, self.tokenizer, dtype)

    def train(self, final: Path) -> None:
        """From the last checkpoint to the end."""
        parts = (self.accelerator, self.inner, self.optimizer, self.scheduler, self.output)
        start = load_checkpoint(*parts)
        log, main = self.output / "log.jsonl", self.accelerator.is_main_process
        if main:
            keep_lines(log, start)
        steps = range(start, self.config.steps)
        for step in tqdm(steps, initial=start, total=self.config.steps, desc="brpo", disable=not main):
            entry = self.step(step)
            if self.config.eval_steps and ((step + 1) % self.config.eval_steps == 0 or step == 0):
                entry["test_accuracy"] = self.evaluate()
            if main:
                append_line(log, {"step": step + 1, **entry})
            if (step + 1) % self.config.save_steps == 0 or step + 1 == self.config.steps:
                save_checkpoint(*parts, step + 1)
        self.export(final)

    def step(self, step: int) -> dict[str, float]:
        """Sample, reward, update; what is logged, as means over all processes."""
        config, process = self.config, self.accelerator.process_index
        rows = questions_of_step(self.rows, config, step, process, self.accelerator.num_processes)
        began = time.perf_counter()
        rollouts = self.sample(rows, step_seed(config.seed, step, process))
        sampled = time.perf_counter()
        rewards = reward_table(config, rollouts, self.codec.tag_ids)
        total = torch.stack([config.rewards.get(name, 0.0) * values for name, values in rewards.items()]).sum(0)
        advantages = group_advantages(total, config.group).to(self.accelerator.device)
        metrics = describe(config, rollouts, rewards, total, self.codec.tag_ids)
        scored = time.perf_counter()
        metrics |= self.update(rollouts, advantages)
        seconds = (sampled - began, scored - sampled, time.perf_counter() - scored)
        metrics |= dict(zip(SECONDS, seconds, strict=True))
        values = torch.tensor(list(metrics.values()), dtype=torch.float64, device=self.accelerator.device)
        means = self.accelerator.reduce(values.float(), "mean").tolist() if self.accelerator.num_processes > 1 else None
        return metrics if means is None else dict(zip(metrics, means, strict=True))

    def sample(self, rows: Sequence[Sample], seed: int) -> list[Rollout]:
        """G answers to each question."""
        return self.sample_by_vllm(rows, seed) if self.config.rollouts == "vllm" else self.sample_here(rows, seed)

    def sample_by_vllm(self, rows: Sequence[Sample], seed: int) -> list[Rollout]:
        """By a server, once it has the policy's weights."""
        from look_again.rl.vllm_rollouts import VllmServer, stop_ids

        config, model = self.config, self.inner.model
        server = VllmServer(str(config.vllm_url), stop_token_ids=stop_ids(model))
        state = self.accelerator.get_state_dict(self.module)
        if self.accelerator.is_main_process:
            own = {name.removeprefix("model."): value for name, value in state.items()}
            folder = config.vllm_weights or self.output / "rollout-weights"
            server.push_weights(model, folder, state=own, dtype=torch.bfloat16 if config.bf16 else None)
        self.accelerator.wait_for_everyone()
        rollouts = server.sample_groups(
            self.codec,
            rows,
            config.policy,
            group=config.group,
            max_new_tokens=config.max_new_tokens,
            temperature=config.temperature,
            seed=seed,
        )
        self.accelerator.wait_for_everyone()  # the next step's weights wait for the slowest process
        return rollouts

    def sample_here(self, rows: Sequence[Sample], seed: int) -> list[Rollout]:
        """By the decoding loop."""
        config = self.config
        generator = torch.Generator(self.accelerator.device).manual_seed(seed)

        def decode(inner: Reattending) -> list[Rollout]:
            return sample_groups(
                inner.model,
                self.codec,
                rows,
                config.policy,
                group=config.group,
                max_new_tokens=config.max_new_tokens,
                temperature=config.temperature,
                generator=generator,
            )

        with torch.no_grad(), kept_whole(self.module):
            return self.module(inside=decode)

    def update(self, rollouts: Sequence[Rollout], advantages: Tensor) -> dict[str, float]:
        """One optimizer step on a batch of rollouts."""
        config, sums = self.config, dict[str, float]()
        self.module.train()
        sampled = torch.tensor(float(sum(len(r.completion_ids) for r in rollouts)), device=self.accelerator.device)
        tokens = float(self.accelerator.reduce(sampled, "mean"))
        order = sorted(range(len(rollouts)), key=lambda i: len(rollouts[i].completion_ids))
        parts = [order[start : start + config.micro_batch] for start in range(0, len(order), config.micro_batch)]
        norm: Any = None
        for part in parts:
            with self.accelerator.accumulate(self.module):
                loss, metrics = self.loss([rollouts[i] for i in part], advantages[part])
                asked = sum(len(rollouts[i].completion_ids) for i in part)
                share = asked / tokens if config.aggregation == "token" else len(part) / len(rollouts)
                self.accelerator.backward(loss * share * len(parts))  # which divides by the number of parts
                if self.accelerator.sync_gradients:
                    norm = self.accelerator.clip_grad_norm_(self.module.parameters(), config.max_grad_norm)
                self.optimizer.step()
                self.optimizer.zero_grad()
            for name, value in {"loss": loss.detach(), **metrics}.items():
                sums[name] = sums.get(name, 0.0) + float(value) * share
        self.scheduler.step()
        return {**sums, "grad_norm": float(norm), "learning_rate": self.scheduler.get_last_lr()[0]}

    def loss(self, rollouts: Sequence[Rollout], advantages: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Of a few rollouts, by the sequences that they were sampled as."""
        config = self.config
        batch = {k: v for k, v in collate([rollout.item for rollout in rollouts]).items() if k != "labels"}
        batch = {k: v.to(self.accelerator.device) if isinstance(v, Tensor) else v for k, v in batch.items()}
        batch |= {"log_probs": True, "temperature": config.temperature}
        ref = None
        if config.beta:
            with self.accelerator.autocast():
                ref, _ = padded(self.reference.log_probs(self.module, self.inner, batch))
        new, mask = padded(self.module(**batch))
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
        from look_again.loading import Checkpoint
        from look_again.model import LookAgain
        from look_again.registry import resolve

        codec = self.codec
        checkpoint = Checkpoint(
            "brpo", self.inner.model, codec.tokenizer, codec.image_processor, codec.family, trained=True
        )
        accuracy = resolve(TABLETOP_ACCURACY)

        def measure(inner: Reattending) -> float:
            with evaluating(inner.model):
                model, config = LookAgain(checkpoint), self.config
                return accuracy(model, config.policy, n=config.eval_rows, seed=EVAL_SEED, length=config.eval_length)

        with torch.no_grad(), kept_whole(self.module):
            return self.module(inside=measure)

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


def _accelerator(config: BrpoConfig) -> Accelerator:
    accelerator = Accelerator(
        mixed_precision="bf16" if config.bf16 else "no",
        cpu=not torch.cuda.is_available(),
        gradient_accumulation_steps=config.passes,
    )
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        settings = accelerator.state.deepspeed_plugin.deepspeed_config
        settings["train_micro_batch_size_per_gpu"] = config.micro_batch
    return accelerator


def _optimizer(config: BrpoConfig, module: Reattending) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        list(module.trained.values()),
        lr=config.learning_rate,
        betas=(config.adam_beta1, config.adam_beta2),
        eps=config.adam_epsilon,
        weight_decay=config.weight_decay,
    )
