"""What a training run is, read from YAML and checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import yaml

from lookagain.tabletop.oracle import LENGTHS
from lookagain.tabletop.rows import LENGTH_WEIGHTS
from lookagain.tabletop.tiny import TinyConfig

TRAINED_MODES = ("text", "copy", "route")  # vision-only writes no reflection, so there is nothing to train
TASKS = ("vision", "captions", "answers")
C = TypeVar("C")


class ConfigError(ValueError):
    """A training configuration that cannot be used; the message says which key and why."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of a run.

    task: "vision" (what lies at each visual token, by a linear head), "captions" (responses up to CAPTION, without
        mistakes) or "answers" (whole responses).
    steps, batch: optimizer steps, rows per step. learning_rate: peak, after warmup_steps, then a cosine to a tenth.
    adam_beta2: AdamW's second moment decay; 0.999 is the paper's for SFT.
    modes: weights of the re-attention modes that rows are drawn with. keep: ROUTE's percentage; the paper's main value.
    lengths: weights of the lengths that prompts ask for.
    error_rate: chance of a planted mistake per object. learn_mistakes: give planted tokens a loss.
    freeze_vision: leave the vision tower as it is (the paper's SFT does).
    """

    name: str
    task: str
    steps: int
    batch: int = 64
    learning_rate: float = 1e-3
    warmup_steps: int = 50
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    adam_beta2: float = 0.999
    modes: dict[str, float] = field(default_factory=lambda: {"copy": 1.0})
    keep: int = 50
    error_rate: float = 0.0
    lengths: dict[str, float] = field(default_factory=lambda: dict(LENGTH_WEIGHTS))
    learn_mistakes: bool = False
    freeze_vision: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "warmup_steps", "keep"):
            if not isinstance(getattr(self, name), int):
                raise ConfigError(f"stage {self.name!r}: {name} is a whole number, not {getattr(self, name)!r}")
        for name in ("learning_rate", "weight_decay", "max_grad_norm", "adam_beta2", "error_rate"):
            if not isinstance(getattr(self, name), int | float):
                raise ConfigError(f"stage {self.name!r}: {name} is a number (1.0e-3), not {getattr(self, name)!r}")
        if not isinstance(self.modes, Mapping) or not 0 <= self.error_rate <= 1 or not 0 <= self.keep <= 100:
            raise ConfigError(f"stage {self.name!r}: modes maps names to weights, error_rate is 0..1, keep 0..100")
        if self.task not in TASKS:
            raise ConfigError(f"stage {self.name!r}: unknown task {self.task!r}; known: {', '.join(TASKS)}")
        if unknown := set(self.modes) - set(TRAINED_MODES):
            raise ConfigError(
                f"stage {self.name!r}: unknown modes {sorted(unknown)}; known: {', '.join(TRAINED_MODES)}"
            )
        if self.steps < 1 or self.batch < 1:
            raise ConfigError(f"stage {self.name!r}: steps and batch must be at least 1")
        if not isinstance(self.lengths, Mapping) or not set(self.lengths) <= set(LENGTHS) or not self.lengths:
            raise ConfigError(f"stage {self.name!r}: lengths weighs {', '.join(LENGTHS)}, not {self.lengths}")
        if not self.modes or min(self.modes.values()) < 0 or sum(self.modes.values()) <= 0:
            raise ConfigError(f"stage {self.name!r}: modes need positive weights, not {self.modes}")


@dataclass(frozen=True, kw_only=True)
class SftConfig:
    """A run. output: its folder. seed: of weights, data order and choices. bf16: compute in bfloat16 autocast.

    tiny: shapes of the model that is grown from nothing. base: a checkpoint folder to start from instead.
    workers: data-loading processes. save_steps, log_steps: optimizer steps between checkpoints and log lines.
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

    def __post_init__(self) -> None:
        names = [stage.name for stage in self.stages]
        if not names or len(set(names)) != len(names):
            raise ConfigError(f"a run needs stages with names of their own, not {names}")


def load_config(path: str | Path) -> SftConfig:
    """Read a recipe. Raises ConfigError for a missing file, bad YAML, unknown keys or values out of range."""
    try:
        raw = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the recipe {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{path}: a recipe is a mapping of keys to values")
    raw = dict(raw)
    listed = raw.pop("stages", None) or []
    if not isinstance(listed, list):
        raise ConfigError(f"{path}: stages is a list, not {listed!r}")
    stages = tuple(build(Stage, stage, f"{path}: stage") for stage in listed)
    tiny = build(TinyConfig, raw.pop("tiny", None) or {}, f"{path}: tiny")
    return build(SftConfig, {**raw, "stages": stages, "tiny": tiny}, str(path))


def build(cls: type[C], values: Mapping[str, Any], where: str) -> C:
    """A config dataclass from a mapping; lists become tuples where the field's default is one."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}: a mapping of keys to values is needed, not {values!r}")
    known = {f.name for f in fields(cls)}  # type: ignore[arg-type]
    if unknown := set(values) - known:
        raise ConfigError(f"{where}: unknown keys {sorted(unknown)}; known: {', '.join(sorted(known))}")
    try:
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: {error}") from error
