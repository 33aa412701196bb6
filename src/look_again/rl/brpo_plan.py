"""`--dry-run` of BRPO: what a recipe will take, from shapes alone, before anything is loaded.

The plan of the same parameters in supervised training with logits at sampled tokens alone, and what BRPO adds: the
reference, and for sampling the cache of a step's answers and, where an engine shards them, whole weights. A prompt of
PROMPT_TOKENS beside its images is assumed; what vLLM takes on a GPU of its own is not counted.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from look_again.rl.brpo_config import BrpoConfig
from look_again.training.large_shapes import TOKEN_PIXELS
from look_again.training.sft_plan import GB, StagePlan, Workload, check_fits, empty_model, memory_lines, plan_workload

PROMPT_TOKENS = 512
PIXELS = 512 * TOKEN_PIXELS**2  # of an image that nothing bounds


def plan_brpo(config: BrpoConfig) -> StagePlan:
    """The plan. ConfigError when it cannot fit its hardware, saying what to change."""
    prompt = PROMPT_TOKENS + (config.max_pixels or PIXELS) // TOKEN_PIXELS**2
    slots = prompt + config.sampling.max_new_tokens
    model = empty_model(config.base, config.hardware)
    loss = plan_workload(loss_workload(config, slots), model)
    added = _added(config, model, loss.parameters, slots, loss.memory_gb)
    whole = replace(loss, memory_gb=loss.memory_gb | added)
    check_fits(whole, config.hardware)
    return whole


def loss_workload(config: BrpoConfig, slots: int) -> Workload:
    """The loss passes of a run, with sequences of so many slots."""
    return Workload(
        name="brpo",
        parts=config.parts,
        data=config.data,
        batch=config.objective.micro_batch,
        accumulation=config.passes,
        max_length=slots,
        max_targets=config.sampling.max_new_tokens,
        loss_chunk=config.objective.loss_chunk,
        gradient_checkpointing=config.objective.gradient_checkpointing,
        bf16=config.bf16,
        hardware=config.hardware,
        steps=config.steps,
    )


def _added(config: BrpoConfig, model: Any, parameters: int, slots: int, memory: dict[str, float]) -> dict[str, float]:
    """In GB per GPU. Sampling and the loss pass take turns, so sampling counts where it needs more than that."""
    text, size = model.config.get_text_config(), 2 if config.bf16 else 4
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    cache = 2 * text.num_hidden_layers * text.num_key_value_heads * head * size
    copied = config.objective.beta > 0 and config.parts.trains != "lora"
    here = config.sampling.rollouts == "decoding"
    sampling = here * (config.sampling.answers * slots * cache + config.hardware.sharded * parameters * size) / GB
    passing = memory["activations"] + memory["logits"] + memory["weights in use"]
    return {"reference": copied * parameters * size / GB, "sampling": max(0.0, sampling - passing)}


def as_text(config: BrpoConfig, plan: StagePlan) -> str:
    """The plan as people read it."""
    hardware, sampling, rewarding = config.hardware, config.sampling, config.rewarding
    questions = sampling.questions * hardware.devices
    rows = "not counted (made on the fly, or not here)" if plan.rows is None else f"{plan.rows:,}"
    epochs = "" if plan.rows is None else f" ({config.steps * questions / plan.rows:.2f} epochs)"
    weights = ", ".join(f"{name} x {weight:g}" for name, weight in rewarding.rewards.items())
    return "\n".join(
        [
            f"BRPO of {config.base} on {hardware}, {hardware.engine}",
            f"  parameters        {plan.parameters:,}",
            f"  trainable         {plan.trainable:,} ({plan.trainable / plan.parameters:.2%})",
            f"  questions         {rows}",
            f"  optimizer steps   {config.steps:,} of {questions:,} questions x {sampling.group} answers{epochs}",
            f"  answers           {config.steps * questions * sampling.group:,}, each at most "
            f"{sampling.max_new_tokens:,} tokens",
            f"  rewards           {weights}; lambda {rewarding.balance_tokens:g} tokens",
            f"  re-attention      {sampling.reattention}; ratio: {config.objective.level}; "
            f"beta {config.objective.beta:g}",
            *memory_lines(plan, hardware),
        ]
    )
