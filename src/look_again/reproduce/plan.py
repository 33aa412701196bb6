"""What a reproduction is: stages, the recipes that they run, and what the report shows, read from one YAML file.

A stage runs commands of `look-again`. In commands and recipes `{out}` is the stage's own folder, `{recipe}` the recipe
as the plan changes it, `{seed}` one of the stage's seeds, `{shipped}` the model of the package, and `{NAME}` the
folder of the stage NAME, which makes that stage an input.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from look_again.yaml_config import ConfigError, build, check_types, read_yaml

PLACEHOLDER = re.compile(r"\{([a-z0-9][a-z0-9.-]*)\}")
OWN = ("out", "recipe", "seed", "shipped")
PROGRAMS = ("look-again", "python")


class PlanError(ConfigError):
    """A plan that cannot be run; the message names the file, the line and the stage."""


@dataclass(frozen=True, kw_only=True)
class StageCost:
    """What a stage is estimated to take; ValueError for values below 0."""

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
        if min(self.minutes, self.disk_mb, self.gpu_hours, self.api_calls, self.money) < 0:
            raise ValueError("minutes, disk_mb, gpu_hours, api_calls and money are 0 or more")


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
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", self.name) or self.name in OWN:
            raise ValueError(f"name is {self.name!r}: use lower-case letters, digits and hyphens, none of {OWN}")
        if not self.run or not all(isinstance(line, str) for line in self.run):
            raise ValueError("run is a list of commands, at least one")
        for line in self.run:
            if shlex.split(line)[:1] not in [[program] for program in PROGRAMS]:
                raise ValueError(f"run has {line!r}: a command begins with {' or '.join(PROGRAMS)}")
        if not 0 <= self.step <= 7:
            raise ValueError(f"step is {self.step}: the paper's pipeline has 1 to 7, and 0 is what comes before")
        if ("{recipe}" in " ".join(self.run)) != (self.recipe is not None):
            raise ValueError("a recipe is run as {recipe}, and {recipe} needs a recipe")


@dataclass(frozen=True, kw_only=True)
class ResultRow:
    """A row of a table: what its result file says, beside the paper's figure."""

    name: str
    result: str
    """`{STAGE}/path/to/result.json`; with `{seed}` the mean over the stage's seeds."""
    paper: Mapping[str, float] = field(default_factory=dict)
    """The paper's figures of this row, by their names there."""


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


@dataclass(frozen=True, kw_only=True)
class FigurePlan:
    """A figure of the report."""

    title: str
    image: str
    """`{STAGE}/path/to/figure.png`."""
    says: str
    """What it can and cannot say."""


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


def load_plan(path: str | Path, *, quick: bool = False) -> ReproductionPlan:
    """The plan with every stage's seeds written out. PlanError for anything that would fail for its shape."""
    path = Path(path)
    raw = read_yaml(path, "plan")
    lines = read_lines(path)
    if quick:
        raw = with_quick(raw, path)
    raw = with_values(raw, path)
    try:
        plan = build(ReproductionPlan, raw, str(path))
    except PlanError:
        raise
    except ConfigError as error:
        raise PlanError(_with_line(str(error), path, lines)) from error
    stages = tuple(expanded for stage in plan.stages for expanded in expand_seeds(stage))
    made = replace(plan, stages=stages)
    check_plan(made, path, lines)
    return made


