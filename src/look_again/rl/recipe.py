"""What a BRPO run is, read from YAML and checked before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from look_again.core.reattention import Reattention
from look_again.data.source import Source
from look_again.rl.objective import Aggregation, Level
from look_again.text.grammar import TAGS
from look_again.training.recipe import TRAINED_MODES, TRAINS, Hardware, Lora, Stage
from look_again.yaml_config import ConfigError, build, read_yaml

ROLLOUTS = ("decoding", "vllm")
REWARDS = ("format", "accuracy", "balance")
LEAST_TOKENS = 2 * len(TAGS) + 4  # the tags, a word in each section that needs one


@dataclass(frozen=True, kw_only=True)
class BrpoConfig:
    """A run. Defaults are the paper's where it gives any; the rest is marked "paper gives none".

    output: its folder. base: a checkpoint that writes the format. data: rows with reference answers.
    steps: optimizer steps. questions: per step and process; paper: 16 answers x 2, that is 4 groups of 8.
    group, temperature, max_new_tokens: answers per question and how they are sampled.
    reattention, keep: what happens at reflections in rollouts and loss; the paper's BRPO reflects in text.
    rewards: weights (paper gives none). balance_tokens: lambda. balance_floor: its lower bound (paper gives none).
    level: of the ratio; the paper's equation (2) is "answer". aggregation, epsilon: paper gives none.
    micro_batch: answers per loss pass. eval_steps, eval_rows: greedy accuracy on Tabletop's test split, 0 for never;
    eval_length: of its prompts, None for all three.
    rollouts: "decoding", our own loop, or "vllm", a server at vllm_url (`look_again.rl.vllm_rollouts` has its
    command line) that
    reads the policy's weights from the folder vllm_weights before every step; None: `<output>/rollout-weights`.
    """

    output: str
    base: str
    data: tuple[Source, ...]
    steps: int
    questions: int = 4
    group: int = 8
    temperature: float = 1.0
    max_new_tokens: int = 1024
    reattention: str = "text"
    keep: int = 50
    rewards: dict[str, float] = field(default_factory=lambda: dict.fromkeys(REWARDS, 1.0))
    balance_tokens: float = 100.0
    balance_floor: float = -1.0
    min_reflections: int = 1
    level: str = "answer"
    aggregation: str = "answer"
    beta: float = 0.1
    epsilon: float = 0.2
    learning_rate: float = 1e-6
    warmup_steps: float = 0.01
    adam_beta1: float = 0.9
    adam_beta2: float = 0.95
    adam_epsilon: float = 1e-8
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    trains: str = "all"
    lora: Lora = field(default_factory=Lora)
    micro_batch: int = 8
    max_pixels: int | None = None
    gradient_checkpointing: bool = False
    bf16: bool = False
    seed: int = 0
    save_steps: int = 50
    eval_steps: int = 0
    eval_rows: int = 200
    eval_length: str | None = None
    on_bad_row: str = "refuse"
    rollouts: str = "decoding"
    vllm_url: str | None = None
    vllm_weights: str | None = None
    hardware: Hardware = field(default_factory=Hardware)

    def __post_init__(self) -> None:
        _need(bool(self.data), "data names at least one source of rows")
        _need(self.group >= 2, f"group is {self.group}: an answer is compared with others of its group, so at least 2")
        _need(
            self.max_new_tokens >= LEAST_TOKENS,
            f"max_new_tokens is {self.max_new_tokens}: the format alone takes {LEAST_TOKENS}",
        )
        unknown = sorted(set(self.rewards) - set(REWARDS))
        _need(not unknown, f"unknown rewards {unknown}; known: {', '.join(REWARDS)}")
        for name, known in (("reattention", TRAINED_MODES), ("level", get_args(Level)), ("trains", TRAINS)):
            value = getattr(self, name)
            _need(value in known, f"unknown {name} {value!r}; known: {', '.join(known)}")
        _need(self.aggregation in get_args(Aggregation), f"unknown aggregation {self.aggregation!r}")
        for name in ("steps", "questions", "temperature", "balance_tokens", "epsilon", "learning_rate", "micro_batch"):
            _need(getattr(self, name) > 0, f"{name} must be above 0, not {getattr(self, name)}")
        _need(self.beta >= 0, f"beta cannot be negative: {self.beta}")
        _need(self.rollouts in ROLLOUTS, f"unknown rollouts {self.rollouts!r}; known: {', '.join(ROLLOUTS)}")
        served = self.vllm_url is not None
        _need((self.rollouts == "vllm") == served, "vllm_url goes with rollouts: vllm, and it with vllm_url")
        _need(
            self.rollouts == "decoding" or self.reattention == "text",
            f"a vLLM server samples without re-attention; reattention: {self.reattention} needs rollouts: decoding",
        )
        _need(
            self.rollouts == "decoding" or self.trains in ("all", "without_vision"),
            f"a vLLM server takes a model's own weights; trains: {self.trains} needs rollouts: decoding",
        )

    @property
    def passes(self) -> int:
        """Loss passes per step and process."""
        return -(-self.questions * self.group // self.micro_batch)

    @property
    def policy(self) -> Reattention:
        """Of rollouts and loss."""
        return Reattention(mode=self.reattention, keep=self.keep)

    @property
    def stage(self) -> Stage:
        """What an export's card and the choice of parameters need to know."""
        return Stage(
            name="brpo",
            task="rows",
            data=self.data,
            trains=self.trains,
            lora=self.lora,
            steps=self.steps,
            batch=self.questions * self.group,
            learning_rate=self.learning_rate,
            modes={self.reattention: 1.0},
            keep=self.keep,
            schedule="constant_with_warmup",
        )


def _need(holds: bool, message: str) -> None:
    if not holds:
        raise ConfigError(message)


def load_brpo_config(path: str | Path) -> BrpoConfig:
    """Read a recipe. Raises ConfigError for a missing file, bad YAML, unknown keys or values out of range."""
    return build(BrpoConfig, {"data": None, **read_yaml(path, "recipe")}, str(path))
