"""What a BRPO run is, read from YAML and checked before anything is loaded.

In YAML the keys stand side by side; here they are grouped by concern. Defaults are the paper's where it gives any; each
is followed by where it is from, or by "paper gives none".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from look_again.clients.vllm_requests import read_base_url
from look_again.core.reattention import Reattention
from look_again.data.source import Source
from look_again.registry import resolve
from look_again.rl.objective import Aggregation, KlEstimate, Level
from look_again.text.grammar import TAGS
from look_again.training.run_parts import (
    TRAINED_MODES,
    AdamW,
    Hardware,
    TrainedParts,
    find_hardware,
    require_choice,
    require_least,
    require_positive,
    require_run,
    require_weights,
)
from look_again.yaml_config import build, check_types, group, read_yaml

ROLLOUTS = ("decoding", "vllm")
REWARDS = ("format", "accuracy", "balance")
EVAL_LENGTHS = "look_again.tabletop.oracle:LENGTHS"
VLLM_TEMPERATURE = 2.0  # the most that a server takes
LEAST_TOKENS = 2 * len(TAGS) + 4  # the tags, a word in each section that needs one


@dataclass(frozen=True, kw_only=True)
class RolloutOptions:
    """How answers are sampled. ValueError for values out of range."""

    questions: int = 4
    """Per step and process; paper: batch 16 with accumulation 2, read as 4 groups of 8 per GPU."""
    group: int = 8
    """Answers per question; paper: 8."""
    temperature: float = 1.0
    """Of sampling; paper: 1.0."""
    max_new_tokens: int = 1024
    """Most tokens of an answer; paper: 1,024."""
    at_once: int | None = None
    """Answers that are decoded at once, with rollouts: decoding; as one ends the next takes its place. The answers are
    the same for any number. None decodes all of a step in one batch, which waits for its longest. Paper gives none."""
    compile: bool = False
    """With rollouts: decoding, run decode steps as a compiled graph; the first step waits for the compiler. Paper gives
    none."""
    reattention: str = "text"
    """What happens at reflections, in rollouts and loss; the paper's BRPO reflects in text."""
    keep: int = 50
    """Percentage of visual tokens that ROUTE re-inserts; paper: m = 50 in all main results."""
    rollouts: str = "decoding"
    """"decoding", our own loop, or "vllm", a server that `look_again.rl.vllm_rollouts` describes. Paper: vLLM."""
    vllm_url: str | tuple[str, ...] | None = None
    """The server of `rollouts: vllm`, or a list of several that share the questions."""
    vllm_weights: str | None = None
    """The folder where the server finds the policy's weights in every step; None: `<output>/rollout-weights`."""

    def __post_init__(self) -> None:
        check_types(self)
        if self.group < 2:
            raise ValueError(f"group is {self.group}: an answer is compared with others of its group, so at least 2")
        if self.max_new_tokens < LEAST_TOKENS:
            raise ValueError(f"max_new_tokens is {self.max_new_tokens}: the format alone takes {LEAST_TOKENS}")
        require_choice("reattention", self.reattention, TRAINED_MODES)
        require_choice("rollouts", self.rollouts, ROLLOUTS)
        require_positive(self, "questions", "temperature", "at_once")
        if self.compile and self.rollouts == "vllm":
            raise ValueError("compile is of rollouts: decoding; a vLLM server compiles its own graphs")
        if self.vllm_url is not None:
            _check_urls(self.vllm_url)
        if (self.rollouts == "vllm") != bool(self.vllm_url):
            raise ValueError("vllm_url goes with rollouts: vllm, and it with vllm_url")
        if self.rollouts == "vllm" and self.temperature > VLLM_TEMPERATURE:
            raise ValueError(f"temperature is {self.temperature}, and a vLLM server takes {VLLM_TEMPERATURE} at most")
        _ = self.policy  # whose keep may be out of range

    @property
    def vllm_urls(self) -> tuple[str, ...]:
        """The addresses of the servers of `rollouts: vllm`."""
        urls = (self.vllm_url,) if isinstance(self.vllm_url, str) else self.vllm_url or ()
        return tuple(map(read_base_url, urls))

    @property
    def policy(self) -> Reattention:
        """What happens at reflections, in rollouts and loss. A server shows the rows that ROUTE chose in a strip."""
        strip = self.rollouts == "vllm" and self.reattention == "route"
        return Reattention(mode=self.reattention, keep=self.keep, layout="strip" if strip else "grid")

    @property
    def drawing(self) -> dict[str, Any]:
        """How the answers to a question are drawn, by whatever samples them: arguments of either `sample_groups`."""
        return {"group": self.group, "max_new_tokens": self.max_new_tokens, "temperature": self.temperature}

    @property
    def answers(self) -> int:
        """Answers per step and process."""
        return self.questions * self.group


