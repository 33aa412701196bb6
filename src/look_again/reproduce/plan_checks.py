"""What is tried before a stage runs: recipes as their commands will read them, endpoints, bases, disk."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from look_again.reproduce.made import Prepared
from look_again.reproduce.placeholders import PLACEHOLDER
from look_again.reproduce.plan import PlanError
from look_again.reproduce.plan_file import locate_stage
from look_again.reproduce.schedule import schedule_minutes
from look_again.reproduce.stage_words import find_option, find_words
from look_again.yaml_config import ConfigError, build

DISK_MARGIN = 1.2  # free space needed per estimated megabyte
PROBE_S = 10.0

Complaint = Callable[[Sequence[str]], str | None]


def check_recipes(stages: Mapping[str, Prepared], path: Path, lines: Mapping[str, int]) -> None:
    """PlanError for a recipe that its command would refuse, and for a base that is not of this plan.

    A recipe's base is a stage's folder, or the folder or hub name of one model for the whole plan.
    """
    origins = [base for one in stages.values() for base in _origins(one)]
    for name, prepared in stages.items():
        where = locate_stage(name, path, lines)
        for base in _origins(prepared):
            if _is_path(base) and not Path(base).expanduser().is_dir():
                raise PlanError(f"{where} starts from {base}, which is no folder")
            if os.path.normpath(base) != os.path.normpath(origins[0]):
                raise PlanError(f"{where} starts from {base}, another base than the plan's, {origins[0]}")
        for kind in _kinds(prepared):
            try:
                _read(kind, prepared.recipe, prepared.stage.recipe or "")
            except (ConfigError, ValueError) as error:
                raise PlanError(f"{where}: {error}") from error


def check_commands(stages: Mapping[str, Prepared], path: Path, lines: Mapping[str, int], complain: Complaint) -> None:
    """PlanError for a command of this program that its own parser refuses.

    complain: what is wrong with the arguments behind `look-again`, None where nothing is.
    """
    for name, prepared in stages.items():
        for line in prepared.stage.run:
            if (words := find_words(line)) is not None and (wrong := complain(words)):
                raise PlanError(f"{locate_stage(name, path, lines)} runs {line!r}: {wrong}")


def _origins(prepared: Prepared) -> Iterator[str]:
    """The model that a stage's training starts from, where no other stage makes it."""
    base = prepared.recipe.get("base") if isinstance(prepared.recipe, Mapping) else None
    if isinstance(base, str) and not PLACEHOLDER.search(base):
        yield base


def _is_path(base: str) -> bool:
    """Whether it cannot be a hub name."""
    return base.startswith(("/", ".", "~")) or len(Path(base).parts) > 2


def _kinds(prepared: Prepared) -> list[str]:
    """What the stage's commands read the recipe as: "sft", "brpo" or "data"."""
    found = []
    for line in prepared.stage.run:
        words = find_words(line) or []
        if any("{recipe}" in word for word in words) and words[0] in ("train", "data"):
            found.append(words[1] if words[0] == "train" else "data")
    return list(dict.fromkeys(found))


def _read(kind: str, recipe: Any, where: str) -> None:
    if kind == "sft":
        from look_again.training.sft_config import SftConfig

        build(SftConfig, recipe, where)
    elif kind == "brpo":
        from look_again.rl.brpo_config import BrpoConfig

        build(BrpoConfig, recipe, where)
    elif kind == "data":
        from look_again.pipeline.run_config import RunConfig

        build(RunConfig, recipe, where)


def endpoint_urls(todo: Iterable[Prepared]) -> dict[str, str]:
    """URL to the name of the first stage that asks there; Tabletop's endpoints are inside the process."""
    found: dict[str, str] = {}
    for prepared in todo:
        for url in _urls(prepared):
            if not url.startswith("tabletop:") and not PLACEHOLDER.search(url):
                found.setdefault(url, prepared.stage.name)
    return found


def _urls(prepared: Prepared) -> Iterator[str]:
    """What a stage's recipe and commands ask; kinds that do not fit are for the command to refuse."""
    listed = prepared.recipe.get("endpoints") if isinstance(prepared.recipe, Mapping) else None
    for endpoint in listed if isinstance(listed, list) else ():
        if isinstance(endpoint, Mapping) and isinstance(url := endpoint.get("base_url"), str):
            yield url
    for line in prepared.stage.run:
        words = find_words(line) or ()
        yield from (url for option in ("--base-url", "--vllm-url") for url in find_option(words, option))


def check_endpoints(todo: Iterable[Prepared], path: Path, lines: Mapping[str, int]) -> None:
    """PlanError for an endpoint that does not answer. Any status is an answer: keys are the stage's own concern.

    todo: the stages that will run; those that are made ask nobody.
    """
    urls = endpoint_urls(one for one in todo if one.record() is None)
    if not urls:
        return
    from look_again.extras import require

    require("httpx", extra="data")
    import httpx

    for url, name in urls.items():
        try:
            httpx.get(f"{url.rstrip('/')}/models", timeout=PROBE_S)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            reason = str(error) or type(error).__name__
            where = locate_stage(name, path, lines)
            raise PlanError(f"{where} asks {url}, which does not answer: {reason}") from error


@dataclass(frozen=True)
class Estimate:
    """What is still to be spent on stages; stages: their number, made: of those that are there.

    minutes: until the last stage ends, with `jobs` of them at once. The others are sums.
    """

    stages: int
    made: int
    jobs: int
    minutes: float
    disk_mb: float
    gpu_hours: float
    api_calls: int
    money: float


def estimate(stages: Iterable[Prepared], jobs: int = 1) -> Estimate:
    """The plan's estimates of the stages that are not made."""
    every = list(stages)
    todo = [one for one in every if one.record() is None]
    sums = {
        key: sum(getattr(one.stage.cost, key) for one in todo) for key in ("disk_mb", "gpu_hours", "api_calls", "money")
    }
    minutes = schedule_minutes(todo, {one.stage.name: one.stage.cost.minutes for one in todo}, jobs)
    return Estimate(len(every), len(every) - len(todo), jobs, minutes, **sums)


def check_disk(todo: Iterable[Prepared], run: Path, path: Path, lines: Mapping[str, int]) -> None:
    """PlanError when the disk of `run` has less than the estimate of what is not made, and a margin.

    It names the stage that is to leave most.
    """
    costs = {one.stage.name: one.stage.cost.disk_mb for one in todo if one.record() is None}
    needed_mb = sum(costs.values())
    folder = next(parent for parent in (run, *run.resolve().parents) if parent.exists())
    free_mb = shutil.disk_usage(folder).free / 1e6
    if needed_mb * DISK_MARGIN > free_mb:
        largest = max(costs, key=lambda name: costs[name])
        raise PlanError(
            f"{locate_stage(largest, path, lines)} leaves about {costs[largest] / 1e3:.1f} GB, all stages together "
            f"{needed_mb / 1e3:.1f} GB, and {DISK_MARGIN:g} times that is wanted; "
            f"the disk of {folder} has {free_mb / 1e3:.1f} GB free: choose another --out, or make room"
        )
