"""Where a stage's work lies: a folder named by what decides it, so that what is there already is not made again."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from look_again.files import write_whole
from look_again.reproduce.plan import PlannedStage, ReproductionPlan, fill, inputs, load_recipe

KEY_LENGTH = 12
RECORD = "stage.json"
DECIDING_PACKAGES = ("look-again-vlm", "torch", "transformers")


@dataclass(frozen=True)
class Prepared:
    """A stage with its key. folder: of this key; `out` and the recipe lie below it. inputs: names of stages."""

    stage: PlannedStage
    key: str
    folder: Path
    recipe: Any
    inputs: tuple[str, ...]

    @property
    def out(self) -> Path:
        return self.folder / "out"

    @property
    def log(self) -> Path:
        return self.folder / "log.txt"

    def record(self) -> dict[str, Any] | None:
        """What was written when the stage was done; None before, or if what it made is gone."""
        try:
            record = json.loads((self.folder / RECORD).read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        return record if (self.out / self.stage.makes).exists() else None


def prepare(plan: ReproductionPlan, plan_folder: Path, run: Path) -> dict[str, Prepared]:
    """The stages by name, in the plan's order, each with the folder of its key.

    A key is the digest of the commands, the changed recipe, the bytes of further files read, the versions of
    `DECIDING_PACKAGES`, and the keys of the inputs. So one changed value gives new folders to the stage that has it and
    to those that follow from it, and to no other.
    """
    made: dict[str, Prepared] = {}
    for stage in plan.stages:
        recipe = load_recipe(stage, plan_folder)
        needed = inputs(stage, recipe)
        decided = {
            "run": stage.run,
            "makes": stage.makes,
            "recipe": recipe,
            "reads": {name: digest_path(plan_folder / name) for name in stage.reads},
            "inputs": {name: made[name].key for name in needed},
            "versions": versions(),
        }
        if _uses_shipped(stage, recipe):
            decided["shipped"] = digest_path(_find_shipped())
        key = hashlib.sha256(json.dumps(decided, sort_keys=True, default=str).encode()).hexdigest()[:KEY_LENGTH]
        made[stage.name] = Prepared(stage, key, run / "made" / f"{stage.name}-{key}", recipe, needed)
    return made


def versions() -> dict[str, str]:
    """Of what decides results; "none" for what is not installed."""
    found = {}
    for name in DECIDING_PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return found


def digest_path(path: Path) -> str:
    """SHA-256 over a file's bytes, or over names and bytes of all files below a folder."""
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            digest.update(str(file.relative_to(path)).encode() + b"\0")
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def place(prepared: Prepared, stages: Mapping[str, Prepared]) -> dict[str, str]:
    """What the placeholders of a stage stand for."""
    shipped = {"shipped": str(_find_shipped())} if _uses_shipped(prepared.stage, prepared.recipe) else {}
    needed = {name: str(stages[name].out) for name in prepared.inputs}
    return {"out": str(prepared.out), "recipe": str(prepared.folder / "recipe.yaml"), **shipped, **needed}


def _uses_shipped(stage: PlannedStage, recipe: Any) -> bool:
    return "{shipped}" in f"{stage.run} {recipe}"


def _find_shipped() -> Path:
    """The model of the package; imported late, as it takes seconds that a plan without it need not wait."""
    from look_again.weights.sources import default_checkpoint

    return default_checkpoint()


def write_recipe(prepared: Prepared, places: Mapping[str, str]) -> None:
    """The recipe as it is run, beside the log."""
    if prepared.recipe is not None:
        text = yaml.safe_dump(_filled(prepared.recipe, places), sort_keys=False, allow_unicode=True)
        write_whole(prepared.folder / "recipe.yaml", text)


def _filled(value: Any, places: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return fill(value, places)
    if isinstance(value, Mapping):
        return {key: _filled(part, places) for key, part in value.items()}
    return [_filled(part, places) for part in value] if isinstance(value, list | tuple) else value


def write_record(prepared: Prepared, commands: list[list[str]], seconds: float) -> None:
    """Says that the stage is done, in one step: a killed run leaves no half record."""
    record = {
        "stage": prepared.stage.name,
        "key": prepared.key,
        "commands": commands,
        "seconds": round(seconds, 1),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "disk_mb": round(sum(f.stat().st_size for f in prepared.out.rglob("*") if f.is_file()) / 1e6, 1),
        "versions": versions(),
    }
    write_whole(prepared.folder / RECORD, json.dumps(record, indent=1) + "\n")


def followers(stages: Mapping[str, Prepared], name: str) -> list[str]:
    """Names of the stages that follow from a stage, itself first."""
    found = [name]
    for other, prepared in stages.items():
        if other not in found and any(one in found for one in prepared.inputs):
            found.append(other)
    return found
