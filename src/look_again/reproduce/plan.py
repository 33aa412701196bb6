"""What a reproduction is: stages, the recipes that they run, and what the report shows; `plan_file` reads one.

A stage runs commands of `look-again`. In commands and recipes `{out}` is the stage's own folder, `{recipe}` the recipe
as the plan changes it, `{seed}` one of the stage's seeds, `{shipped}` the model of the package, `{plan}` the plan's own
folder, and `{NAME}` the folder of the stage NAME, which makes that stage an input.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import PurePosixPath
from typing import Any

from look_again.reproduce.placeholders import OWN, fill, find_placeholders, put
from look_again.yaml_config import ConfigError, check_types

PROGRAMS = ("look-again", "python")
MOST = 1e12  # of an estimate, in any unit


class PlanError(ConfigError):
    """A plan that cannot be run; the message names the file, the line and the stage."""


@dataclass(frozen=True, kw_only=True)
class StageCost:
    """What a stage is estimated to take; ValueError for values below 0, and for what is no number."""

    minutes: float = 0.0
    """On the plan's hardware."""
    disk_mb: float = 0.0
    """Left on disk at its end."""
    gpu_hours: float = 0.0
    """Devices times hours."""
    api_calls: int = 0
    """Requests to endpoints that cost money."""
    money: float = 0.0
    """Their price, in the plan's currency."""
    source: str = ""
    """Where the figures are from: measured, or computed from what."""

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("minutes", "disk_mb", "gpu_hours", "api_calls", "money"):
            if not 0 <= getattr(self, name) <= MOST:
                raise ValueError(f"{name} is a number from 0 to {MOST:g}")


@dataclass(frozen=True, kw_only=True)
class PlannedStage:
    """One stage. ValueError for names, commands and seeds that cannot be used."""

    name: str
    """Lower-case letters, digits and hyphens; with seeds, a stage each of the name NAME-SEED."""
    step: int
    """Of the paper's pipeline: 1 cold-start data, 2 cold-start SFT, 3 BRPO, 4 distillation, 5 final SFT, 6 evaluation,
    7 tables and figures; 0 for what the plan needs before it."""
    about: str
    """What it makes, in a sentence."""
    run: tuple[str, ...]
    """Commands, one after the other; each resumes what a killed one left."""
    makes: str
    """A file or folder below `{out}` that is there when the stage is done."""
    recipe: str | None = None
    """A YAML file, relative to the plan."""
    change: Mapping[str, Any] = field(default_factory=dict)
    """Other values of the recipe, by dotted keys such as `stages.0.steps`."""
    seeds: tuple[int, ...] = ()
    """One stage each."""
    reads: tuple[str, ...] = ()
    """Further files or folders, relative to the plan, whose bytes decide what the stage makes."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """What the report says of it: a label, and `file.json#dotted.key` or `file.jsonl` below `{out}`."""
    cost: StageCost = field(default_factory=StageCost)
    """Estimates."""

    def __post_init__(self) -> None:
        check_types(self)
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", self.name) or self.name in OWN:
            raise ValueError(f"name is {self.name!r}: use lower-case letters, digits and hyphens, none of {OWN}")
        if not self.run:
            raise ValueError("run is a list of commands, at least one")
        if any(seed < 0 for seed in self.seeds):
            raise ValueError(f"seeds are whole numbers from 0 on, not {list(self.seeds)}")
        made = PurePosixPath(self.makes)
        if not made.name or made.is_absolute() or ".." in made.parts:
            raise ValueError(f"makes is {self.makes!r}: it is a file or folder below {{out}}, named without {{out}}")
        for line in self.run:
            if shlex.split(line)[:1] not in [[program] for program in PROGRAMS]:
                raise ValueError(f"run has {line!r}: a command begins with {' or '.join(PROGRAMS)}")
        if not 0 <= self.step <= 7:
            raise ValueError(f"step is {self.step}: the paper's pipeline has 1 to 7, and 0 is what comes before")
        if ("{recipe}" in " ".join(self.run)) != (self.recipe is not None):
            raise ValueError("a recipe is run as {recipe}, and {recipe} needs a recipe")


@dataclass(frozen=True, kw_only=True)
class SeededStage(PlannedStage):
    """A stage with one of its seeds put in, or one that has none. ValueError for placeholders that nothing fills."""

    planned: str
    """The name in the plan."""
    seed: int | None

    def __post_init__(self) -> None:
        super().__post_init__()
        for where, texts in (("makes", self.makes), ("facts", self.facts)):
            if left := find_placeholders(texts):
                raise ValueError(f"{where} has {{{left[0]}}}, which stands for nothing there")

    def is_called(self, name: str) -> bool:
        """Whether `name` is its own, or NAME-{seed} for one of the plan."""
        if "{seed}" in name:
            return self.seed is not None and fill(name, {"seed": str(self.seed)}) == self.name
        return name == self.name


def expand_seeds(stage: PlannedStage) -> Iterator[SeededStage]:
    """A stage per seed, with the seed wherever `{seed}` stands, or the stage."""
    keys = {part.name: getattr(stage, part.name) for part in fields(stage)}
    if not stage.seeds:
        yield SeededStage(**keys, planned=stage.name, seed=None)
    for seed in stage.seeds:
        own = {name: put(keys[name], {"seed": seed}) for name in ("run", "makes", "change", "facts")}
        own |= {"name": f"{stage.name}-{seed}", "seeds": ()}
        yield SeededStage(**keys | own, planned=stage.name, seed=seed)


@dataclass(frozen=True, kw_only=True)
class ResultRow:
    """A row of a table: what its result file says, beside the paper's figure."""

    name: str
    result: str
    """`{STAGE}/path/to/result.json`; with `{seed}` the mean over the stage's seeds."""
    paper: Mapping[str, float] = field(default_factory=dict)
    """The paper's figures of this row, by their names there."""

    def __post_init__(self) -> None:
        check_types(self)


