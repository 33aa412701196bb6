"""What a run of supervised fine-tuning is, read from YAML and checked before anything is loaded.

In YAML a stage's keys stand side by side; here they are grouped by concern. A task brings keys of its own.
Defaults are followed by where they are from: "paper" with the value there, or "paper gives none".
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar

from look_again.core.reattention import Reattention
from look_again.data.source import Source
from look_again.registry import lookup, resolve
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
from look_again.yaml_config import ConfigError, build, check_types, group, read_yaml

SCHEDULES = ("cosine_to_tenth", "cosine", "linear", "constant_with_warmup")
TASKS = {
    "vision": "look_again.tabletop.sft_tasks:VisionTask",
    "captions": "look_again.tabletop.sft_tasks:CaptionsTask",
    "plain": "look_again.tabletop.sft_tasks:PlainTask",
    "answers": "look_again.tabletop.sft_tasks:AnswersTask",
    "goals": "look_again.tabletop.people.phrased_tasks:GoalsTask",
    "phrased": "look_again.tabletop.people.phrased_tasks:PhrasedTask",
    "clips": "look_again.tabletop.clips.clip_samples:ClipsTask",
    "long": "look_again.tabletop.long_world.long_training:LongTask",
    "rows": "look_again.training.sft_task:SamplesTask",
}
TASK_OPTIONS = {
    "vision": "look_again.tabletop.sft_options:TabletopOptions",
    "captions": "look_again.tabletop.sft_options:TabletopOptions",
    "plain": "look_again.tabletop.sft_options:TabletopOptions",
    "answers": "look_again.tabletop.sft_options:TabletopOptions",
    "goals": "look_again.tabletop.sft_options:PhrasedOptions",
    "phrased": "look_again.tabletop.sft_options:PhrasedOptions",
    "clips": "look_again.tabletop.clips.clip_options:ClipOptions",
    "long": "look_again.tabletop.long_world.long_training:LongOptions",
    "rows": "look_again.training.sft_config:NoOptions",
}
TINY = "look_again.tabletop.tiny:TinyConfig"  # the shapes of a model that is grown from nothing


@dataclass(frozen=True, kw_only=True)
class NoOptions:
    """Keys of a task that has none of its own."""

    endless: ClassVar[bool] = False
    """Whether the task makes its samples as it goes, so that only steps can end it."""


@dataclass(frozen=True, kw_only=True)
class SampleSelection:
    """Which samples train. ValueError for values out of range."""

    data: tuple[Source, ...] = ()
    """Where samples come from, for the task "rows". Paper: 2,000 in the cold start, 40,000 in the final SFT."""
    on_bad_row: str = "refuse"
    """A sample that fails the checks: "refuse" the run, or "skip" it and count it. Paper gives none."""
    on_long_row: str = "refuse"
    """A sample of more than max_length slots: "refuse" the run, or "drop" it and count it. Paper gives none."""
    min_reflections: int = 1
    """Reflections that a response must have; paper: at least one (section 3.2)."""

    def __post_init__(self) -> None:
        check_types(self)
        if self.on_long_row not in ("refuse", "drop"):
            raise ValueError(f"on_long_row is refuse or drop, not {self.on_long_row!r}")
        if self.on_bad_row not in ("refuse", "skip"):
            raise ValueError(f"on_bad_row is refuse or skip, not {self.on_bad_row!r}")
        require_least(self, 0, "min_reflections")


@dataclass(frozen=True, kw_only=True)
class SequenceOptions:
    """How a sample becomes a sequence. ValueError for values out of range."""

    max_length: int = 4096
    """Most slots of a sequence, with re-inserted ones; longer samples are never cut. Paper gives none."""
    max_pixels: int | None = None
    """Larger images are scaled down to this many pixels; None leaves it to the base. Paper: 262,144."""
    learn_mistakes: bool = False
    """Whether planted mistakes (silent spans) carry a loss. Paper gives none."""

    def __post_init__(self) -> None:
        check_types(self)
        require_positive(self, "max_length", "max_pixels")


@dataclass(frozen=True, kw_only=True)
class Passes:
    """How long a stage is, and in which passes. ValueError unless it has steps or epochs, one of the two."""

    steps: int | None = None
    """Optimizer steps. Paper gives none."""
    epochs: float | None = None
    """Passes over the samples; paper: 13 (as printed)."""
    batch: int = 64
    """Samples per device and pass; paper: 1."""
    accumulation: int = 1
    """Passes per optimizer step; paper: 8."""
    gradient_checkpointing: bool = False
    """Compute decoder layers again in the backward pass instead of keeping them. Paper gives none."""
    loss_chunk: int | None = None
    """Targets whose logits exist at a time; None for as many as 0.5 GB hold. Exact at any size. Paper gives none."""
    packing: bool = False
    """Compute a pass's samples one after the other without padding, each attending to itself alone; exact. Paper gives
    none."""
    group_by_length: bool = False
    """Put samples of similar length into one step. Paper gives none."""

    def __post_init__(self) -> None:
        check_types(self)
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give steps or epochs, one of the two")
        require_positive(self, "steps", "batch", "accumulation", "epochs", "loss_chunk")


@dataclass(frozen=True, kw_only=True)
class SftOptimizer(AdamW):
    """AdamW and its rate over time. ValueError for values out of range."""

    learning_rate: float = 1e-3
    """Peak, per step; the default is for the tiny model. Paper: 1e-5."""
    warmup_steps: float = 50
    """Steps up to the peak, a share of all steps when below 1; paper: 0.01."""
    schedule: str = "cosine_to_tenth"
    """After the peak: "cosine_to_tenth", "cosine", "linear" or "constant_with_warmup". Paper gives none."""
    weight_decay: float = 0.01
    """Per step, times the rate; paper gives none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice("schedule", self.schedule, SCHEDULES)
        require_positive(self, "learning_rate")
        require_least(self, 0, "warmup_steps")


