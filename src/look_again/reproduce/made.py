"""Where a stage's work lies: a folder named by what decides it, so that what is there already is not made again."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from look_again.files import write_whole
from look_again.reproduce.placeholders import put
from look_again.reproduce.plan import ReproductionPlan, SeededStage
from look_again.reproduce.plan_file import find_inputs, load_recipe, read_files
from look_again.reproduce.stage_words import find_words

KEY_LENGTH = 12
RECORD = "stage.json"
DECIDING_PACKAGES = ("look-again-vlm", "torch", "transformers")
ASKING = ("eval", "analyze", "study", "ask")
"""Commands that take the shipped model where they name none."""


@dataclass(frozen=True)
class Prepared:
    """A stage with its key.

    folder: of this key; `out` and the recipe lie below it. inputs: names of stages. plan_folder: where the plan lies.
    """

    stage: SeededStage
    key: str
    folder: Path
    recipe: Any
    inputs: tuple[str, ...]
    plan_folder: Path = Path()

    @property
    def out(self) -> Path:
        return self.folder / "out"

    @property
    def log(self) -> Path:
        return self.folder / "log.txt"

    def record(self) -> dict[str, Any] | None:
        """What was written when the stage was done; None before, if it is damaged, or if what it made is gone."""
        try:
            record = json.loads((self.folder / RECORD).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        whole = isinstance(record, dict) and isinstance(record.get("seconds"), int | float)
        return record if whole and self.is_there() else None

    def is_there(self) -> bool:
        """Whether there is what the stage makes: a file, or a folder with something in it."""
        made = self.out / self.stage.makes
        return any(made.iterdir()) if made.is_dir() else made.exists()


def prepare(plan: ReproductionPlan, plan_folder: Path, run: Path) -> dict[str, Prepared]:
    """The stages by name, in the plan's order, each with the folder of its key.

    A key is the digest of the commands, the changed recipe, the bytes of further files read and of the shipped model
    where it is used, the versions of `DECIDING_PACKAGES`, and the keys of the inputs. So one changed value gives new
    folders to the stage that has it and to those that follow from it, and to no other.
    """
    made: dict[str, Prepared] = {}
    for stage in plan.stages:
        assert isinstance(stage, SeededStage), "plans are read by load_plan"
        recipe = load_recipe(stage, plan_folder)
        needed = find_inputs(stage, recipe)
        decided = {
            "run": stage.run,
            "makes": stage.makes,
            "recipe": recipe,
            "reads": {name: digest_path(plan_folder / name) for name in read_files(stage)},
            "inputs": {name: made[name].key for name in needed},
            "versions": versions(),
        }
        if _names_shipped(stage, recipe) or _takes_shipped(stage):
            decided["shipped"] = digest_path(_find_shipped())
        key = hashlib.sha256(json.dumps(decided, sort_keys=True).encode()).hexdigest()[:KEY_LENGTH]
        made[stage.name] = Prepared(stage, key, run / "made" / f"{stage.name}-{key}", recipe, needed, plan_folder)
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
    """SHA-256 over a file's bytes, or over names and bytes of all files below a folder, linked folders included."""
    digest = hashlib.sha256()
    for file in sorted(_walk_files(path, set())) if path.is_dir() else [path]:
        digest.update(str(file.relative_to(path)).encode() + b"\0")
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def _walk_files(folder: Path, seen: set[Path]) -> Iterator[Path]:
    """Every file below a folder; one that was seen already, as a link back to it is, has none."""
    if (real := folder.resolve()) in seen:
        return
    seen.add(real)
    for entry in sorted(folder.iterdir()):
        if entry.is_dir():
            yield from _walk_files(entry, seen)
        elif entry.is_file():
            yield entry


def place(prepared: Prepared, stages: Mapping[str, Prepared]) -> dict[str, str]:
    """What the placeholders of a stage stand for."""
    shipped = {"shipped": str(_find_shipped())} if _names_shipped(prepared.stage, prepared.recipe) else {}
    needed = {name: str(stages[name].out) for name in prepared.inputs}
    own = {"out": prepared.out, "recipe": prepared.folder / "recipe.yaml", "plan": prepared.plan_folder.resolve()}
    return {name: str(path) for name, path in own.items()} | shipped | needed


def _names_shipped(stage: SeededStage, recipe: Any) -> bool:
    return "{shipped}" in f"{stage.run} {recipe}"


def _takes_shipped(stage: SeededStage) -> bool:
    """Whether a command asks the shipped model without naming it."""
    commands = [words for line in stage.run if (words := find_words(line)) and words[0] in ASKING]
    return any(not any(word.startswith(("--model", "--base-url")) for word in words) for words in commands)


def _find_shipped() -> Path:
    """The model of the package; imported late, as it takes seconds that a plan without it need not wait."""
    from look_again.weights.sources import default_checkpoint

    return default_checkpoint()


def write_recipe(prepared: Prepared, places: Mapping[str, str]) -> None:
    """The recipe as it is run, beside the log."""
    if prepared.recipe is not None:
        text = yaml.safe_dump(put(prepared.recipe, places), sort_keys=False, allow_unicode=True)
        write_whole(prepared.folder / "recipe.yaml", text)


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