@dataclass(frozen=True, kw_only=True)
class TablePlan:
    """A table of the report."""

    title: str
    metrics: Mapping[str, str]
    """Column title to the dotted key of the result."""
    rows: tuple[ResultRow, ...]
    says: str
    """What it can and cannot say."""
    against: str | None = None
    """The row that the others are compared with, item by item."""

    def __post_init__(self) -> None:
        check_types(self)
        if self.against is not None and self.against not in {row.name for row in self.rows}:
            raise ValueError(f"against is {self.against!r}, which no row is called")


@dataclass(frozen=True, kw_only=True)
class FigurePlan:
    """A figure of the report."""

    title: str
    image: str
    """`{STAGE}/path/to/figure.png`."""
    says: str
    """What it can and cannot say."""

    def __post_init__(self) -> None:
        check_types(self)


@dataclass(frozen=True, kw_only=True)
class ReproductionPlan:
    """A whole plan."""

    name: str
    about: str
    """A sentence or two for the report's head."""
    stages: tuple[PlannedStage, ...]
    hardware: str = "2 CPU cores"
    """What the estimates are for."""
    jobs: int = 1
    """Stages that run at once where none needs another; each has its part of the processor's threads."""
    tables: tuple[TablePlan, ...] = ()
    """Of the report, in order."""
    figures: tuple[FigurePlan, ...] = ()
    """Of the report, in order."""
    answers: str | None = None
    """`{STAGE}/path/to/result.json` of a run whose first answers the report shows."""
    values: Mapping[str, Any] = field(default_factory=dict)
    """What `{NAME}` stands for in the stages: numbers and texts that several of them share."""
    quick: Mapping[str, Any] = field(default_factory=dict)
    """By stage, other keys for a run of minutes; the key `seeds` has those of all stages, `values` other values."""

    def __post_init__(self) -> None:
        check_types(self)
        if self.jobs < 1:
            raise ValueError(f"jobs is {self.jobs}: at least one stage runs at a time")