def _check_urls(given: object) -> None:
    """ValueError, which shows no password, for what is neither an address nor a list of different ones."""
    urls = (given,) if isinstance(given, str) else given
    if not isinstance(urls, tuple | list) or not urls or not all(isinstance(url, str) for url in urls):
        raise ValueError("vllm_url is a text, http://HOST:PORT, or a list of such texts")
    if len(set(map(read_base_url, urls))) < len(urls):
        raise ValueError(f"vllm_url names a server twice: {', '.join(urls)}")


@dataclass(frozen=True, kw_only=True)
class RewardOptions:
    """What answers are rewarded for. ValueError for values out of range."""

    rewards: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(REWARDS, 1.0))
    """Weights of "format", "accuracy" and "balance"; paper gives none."""
    balance_tokens: float = 100.0
    """Lambda of the balance reward, in tokens of a reflection; paper: 100."""
    balance_floor: float = -1.0
    """Lower bound of the balance reward; paper gives none."""
    min_reflections: int = 1
    """Reflections that the format asks for; paper: at least one (section 3.2)."""

    def __post_init__(self) -> None:
        check_types(self)
        require_weights(self, "rewards", REWARDS)
        require_positive(self, "balance_tokens")
        require_least(self, 0, "min_reflections")


@dataclass(frozen=True, kw_only=True)
class ObjectiveOptions:
    """The loss. ValueError for values out of range."""

    level: str = "answer"
    """Of the ratio: "answer" (paper: equation (2)), "sequence" or "token", as in `objective.log_ratio`."""
    aggregation: str = "answer"
    """Mean over answers, or over tokens; paper gives none."""
    beta: float = 0.1
    """Weight of the KL term; 0 needs no reference. Paper: 0.1."""
    kl_estimate: str = "token"
    """k3 of each "token", on the scale of the ratio, or of the whole "answer", which goes with level: answer. Paper: of
    answers, whose exponential of a sum over hundreds of tokens is seldom near its mean; so tokens are our choice."""
    mask_truncated: bool = False
    """Whether answers that were cut off at max_new_tokens give no loss; their rewards count in their group all the
    same. Paper gives none. Off, as a cut-off answer breaks the format: it teaches to end in time."""
    epsilon: float = 0.2
    """Clipping of the ratio, which never binds at one update per batch; paper gives none."""
    micro_batch: int = 8
    """Answers per loss pass; paper gives none."""
    loss_chunk: int | None = None
    """Targets whose logits exist at a time; None for as many as 0.5 GB hold. Exact at any size. Paper gives none."""
    packing: bool = False
    """Compute the answers of a loss pass one after the other without padding; exact. Paper gives none."""
    gradient_checkpointing: bool = False
    """Compute decoder layers again in the backward pass instead of keeping them. Paper gives none."""

    def __post_init__(self) -> None:
        check_types(self)
        require_choice("level", self.level, get_args(Level))
        require_choice("aggregation", self.aggregation, get_args(Aggregation))
        require_choice("kl_estimate", self.kl_estimate, get_args(KlEstimate))
        if self.kl_estimate == "answer" and self.level != "answer":
            raise ValueError(f"kl_estimate: answer goes with level: answer, not {self.level}")
        require_positive(self, "epsilon", "micro_batch", "loss_chunk")
        require_least(self, 0, "beta")


