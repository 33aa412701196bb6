"""Reads a plan from YAML and checks its shape: values, the quick part, seeds, inputs, what the report shows."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from look_again.reproduce.placeholders import OWN, find_placeholders, put
from look_again.reproduce.plan import PlanError, PlannedStage, ReproductionPlan, SeededStage, expand_seeds
from look_again.yaml_config import ConfigError, build, read_yaml

SHOWN = re.compile(r"\{(?P<stage>.+)\}/(?P<tail>[^{}]+)")
"""A file that the report shows: `{STAGE}/path`, or `{STAGE-{seed}}/path` for one of each seed."""


def load_plan(path: str | Path, *, quick: bool = False) -> ReproductionPlan:
    """The plan, whose stages are `SeededStage`s. PlanError for anything that would fail for its shape."""
    path = Path(path)
    try:
        raw = read_yaml(path, "plan")
    except ConfigError as error:
        raise PlanError(str(error)) from error
    lines = read_lines(path)
    check_shape(raw, path, lines)
    if quick:
        raw = with_quick(raw, path)
    raw = with_values(raw, path)
    try:
        plan = build(ReproductionPlan, raw, str(path))
        stages = [seeded for stage in plan.stages for seeded in _expand(stage, path)]
    except ConfigError as error:
        raise PlanError(_with_line(str(error), path, lines)) from error
    check_stages(stages, path, lines)
    _check_shown(plan, path, stages)
    return replace(plan, stages=tuple(stages))


def _expand(stage: PlannedStage, path: Path) -> list[SeededStage]:
    try:
        return list(expand_seeds(stage))
    except ValueError as error:
        raise ConfigError(f"{path}: stages {stage.name!r}: {error}") from error


def check_shape(raw: Mapping[str, Any], path: Path, lines: Mapping[str, int]) -> None:
    """PlanError unless stages, values and the quick part are such that one can be put into the other."""
    stages, quick = raw.get("stages"), raw.get("quick", {})
    if not isinstance(stages, list) or not stages:
        raise PlanError(f"{path}: stages is a list, not {stages!r}")
    for number, stage in enumerate(stages, 1):
        if not isinstance(stage, Mapping) or not isinstance(stage.get("name"), str):
            raise PlanError(f"{path}: stage number {number} is a mapping of keys to values with a name, not {stage!r}")
        _check_mappings(stage, ("change", "cost"), locate_stage(stage["name"], path, lines))
    _check_mappings(raw, ("quick", "values"), str(path))
    _check_mappings(quick, set(quick) - {"seeds"}, f"{path}: quick")
    for name in set(quick) - {"seeds", "values"}:
        _check_mappings(quick[name], ("change", "cost"), f"{path}: quick: {name}")


def _check_mappings(keys: Mapping[str, Any], names: Sequence[str] | set[str], where: str) -> None:
    for name in names:
        if name in keys and not isinstance(keys[name], Mapping):
            raise PlanError(f"{where}: {name} is a mapping of keys to values, not {keys[name]!r}")


def with_quick(raw: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The plan's keys with those of its `quick` part in their places. PlanError for a stage that is not there."""
    quick = raw.get("quick", {})
    stages = [dict(stage) for stage in raw["stages"]]
    names = [stage["name"] for stage in stages]
    if unknown := set(quick) - {*names, "seeds", "values"}:
        raise PlanError(f"{path}: quick has {sorted(unknown)}, which no stage is called")
    for stage in stages:
        if "seeds" in quick and stage.get("seeds"):
            stage["seeds"] = quick["seeds"]
        own = dict(quick.get(stage["name"], {}))
        merged = {name: {**stage.get(name, {}), **own.pop(name, {})} for name in ("change", "cost")}
        stage |= own | {name: keys for name, keys in merged.items() if keys}
    values = {**raw.get("values", {}), **quick.get("values", {})}
    return {**raw, "stages": stages} | ({"values": values} if values else {})


def with_values(raw: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The plan's keys with its values put into the stages.

    PlanError for a value that has the name of a stage, or of what stages have of their own.
    """
    values = raw.get("values", {})
    if taken := sorted(set(values) & {*(stage["name"] for stage in raw["stages"]), *OWN}):
        raise PlanError(f"{path}: values has {taken}, which stands for something else in a stage")
    return {**raw, "stages": put(raw["stages"], values)}


def load_recipe(stage: SeededStage, folder: Path) -> Any:
    """The stage's recipe with the plan's changes and the stage's seed, other placeholders as they stand; None without.

    ConfigError for a missing file, and for a change of a key that the recipe has no place for.
    """
    if stage.recipe is None:
        return None
    recipe = read_yaml(folder / stage.recipe, "recipe")
    for key, value in stage.change.items():
        _set(recipe, key, copy.deepcopy(value))
    return recipe if stage.seed is None else put(recipe, {"seed": stage.seed})


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


def find_inputs(stage: SeededStage, recipe: Any = None) -> tuple[str, ...]:
    """Names of the stages that a stage's commands and its changed recipe name, in order."""
    named = find_placeholders([*stage.run, dict(stage.change), recipe])
    return tuple(name for name in named if name not in OWN)


def check_stages(stages: Sequence[SeededStage], path: Path, lines: Mapping[str, int]) -> None:
    """PlanError for names that occur twice, inputs that no earlier stage makes, recipes that cannot be read, and seeds
    that a stage has not.
    """
    known: list[str] = []
    seen: dict[str, str] = {}
    for stage in stages:
        where = locate_stage(stage.name, path, lines)
        if stage.name in known:
            raise PlanError(f"{where} is there twice")
        try:
            recipe = load_recipe(stage, path.parent)
        except ConfigError as error:
            raise PlanError(f"{where}: {error}") from error
        if "seed" in find_placeholders([*stage.run, dict(stage.change), recipe]):
            raise PlanError(f"{where} has {{seed}}, and no seeds")
        made = repr((stage.planned, stage.run, recipe))
        if stage.seed is not None and (twin := seen.setdefault(made, stage.name)) != stage.name:
            raise PlanError(f"{where} does what {twin!r} does: {{seed}} stands nowhere in it")
        if missing := [name for name in find_inputs(stage, recipe) if name not in known]:
            raise PlanError(f"{where} needs {', '.join(missing)}, which no stage before it makes")
        if gone := [name for name in read_files(stage) if not (path.parent / name).exists()]:
            raise PlanError(f"{where} reads {', '.join(gone)}, which is not there")
        known.append(stage.name)


def read_files(stage: PlannedStage) -> list[str]:
    """What a stage reads besides its recipe, relative to the plan: `reads`, and what its commands name by `{plan}/`."""
    named = re.findall(r"\{plan\}/([^\s\"']+)", " ".join(stage.run))
    return list(dict.fromkeys([*stage.reads, *named]))


def _check_shown(plan: ReproductionPlan, path: Path, stages: Sequence[SeededStage]) -> None:
    shown = [row.result for table in plan.tables for row in table.rows] + [figure.image for figure in plan.figures]
    for place in [*shown, *([plan.answers] if plan.answers else [])]:
        named = SHOWN.fullmatch(place)
        if named is None or not any(stage.is_called(named["stage"]) for stage in stages):
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
                if name.value == "name" and isinstance(entry, yaml.ScalarNode)
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
