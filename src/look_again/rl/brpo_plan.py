"""`--dry-run` of BRPO: what a recipe will take, from shapes alone, before anything is loaded.

The plan of the same parameters in supervised training with logits at sampled tokens alone, and what BRPO adds: the
reference, and for sampling the cache of a step's answers and, where an engine shards them, whole weights. A prompt of
PROMPT_TOKENS beside its images is assumed; what vLLM takes on a GPU of its own is not counted.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from look_again.rl.recipe import BrpoConfig
from look_again.training.large_shapes import TOKEN_PIXELS
from look_again.training.recipe import SftConfig
from look_again.training.sft_plan import GB, StagePlan, check_fits, empty_model, plan_stage

PROMPT_TOKENS = 512
PIXELS = 512 * TOKEN_PIXELS**2  # of an image that nothing bounds


def plan_brpo(config: BrpoConfig) -> StagePlan:
    """The plan. ConfigError when it cannot fit its hardware, saying what to change."""
    slots = PROMPT_TOKENS + (config.max_pixels or PIXELS) // TOKEN_PIXELS**2 + config.max_new_tokens
    stage = replace(
        config.stage,
        batch=config.micro_batch,
        accumulation=config.passes,
        max_length=slots,
        gradient_checkpointing=config.gradient_checkpointing,
    )
    sft = SftConfig(output=config.output, stages=(stage,), base=config.base, bf16=config.bf16, hardware=config.hardware)
    model = empty_model(sft)
    made = plan_stage(sft, stage, model)
    memory = made.memory_gb | {"logits": made.memory_gb["logits"] * config.max_new_tokens / slots}
    made = replace(made, memory_gb=memory | _added(config, model, made.parameters, slots, memory))
    check_fits(made, config.hardware)
    return made


def _added(config: BrpoConfig, model: Any, parameters: int, slots: int, memory: dict[str, float]) -> dict[str, float]:
    """In GB per GPU. Sampling and the loss pass take turns, so sampling counts where it needs more than that."""
    text, size = model.config.get_text_config(), 2 if config.bf16 else 4
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    cache = 2 * text.num_hidden_layers * text.num_key_value_heads * head * size
    sharded = config.hardware.engine in ("fsdp2", "zero3")
    copied = config.beta > 0 and config.trains != "lora"
    here = config.rollouts == "decoding"
    sampling = here * (config.questions * config.group * slots * cache + sharded * parameters * size) / GB
    passing = memory["activations"] + memory["logits"] + memory["weights in use"]
    return {"reference": copied * parameters * size / GB, "sampling": max(0.0, sampling - passing)}


def as_text(config: BrpoConfig, made: StagePlan) -> str:
    """The plan as people read it."""
    hardware, questions = config.hardware, config.questions * config.hardware.gpus
    rows = "not counted (made on the fly, or not here)" if made.rows is None else f"{made.rows:,}"
    epochs = "" if made.rows is None else f" ({config.steps * questions / made.rows:.2f} epochs)"
    return "\n".join(
        [
            f"BRPO of {config.base} on {hardware.gpus} x {hardware.memory_gb:g} GB, {hardware.engine}",
            f"  parameters        {made.parameters:,}",
            f"  trainable         {made.trainable:,} ({made.trainable / made.parameters:.2%})",
            f"  questions         {rows}",
            f"  optimizer steps   {config.steps:,} of {questions:,} questions x {config.group} answers{epochs}",
            f"  answers           {config.steps * questions * config.group:,}, each at most {config.max_new_tokens:,} "
            "tokens",
            f"  rewards           {', '.join(f'{name} x {weight:g}' for name, weight in config.rewards.items())}; "
            f"lambda {config.balance_tokens:g} tokens",
            f"  re-attention      {config.reattention}; ratio: {config.level}; beta {config.beta:g}",
            f"  memory per GPU    about {made.total_gb:.1f} GB",
            *[f"    {name:<15} {size:6.1f} GB" for name, size in made.memory_gb.items()],
        ]
    )