def with_quick(raw: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The plan's keys with those of its `quick` part in their places. PlanError for a stage that is not there."""
    quick = dict(raw.get("quick") or {})
    stages = [dict(stage) for stage in raw.get("stages") or ()]
    names = [stage.get("name") for stage in stages]
    if unknown := set(quick) - {*names, "seeds", "values"}:
        raise PlanError(f"{path}: quick has {sorted(unknown)}, which no stage is called")
    for stage in stages:
        if "seeds" in quick and stage.get("seeds"):
            stage["seeds"] = quick["seeds"]
        own = dict(quick.get(stage["name"]) or {})
        change = {**stage.get("change", {}), **own.pop("change", {})}
        cost = {**stage.get("cost", {}), **own.pop("cost", {})}
        stage |= own | ({"change": change} if change else {}) | ({"cost": cost} if cost else {})
    values = {**(raw.get("values") or {}), **(quick.get("values") or {})}
    return {**raw, "stages": stages} | ({"values": values} if values else {})


def with_values(raw: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The plan's keys with its values put into the stages; a text that is one placeholder alone becomes the value.

    PlanError for a value that has the name of a stage, or of what stages have of their own.
    """
    values = dict(raw.get("values") or {})
    names = {stage.get("name") for stage in raw.get("stages") or () if isinstance(stage, Mapping)}
    if taken := sorted(set(values) & {*names, *OWN}):
        raise PlanError(f"{path}: values has {taken}, which stands for something else in a stage")

    def put(part: Any) -> Any:
        if isinstance(part, str):
            alone = PLACEHOLDER.fullmatch(part)
            texts = {name: str(value) for name, value in values.items()}
            return values[alone[1]] if alone and alone[1] in values else fill(part, texts)
        if isinstance(part, Mapping):
            return {key: put(value) for key, value in part.items()}
        return [put(value) for value in part] if isinstance(part, list) else part

    return {**raw, "stages": put(raw["stages"])} if values and "stages" in raw else dict(raw)


def expand_seeds(stage: PlannedStage) -> Iterator[PlannedStage]:
    """A stage per seed, or the stage."""
    if not stage.seeds:
        yield stage
    for seed in stage.seeds:
        put = {"seed": str(seed)}
        change = {key: fill(value, put) if isinstance(value, str) else value for key, value in stage.change.items()}
        change = {key: int(v) if v == str(seed) and stage.change[key] == "{seed}" else v for key, v in change.items()}
        yield replace(
            stage,
            name=f"{stage.name}-{seed}",
            run=tuple(fill(line, put) for line in stage.run),
            change=change,
            seeds=(),
        )


def fill(text: str, values: Mapping[str, str]) -> str:
    """`text` with the placeholders that `values` names replaced."""
    for name, value in values.items():
        text = text.replace("{" + name + "}", value)
    return text


def inputs(stage: PlannedStage, recipe: Any = None) -> tuple[str, ...]:
    """Names of the stages that a stage's commands, changes and recipe name, in order."""
    texts = [*stage.run, *walk_texts(dict(stage.change)), *walk_texts(recipe)]
    named = [name for text in texts for name in PLACEHOLDER.findall(text)]
    return tuple(dict.fromkeys(name for name in named if name not in OWN))


def walk_texts(value: Any) -> Iterator[str]:
    """Every string in a structure of mappings and lists."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from walk_texts(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from walk_texts(part)


def load_recipe(stage: PlannedStage, folder: Path) -> Any:
    """The stage's recipe with the plan's changes, placeholders as they stand; None without one.

    ConfigError for a missing file, and for a change of a key that the recipe has no place for.
    """
    if stage.recipe is None:
        return None
    recipe = read_yaml(folder / stage.recipe, "recipe")
    for key, value in stage.change.items():
        _set(recipe, key, value)
    return recipe


def _set(recipe: Any, key: str, value: Any) -> None:
    *path, last = key.split(".")
    place = recipe
    try:
        for part in path:
            place = place[int(part)] if isinstance(place, list) else place[part]
        if isinstance(place, list):
            place[int(last)] = value
        else:
            place[last] = value
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise ConfigError(f"change {key!r}: the recipe has no such place") from error


def check_plan(plan: ReproductionPlan, path: Path, lines: Mapping[str, int]) -> None:
    """PlanError for names that occur twice, inputs that no earlier stage makes, recipes that cannot be read."""
    known: list[str] = []
    for stage in plan.stages:
        where = locate_stage(stage.name, path, lines)
        if stage.name in known:
            raise PlanError(f"{where} is there twice")
        try:
            needed = inputs(stage, load_recipe(stage, path.parent))
        except ConfigError as error:
            raise PlanError(f"{where}: {error}") from error
        if missing := [name for name in needed if name not in known]:
            raise PlanError(f"{where} needs {', '.join(missing)}, which no stage before it makes")
        if gone := [name for name in stage.reads if not (path.parent / name).exists()]:
            raise PlanError(f"{where} reads {', '.join(gone)}, which is not there")
        known.append(stage.name)
    _check_shown(plan, path, known)


def _check_shown(plan: ReproductionPlan, path: Path, known: list[str]) -> None:
    shown = [row.result for table in plan.tables for row in table.rows] + [figure.image for figure in plan.figures]
    for place in [*shown, *([plan.answers] if plan.answers else [])]:
        named = re.match(r"\{(.+)\}/[^{}]+$", place)
        wanted = re.escape(named[1]).replace(re.escape("{seed}"), "[0-9]+") if named else "(?!)"
        if not any(re.fullmatch(wanted, name) for name in known):
            raise PlanError(f"{path}: the report shows {place!r}, which no stage makes")


def read_lines(path: Path) -> dict[str, int]:
    """Where each stage stands, by name; 1 is the first line."""
    root = yaml.compose(path.read_text(encoding="utf-8"))
    for key, value in getattr(root, "value", ()):
        if key.value == "stages" and isinstance(value, yaml.SequenceNode):
            return {
                entry.value: node.start_mark.line + 1
                for node in value.value
                if isinstance(node, yaml.MappingNode)
                for name, entry in node.value
                if name.value == "name"
            }
    return {}


def locate_stage(name: str, path: Path, lines: Mapping[str, int]) -> str:
    """The beginning of a message about a stage: file, line and name."""
    line = lines.get(name) or lines.get(name.rsplit("-", 1)[0], 1)
    return f"{path}:{line}: stage {name!r}"


def _with_line(message: str, path: Path, lines: Mapping[str, int]) -> str:
    for name, line in lines.items():
        if f"{name!r}" in message:
            return message.replace(str(path), f"{path}:{line}", 1)
    return message