@dataclass(frozen=True, kw_only=True)
class ModeMixture:
    """What happens at the reflections of a stage's samples. ValueError for values out of range."""

    modes: Mapping[str, float] = field(default_factory=lambda: {"copy": 1.0})
    """Weights of the modes that samples are drawn with; paper: COPY or ROUTE alone, text in the cold start."""
    keep: int = 50
    """Percentage of visual tokens that ROUTE re-inserts; paper: m = 50 in all main results."""

    def __post_init__(self) -> None:
        check_types(self)
        require_weights(self, "modes", TRAINED_MODES)
        if not 0 <= self.keep <= 100:
            raise ValueError(f"keep is 0..100, not {self.keep}")

    def draw(self, seed: int, sample_id: str) -> Reattention:
        """What happens at the reflections of a sample: a draw from the mixture, the same in every epoch."""
        modes, weights = zip(*sorted(self.modes.items()), strict=True)
        mode = random.Random(f"mode/{seed}/{sample_id}").choices(modes, weights=weights)[0]
        return Reattention(mode=mode, keep=self.keep)


def task_options(values: Mapping[str, Any]) -> type:
    """The class of the keys that a stage's task brings. ValueError for an unknown task, and for keys of another one."""
    task = str(values.get("task"))
    own = lookup(TASK_OPTIONS, task, what="task")
    tasks_by_key: dict[str, list[str]] = {}
    for name, target in TASK_OPTIONS.items():
        for key in (part.name for part in fields(resolve(target))):
            tasks_by_key.setdefault(key, []).append(name)
    for key in values:
        if key in tasks_by_key and task not in tasks_by_key[key]:
            raise ValueError(
                f"{key} belongs to the tasks {', '.join(tasks_by_key[key])}, not to {task!r}: leave it out"
            )
    return own


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of a run. ValueError for parts that do not go together."""

    name: str
    """The stage's folder under the run's output."""
    task: str
    """"vision" (what lies at each visual token, by a linear head), "captions" (Tabletop's responses up to CAPTION,
    without mistakes), "answers" (Tabletop's whole responses), "phrased" (the same to questions as people ask them),
    "goals" (of those the SUMMARY), "long" (answers after long work) or "rows" (the samples of `data`: the paper's
    SFT)."""
    options: Any = group(NoOptions, task_options)
    """The task's own keys."""
    selection: SampleSelection = group(SampleSelection)
    """Which samples train."""
    sequence: SequenceOptions = group(SequenceOptions)
    """How a sample becomes a sequence."""
    passes: Passes = group(Passes)
    """How long it is."""
    optimizer: SftOptimizer = group(SftOptimizer)
    """AdamW and its rate."""
    parts: TrainedParts = group(TrainedParts)
    """What of the model trains."""
    mixture: ModeMixture = group(ModeMixture)
    """What happens at reflections."""

    def __post_init__(self) -> None:
        check_types(self)
        if self.name != Path(self.name).name or self.name in ("", "..") or not self.name.isprintable():
            raise ValueError(f"name is the stage's folder under the output, one part of a path, not {self.name!r}")
        require_choice("task", self.task, tuple(TASKS))
        for key in ("packing", "loss_chunk", "gradient_checkpointing"):
            if self.task == "vision" and getattr(self.passes, key):
                raise ValueError(
                    f"{key} is of the language model, which the task 'vision' does not train: leave it out"
                )
        if self.options.endless and self.passes.steps is None:
            raise ValueError(f"the samples of the task {self.task!r} have no end: such tasks take steps, not epochs")
        if self.options.endless == bool(self.selection.data):
            raise ValueError("data belongs to the task 'rows', which needs it")


@dataclass(frozen=True, kw_only=True)
class SftConfig:
    """A run of one or more stages. ValueError for stages of one name, or none, and for values out of range."""

    output: str
    """The run's folder."""
    stages: tuple[Stage, ...]
    """One after the other, each from the one before."""
    seed: int = 0
    """Of weights, data order and choices; paper gives none."""
    bf16: bool = False
    """Compute in bfloat16 autocast; paper: bf16 (printed for BRPO)."""
    tiny: Any = field(default_factory=lambda: resolve(TINY)())
    """Shapes of the model that is grown from nothing where there is no base."""
    base: str | None = None
    """The checkpoint to start from, a hub name or folder; paper: Qwen2.5-VL-7B-Instruct."""
    workers: int = 1
    """Data-loading processes; paper gives none."""
    save_steps: int = 100
    """Optimizer steps between checkpoints; paper gives none."""
    log_steps: int = 20
    """Optimizer steps between log lines; paper gives none."""
    report_to: tuple[str, ...] = ()
    """Trackers, by the Trainer's names."""
    hardware: Hardware = field(default_factory=find_hardware)
    """What `--dry-run` plans with; this machine where nothing is said."""

    def __post_init__(self) -> None:
        check_types(self)
        require_run(self.output, self.seed)
        require_least(self, 0, "workers")
        require_positive(self, "save_steps", "log_steps")
        names = [stage.name for stage in self.stages]
        if not names or len(set(names)) != len(names):
            raise ConfigError(f"a run needs stages with names of their own, not {names}")


def load_config(path: str | Path) -> SftConfig:
    """Read a recipe. Raises ConfigError for a missing file, bad YAML, unknown keys or values out of range."""
    values = {"stages": None, **read_yaml(path, "recipe")}
    values["tiny"] = build(resolve(TINY), values.get("tiny") or {}, f"{path}: tiny")
    return build(SftConfig, values, str(path))


def build_stage(**keys: Any) -> Stage:
    """A stage from the keys that a recipe has. Raises ConfigError as a recipe does."""
    return build(Stage, keys, f"stage {keys.get('name')!r}")
