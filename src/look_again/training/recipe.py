"""What a training run is, read from YAML and checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from look_again.data.source import Source
from look_again.tabletop.oracle import LENGTHS
from look_again.tabletop.rows import LENGTH_WEIGHTS
from look_again.tabletop.tiny import TinyConfig
from look_again.yaml_config import ConfigError, build, read_yaml

TRAINED_MODES = ("text", "copy", "route")  # vision-only writes no reflection, so there is nothing to train
TASKS = ("vision", "captions", "answers", "rows")
TRAINS = ("all", "without_vision", "language_model", "lora")
SCHEDULES = ("cosine_to_tenth", "cosine", "linear", "constant_with_warmup")
ENGINES = ("single", "ddp", "fsdp2", "zero3")


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Low-rank adapters on every linear layer of the language model."""

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of a run.

    task: "vision" (what lies at each visual token, by a linear head), "captions" (Tabletop's responses up to CAPTION,
        without mistakes), "answers" (Tabletop's whole responses) or "rows" (the rows of `data`).
    data: where rows come from, for the task "rows".
    trains: "all", "without_vision", "language_model" (the paper's SFT: decoder layers and final norm; of embedding and
        head only the tags' rows) or "lora" (adapters on the language model, and the tags' rows).
    steps or epochs: one of the two; Tabletop's own tasks have no end, so they take steps.
    batch, accumulation: rows per device and pass, passes per optimizer step.
    learning_rate: peak, after warmup_steps (a share of all steps when below 1), then by schedule.
    adam_beta1, adam_beta2, adam_epsilon: AdamW's; the defaults are the paper's for SFT.
    modes: weights of the re-attention modes that rows are drawn with. keep: ROUTE's percentage; the paper's main value.
    lengths: weights of the lengths that Tabletop's prompts ask for. error_rate: chance of a planted mistake per object.
    reflections: of each Tabletop response; None draws them. distinct: Tabletop rows before they come again; None for no
        end. learn_mistakes: give planted tokens a loss. cursory: chance that a crowded image.s reflection only names
        the answer.
    max_length: most slots of a row, with re-inserted ones. on_long_row, on_bad_row: "refuse" the run, or "drop"/"skip".
    min_reflections: reflections that a response must have. max_pixels: larger images are scaled down (paper: 262144).
    """

    name: str
    task: str
    data: tuple[Source, ...] = ()
    trains: str = "all"
    lora: Lora = field(default_factory=Lora)
    steps: int | None = None
    epochs: float | None = None
    batch: int = 64
    accumulation: int = 1
    learning_rate: float = 1e-3
    warmup_steps: float = 50
    schedule: str = "cosine_to_tenth"
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    modes: dict[str, float] = field(default_factory=lambda: {"copy": 1.0})
    keep: int = 50
    error_rate: float = 0.0
    lengths: dict[str, float] = field(default_factory=lambda: dict(LENGTH_WEIGHTS))
    reflections: int | None = None
    distinct: int | None = None
    cursory: float = 0.0
    learn_mistakes: bool = False
    max_length: int = 4096
    on_long_row: str = "refuse"
    on_bad_row: str = "refuse"
    min_reflections: int = 1
    max_pixels: int | None = None
    gradient_checkpointing: bool = False
    group_by_length: bool = False

    def __post_init__(self) -> None:
        self._check_types()
        for name, known in (("task", TASKS), ("trains", TRAINS), ("schedule", SCHEDULES)):
            self._need(
                getattr(self, name) in known, f"unknown {name} {getattr(self, name)!r}; known: {', '.join(known)}"
            )
        self._need(self.on_long_row in ("refuse", "drop"), f"on_long_row is refuse or drop, not {self.on_long_row!r}")
        self._need(self.on_bad_row in ("refuse", "skip"), f"on_bad_row is refuse or skip, not {self.on_bad_row!r}")
        self._need(
            isinstance(self.modes, Mapping) and bool(self.modes), f"modes maps names to weights, not {self.modes}"
        )
        unknown = sorted(set(self.modes) - set(TRAINED_MODES))
        self._need(not unknown, f"unknown modes {unknown}; known: {', '.join(TRAINED_MODES)}")
        weights = list(self.modes.values())
        self._need(min(weights) >= 0 and sum(weights) > 0, f"modes need positive weights, not {self.modes}")
        rates = 0 <= self.error_rate <= 1 and 0 <= self.cursory <= 1
        self._need(rates and 0 <= self.keep <= 100, "error_rate and cursory are 0..1, keep is 0..100")
        self._need(
            isinstance(self.lengths, Mapping) and bool(self.lengths) and set(self.lengths) <= set(LENGTHS),
            f"lengths weighs {', '.join(LENGTHS)}, not {self.lengths}",
        )
        self._need((self.steps is None) != (self.epochs is None), "give steps or epochs, one of the two")
        self._need(self.task == "rows" or self.steps is not None, "Tabletop's tasks take steps, not epochs")
        self._need((self.task == "rows") == bool(self.data), "data belongs to the task 'rows', which needs it")
        for name in ("steps", "batch", "accumulation", "max_length", "epochs", "distinct"):
            value = getattr(self, name)
            self._need(value is None or value > 0, f"{name} must be above 0, not {value}")

    def _check_types(self) -> None:
        whole = ("steps", "batch", "accumulation", "keep", "max_length", "min_reflections", "max_pixels")
        for name in (*whole, "reflections", "distinct"):
            value = getattr(self, name)
            self._need(value is None or isinstance(value, int), f"{name} is a whole number, not {value!r}")
        for name in ("learning_rate", "weight_decay", "max_grad_norm", "warmup_steps", "error_rate", "cursory",
                     "epochs", "adam_beta1", "adam_beta2", "adam_epsilon"):  # fmt: skip
            value = getattr(self, name)
            self._need(value is None or isinstance(value, int | float), f"{name} is a number (1.0e-3), not {value!r}")

    def _need(self, holds: bool, message: str) -> None:
        if not holds:
            raise ConfigError(f"stage {self.name!r}: {message}")


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """What a run is meant for; `--dry-run` plans with it. memory_gb: per GPU. engine: as in `recipes/engines/`.

    shapes: a known checkpoint whose shapes are planned with while the base is yet to be made.
    """

    gpus: int = 1
    memory_gb: float = 80.0
    engine: str = "single"
    shapes: str | None = None

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise ConfigError(f"unknown engine {self.engine!r}; known: {', '.join(ENGINES)}")
        if self.gpus < 1 or self.memory_gb <= 0:
            raise ConfigError(f"hardware needs at least one GPU with memory, not {self.gpus} x {self.memory_gb} GB")


@dataclass(frozen=True, kw_only=True)
class SftConfig:
    """A run. output: its folder. seed: of weights, data order and choices. bf16: compute in bfloat16 autocast.

    base: a checkpoint to start from, hub name or folder. tiny: shapes of the model that is grown from nothing without
    one. workers: data-loading processes. save_steps, log_steps: optimizer steps between checkpoints and log lines.
    report_to: trackers, by the Trainer's names.
    """

    output: str
    stages: tuple[Stage, ...]
    seed: int = 0
    bf16: bool = False
    tiny: TinyConfig = field(default_factory=TinyConfig)
    base: str | None = None
    workers: int = 1
    save_steps: int = 100
    log_steps: int = 20
    report_to: tuple[str, ...] = ()
    hardware: Hardware = field(default_factory=Hardware)

    def __post_init__(self) -> None:
        names = [stage.name for stage in self.stages]
        if not names or len(set(names)) != len(names):
            raise ConfigError(f"a run needs stages with names of their own, not {names}")


def load_config(path: str | Path) -> SftConfig:
    """Read a recipe. Raises ConfigError for a missing file, bad YAML, unknown keys or values out of range."""
    return build(SftConfig, {"stages": None, **read_yaml(path, "recipe")}, str(path))