@dataclass(frozen=True, kw_only=True)
class BrpoOptimizer(AdamW):
    """AdamW and its rate, constant after the warm-up. ValueError for values out of range."""

    learning_rate: float = 1e-6
    """Per step; paper: 1e-6."""
    warmup_steps: float = 0.01
    """Steps up to the rate, a share of all steps when below 1; paper: 0.01."""
    adam_beta2: float = 0.95
    """Decay of the squared gradients' mean; paper: 0.95."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "learning_rate")
        require_least(self, 0, "warmup_steps")

    def warmup(self, steps: int) -> int:
        """Steps up to the rate, of a run of so many."""
        return round(self.warmup_steps if self.warmup_steps >= 1 else self.warmup_steps * steps)


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """Greedy accuracy on Tabletop's test split while training; the paper has nothing of the kind.

    ValueError for values out of range.
    """

    eval_steps: int = 0
    """Optimizer steps between evaluations, after the first one; 0 for never."""
    eval_rows: int = 200
    """Questions of an evaluation."""
    eval_length: str | None = None
    """The length that their prompts ask for; None for all three."""

    def __post_init__(self) -> None:
        check_types(self)
        require_least(self, 0, "eval_steps")
        if self.eval_steps:
            require_positive(self, "eval_rows")
        if self.eval_length is not None:
            require_choice("eval_length", self.eval_length, resolve(EVAL_LENGTHS))


@dataclass(frozen=True, kw_only=True)
class BrpoConfig:
    """A run. ValueError for values out of range and parts that do not go together."""

    output: str
    """The run's folder."""
    base: str
    """A checkpoint that writes the format; paper: the cold start's."""
    data: tuple[Source, ...]
    """Samples with reference answers; paper: 10k questions of five data sets."""
    steps: int
    """Optimizer steps; paper gives none (48 hours)."""
    on_bad_row: str = "refuse"
    """A sample without a usable reference answer: "refuse" the run, or "skip" it and count it. Paper gives none."""
    max_pixels: int | None = None
    """Larger images are scaled down to this many pixels; None leaves it to the base. Paper: 640 x 480."""
    seed: int = 0
    """Of everything random; paper gives none."""
    bf16: bool = False
    """Compute in bfloat16 autocast; paper: bf16."""
    save_steps: int = 50
    """Optimizer steps between checkpoints; paper gives none."""
    sampling: RolloutOptions = group(RolloutOptions)
    """How answers are sampled."""
    rewarding: RewardOptions = group(RewardOptions)
    """What they are rewarded for."""
    objective: ObjectiveOptions = group(ObjectiveOptions)
    """The loss."""
    optimizer: BrpoOptimizer = group(BrpoOptimizer)
    """AdamW and its rate."""
    parts: TrainedParts = group(TrainedParts)
    """What of the model trains; paper: all of it."""
    evaluation: EvaluationOptions = group(EvaluationOptions)
    """Accuracy while training."""
    hardware: Hardware = field(default_factory=find_hardware)
    """What `--dry-run` plans with; this machine where nothing is said."""

    def __post_init__(self) -> None:
        check_types(self)
        if not self.data:
            raise ValueError("data names at least one source of rows")
        require_run(self.output, self.seed)
        require_choice("on_bad_row", self.on_bad_row, ("refuse", "skip"))
        require_positive(self, "steps", "save_steps", "max_pixels")
        if self.sampling.rollouts == "vllm" and self.parts.tags_apart:
            raise ValueError(
                f"a vLLM server takes a model's own weights; trains: {self.parts.trains} needs rollouts: decoding"
            )

    @property
    def passes(self) -> int:
        """Loss passes per step and process."""
        return -(-self.sampling.answers // self.objective.micro_batch)


def load_brpo_config(path: str | Path) -> BrpoConfig:
    """Read a recipe. Raises ConfigError for a missing file, bad YAML, unknown keys or values out of range."""
    return build(BrpoConfig, {"data": None, **read_yaml(path, "recipe")}, str(path))
