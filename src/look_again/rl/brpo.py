"""`look-again train brpo`: group-relative policy optimisation with the paper's rewards, also inside re-attention.

A loop of its own rather than TRL's: answers may hold re-inserted visual tokens, which a trainer that rebuilds sequences
from token ids cannot carry. One update per batch of rollouts, so the ratio is 1 at every step and clipping never binds;
it is computed all the same.

Everything random in a step is drawn from (seed, step). So a checkpoint is the weights, the optimizer and the step, and
a killed run goes on as if nothing had happened.

Legend: Q questions, G answers per question, B = Q * G answers, L longest answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor
from tqdm import tqdm
from transformers import get_scheduler

from look_again.core.compiled.compiled_step import check_compiler
from look_again.core.cpu_threads import decoding_threads
from look_again.data.sample import Sample
from look_again.extras import require
from look_again.registry import resolve
from look_again.rl.brpo_config import BrpoConfig
from look_again.rl.checkpoints import load_checkpoint, save_checkpoint
from look_again.rl.objective import brpo_loss, group_advantages
from look_again.rl.reference_policy import Reference, kept_whole, reference_copy
from look_again.rl.rollouts import Rollout, sample_groups
from look_again.rl.step import (
    count_loss_tokens,
    describe,
    draw_questions,
    load_references,
    padded,
    reward_table,
    step_seed,
)
from look_again.training.base_model import BaseModel, load_processors
from look_again.training.batches import collate
from look_again.training.export import Export, write_checkpoint
from look_again.training.module import Reattending, evaluating
from look_again.training.packing import check_packing
from look_again.training.sft import check_recipe, write_recipe
from look_again.training.sft_plan import empty_model
from look_again.training.step_log import append_line, keep_lines
from look_again.yaml_config import as_keys

# Of a log line; all else in it is the same when run again.
SECONDS = ("seconds_generation", "seconds_scoring", "seconds_loss")
SHOWN = ("reward", "accuracy", "reflections", "tokens")  # beside the progress bar, of the last step
EVAL_SEED = 777  # of the questions that accuracy is measured on while training
TABLETOP_ACCURACY = "look_again.tabletop.figures:measure_accuracy"


def train_brpo(config: BrpoConfig) -> Path:
    """Run or resume; returns the folder of the trained checkpoint.

    ConfigError, SampleError, LoadError and what `check_early` raises before the first step.
    """
    output = Path(config.output)
    check_recipe(as_keys(config), output)
    final = output / "final"
    if not final.exists():
        run = Run(config)
        write_recipe(as_keys(config), output)
        run.train(final)
    return final


class Run:
    """Three levels: `train` loops, `step` makes a step, the functions below it are pure."""

    def __init__(self, config: BrpoConfig) -> None:
        self.config, self.output = config, Path(config.output)
        check_early(config)
        self.base = run_base(config)
        self.base.early_codec()  # which refuses a bound below one visual token
        if config.objective.packing:
            check_packing(empty_model(config.base, config.hardware))
        self.samples = load_references(config)
        beta, trains = config.objective.beta, config.parts.trains
        copy = reference_copy(self.base.load, trains, beta, _device(), config.bf16)
        self.accelerator = _accelerator(config)  # after the reference: DeepSpeed cuts up what is loaded from now on
        model = self.base.load(self.base.loss_dtype(config.bf16))
        self.codec = self.base.codec(model.config)
        self.inner = module = self.base.trainable(model)
        if config.objective.gradient_checkpointing:
            module.recompute_layers()
        optimizer = _optimizer(config, module)
        warmup = config.optimizer.warmup(config.steps)
        # Stepped once per step by us, however many processes there are.
        self.scheduler = get_scheduler("constant_with_warmup", optimizer, num_warmup_steps=warmup)
        self.module, self.optimizer = self.accelerator.prepare(module, optimizer)
        self.reference = Reference(module, None if copy is None else copy.to(self.accelerator.device))

    def train(self, final: Path) -> None:
        """From the last checkpoint to the end."""
        parts = (self.accelerator, self.inner, self.optimizer, self.scheduler, self.output)
        start = load_checkpoint(*parts)
        log, main = self.output / "log.jsonl", self.accelerator.is_main_process
        if main:
            keep_lines(log, start)
        steps = range(start, self.config.steps)
        progress = tqdm(steps, initial=start, total=self.config.steps, desc="brpo", disable=not main)
        for step in progress:
            entry = self.step(step)
            progress.set_postfix({name: f"{entry[name]:.3g}" for name in SHOWN})
            interval = self.config.evaluation.eval_steps
            if interval and ((step + 1) % interval == 0 or step == 0):
                entry["test_accuracy"] = self.evaluate()
            if main:
                append_line(log, {"step": step + 1, **entry})
            if (step + 1) % self.config.save_steps == 0 or step + 1 == self.config.steps:
                save_checkpoint(*parts, step + 1)
        self.export(final)

    def step(self, step: int) -> dict[str, float]:
        """Sample, reward, update; what is logged, as means over all processes."""
        config, process = self.config, self.accelerator.process_index
        questions = draw_questions(self.samples, config, step, process, self.accelerator.num_processes)
        began = time.perf_counter()
        rollouts = self.sample(questions, step_seed(config.seed, step, process))
        sampled = time.perf_counter()
        rewards = reward_table(config, rollouts, self.codec.tag_ids)
        weights = config.rewarding.rewards
        total = torch.stack([weights.get(name, 0.0) * values for name, values in rewards.items()]).sum(0)
        advantages = group_advantages(total, config.sampling.group).to(self.accelerator.device)
        metrics = describe(config, rollouts, rewards, total, self.codec.tag_ids)
        scored = time.perf_counter()
        metrics |= self.update(rollouts, advantages)
        seconds = (sampled - began, scored - sampled, time.perf_counter() - scored)
        metrics |= dict(zip(SECONDS, seconds, strict=True))
        values = torch.tensor(list(metrics.values()), dtype=torch.float64, device=self.accelerator.device)
        means = self.accelerator.reduce(values.float(), "mean").tolist() if self.accelerator.num_processes > 1 else None
        return metrics if means is None else dict(zip(metrics, means, strict=True))

    def sample(self, questions: Sequence[Sample], seed: int) -> list[Rollout]:
        """G answers to each question."""
        served = self.config.sampling.rollouts == "vllm"
        return self.sample_by_vllm(questions, seed) if served else self.sample_here(questions, seed)

    def sample_by_vllm(self, questions: Sequence[Sample], seed: int) -> list[Rollout]:
        """By a server, once it has the policy's weights."""
        from look_again.rl.vllm_rollouts import VllmServers, stop_ids

        config, options, model = self.config, self.config.sampling, self.inner.model
        server = VllmServers.at(options.vllm_urls, stop_ids(model))
        state = self.accelerator.get_state_dict(self.module)
        if self.accelerator.is_main_process:
            own = {name.removeprefix("model."): value for name, value in state.items()}
            folder = options.vllm_weights or self.output / "rollout-weights"
            server.push_weights(model, folder, state=own, dtype=torch.bfloat16 if config.bf16 else None)
        self.accelerator.wait_for_everyone()

        def ask(inner: Reattending) -> list[Rollout]:
            with evaluating(inner.model):
                return server.sample_groups(
                    self.codec, questions, options.policy, **options.drawing, seed=seed, model=inner.model
                )

        reads_along = options.policy.mode == "route"
        rollouts = self.inside(ask) if reads_along else ask(self.inner)
        self.accelerator.wait_for_everyone()  # the next step's weights wait for the slowest process
        return rollouts

    def sample_here(self, questions: Sequence[Sample], seed: int) -> list[Rollout]:
        """By the decoding loop."""
        options = self.config.sampling
        generator = torch.Generator(self.accelerator.device).manual_seed(seed)

        def decode(inner: Reattending) -> list[Rollout]:
            return sample_groups(
                inner.model,
                self.codec,
                questions,
                options.policy,
                **options.drawing,
                generator=generator,
                places=options.at_once,
                compile=options.compile,
            )

        return self.inside(decode)

    def inside(self, act: Callable[[Reattending], list[Rollout]]) -> list[Rollout]:
        """Call it with the module, whose weights are whole meanwhile."""
        with torch.no_grad(), kept_whole(self.module):
            return self.module(inside=act)

    def update(self, rollouts: Sequence[Rollout], advantages: Tensor) -> dict[str, float]:
        """One optimizer step on a batch of rollouts."""
        objective, sums = self.config.objective, dict[str, float]()
        self.module.train()
        counts = [count_loss_tokens(self.config, rollout) for rollout in rollouts]
        tokens = float(
            self.accelerator.reduce(torch.tensor(float(sum(counts)), device=self.accelerator.device), "mean")
        )
        order = sorted(range(len(rollouts)), key=lambda i: len(rollouts[i].completion_ids))
        size, max_norm = objective.micro_batch, self.config.optimizer.max_grad_norm
        parts = [order[start : start + size] for start in range(0, len(order), size)]
        norm: Any = None
        for part in parts:
            with self.accelerator.accumulate(self.module):
                loss, metrics = self.loss([rollouts[i] for i in part], advantages[part])
                share = len(part) / len(rollouts)
                if objective.aggregation == "token":
                    share = sum(counts[i] for i in part) / max(1.0, tokens)
                self.accelerator.backward(loss * share * len(parts))  # which divides by the number of parts
                if self.accelerator.sync_gradients:
                    norm = self.accelerator.clip_grad_norm_(self.module.parameters(), max_norm)
                self.optimizer.step()
                self.optimizer.zero_grad()
            seen = sum(counts[i] > 0 for i in part) / max(1, sum(count > 0 for count in counts))
            shares = dict.fromkeys(metrics, share if objective.aggregation == "token" else seen) | {"loss": share}
            for name, value in {"loss": loss.detach(), **metrics}.items():
                sums[name] = sums.get(name, 0.0) + float(value) * shares[name]
        self.scheduler.step()
        return {**sums, "grad_norm": float(norm), "learning_rate": self.scheduler.get_last_lr()[0]}

    def loss(self, rollouts: Sequence[Rollout], advantages: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Of a few rollouts, by the sequences that they were sampled as."""
        objective = self.config.objective
        batch = {k: v for k, v in collate([rollout.item for rollout in rollouts]).items() if k != "labels"}
        batch = {k: v.to(self.accelerator.device) if isinstance(v, Tensor) else v for k, v in batch.items()}
        batch |= {"log_probs": True, "temperature": self.config.sampling.temperature}
        ref = None
        if objective.beta:
            with self.accelerator.autocast():
                ref, _ = padded(self.reference.log_probs(self.module, self.inner, batch))
        new, mask = padded(self.module(**batch))
        counted = torch.tensor([count_loss_tokens(self.config, r) > 0 for r in rollouts], device=mask.device)
        return brpo_loss(
            new,
            new.detach(),
            ref,
            advantages,
            mask & counted[:, None],
            level=objective.level,  # type: ignore[arg-type]
            aggregation=objective.aggregation,  # type: ignore[arg-type]
            beta=objective.beta,
            epsilon=objective.epsilon,
            kl_estimate=objective.kl_estimate,  # type: ignore[arg-type]
        )

    def evaluate(self) -> float:
        """Greedy accuracy on Tabletop's test split, in the run's own mode."""
        from look_again.loading import Checkpoint
        from look_again.model import LookAgain

        codec, options = self.codec, self.config.evaluation
        checkpoint = Checkpoint(
            "brpo", self.inner.model, codec.tokenizer, codec.image_processor, codec.family, trained=True
        )
        accuracy = resolve(TABLETOP_ACCURACY)

        def measure(inner: Reattending) -> float:
            with evaluating(inner.model), decoding_threads(inner.model):
                model, policy = LookAgain(checkpoint), self.config.sampling.policy
                return accuracy(model, policy, n=options.eval_rows, seed=EVAL_SEED, length=options.eval_length)

        with torch.no_grad(), kept_whole(self.module):
            return self.module(inside=measure)

    def export(self, final: Path) -> None:
        """The checkpoint folder that `ask --model` takes."""
        state = self.accelerator.get_state_dict(self.module)
        if self.accelerator.is_main_process:
            base, export = self.base, run_export(self.config, len(self.samples))
            model, image_processor = base.merged(state), self.codec.image_processor
            write_checkpoint(final, model, base.tokenizer, image_processor, export, base.stored_dtype)
        self.accelerator.wait_for_everyone()


def check_early(config: BrpoConfig) -> None:
    """What would only come to light after the model is loaded: a package, a compiler or a server that is not there.

    MissingExtraError, CompileError and VllmError.
    """
    if config.parts.trains == "lora":
        require("peft", extra="train")
    if config.sampling.compile:
        check_compiler(_device())
    if config.sampling.rollouts == "vllm":
        from look_again.rl.vllm_rollouts import VllmServers

        VllmServers.at(config.sampling.vllm_urls).check()


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def run_base(config: BrpoConfig) -> BaseModel:
    """What a run starts from, with its tokenizer and image processor."""
    tokenizer, image_processor = load_processors(config.base)
    return BaseModel(
        base=config.base,
        tokenizer=tokenizer,
        image_processor=image_processor,
        parts=config.parts,
        seed=config.seed,
        max_pixels=config.max_pixels,
        loss_chunk=config.objective.loss_chunk,
        packing=config.objective.packing,
    )


def run_export(config: BrpoConfig, samples: int) -> Export:
    """What a run's checkpoint says of it."""
    sampling, rewards = config.sampling, config.rewarding.rewards
    return Export(
        title=f"{Path(config.output).name}, stage brpo",
        base=config.base,
        trains=config.parts.trains,
        data=[f"{source.loader}:{source.path}" for source in config.data],
        length=f"{config.steps} steps of {sampling.questions} questions x {sampling.group} answers per process",
        optimizer=f"peak rate {config.optimizer.learning_rate:g}, schedule constant_with_warmup, seed {config.seed}, "
        f"{'bf16' if config.bf16 else 'fp32'}",
        modes={sampling.reattention: 1.0},
        keep=sampling.keep,
        facts={"Rows": samples, "Method": "BRPO, " + ", ".join(f"{name} {value}" for name, value in rewards.items())},
        keys={"name": "brpo", **as_keys(config)},
        max_pixels=config.max_pixels,
    )


def _accelerator(config: BrpoConfig) -> Accelerator:
    accelerator = Accelerator(
        mixed_precision="bf16" if config.bf16 else "no",
        cpu=not torch.cuda.is_available(),
        gradient_accumulation_steps=config.passes,
    )
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        settings = accelerator.state.deepspeed_plugin.deepspeed_config
        settings["train_micro_batch_size_per_gpu"] = config.objective.micro_batch
    return accelerator


def _optimizer(config: BrpoConfig, module: Reattending) -> torch.optim.Optimizer:
    settings = config.optimizer
    return torch.optim.AdamW(
        list(module.trained.values()),
        lr=settings.learning_rate,
        betas=(settings.adam_beta1, settings.adam_beta2),
        eps=settings.adam_epsilon,
        weight_decay=settings.weight_decay,
    )
