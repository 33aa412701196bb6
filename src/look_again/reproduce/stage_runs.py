"""Runs the stages of a plan, up to `jobs` at once, each as soon as what it needs is made."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

from look_again.files import write_whole
from look_again.reproduce.made import Prepared
from look_again.reproduce.progress import StageProgress
from look_again.reproduce.schedule import choose_ready
from look_again.reproduce.stage_process import run_stage

TICK_S = 0.5


def selected(stages: Mapping[str, Prepared], start: str | None, only: Sequence[str]) -> list[Prepared]:
    """The stages to go through, in order: all, those from `start` on, or `only` some, all seeds of a name with it.

    ValueError for names that no stage has, and for inputs that neither are made nor will be.
    """
    names = list(stages)
    for asked in [*([start] if start else []), *only]:
        if not _matching(names, asked):
            raise ValueError(f"no stage is called {asked!r}; there are {', '.join(names)}")
    if start:
        names = names[names.index(_matching(names, start)[0]) :]
    if only:
        names = [name for name in names if any(name in _matching(names, asked) for asked in only)]
    for name in names:
        for needed in stages[name].inputs:
            if needed not in names and stages[needed].record() is None:
                raise ValueError(f"stage {name!r} needs {needed!r}, which is not made yet: run that first")
    return [stages[name] for name in names]


def _matching(names: Sequence[str], asked: str) -> list[str]:
    return [name for name in names if name == asked or name.rpartition("-")[::2] == (asked, name.rpartition("-")[2])]


def run_stages(
    todo: Sequence[Prepared], stages: Mapping[str, Prepared], progress: StageProgress, jobs: int = 1
) -> list[str]:
    """Make what is not made, up to `jobs` stages at once; returns the names of the stages that ran.

    StageError at the first that fails: what runs beside it is ended, and goes on at the next start.
    """
    waiting = [one for one in todo if one.record() is None]
    for one in todo:
        if one not in waiting:
            progress.skip(one.stage)
    unfinished = {one.stage.name for one in waiting}
    names = [one.stage.name for one in waiting]
    running: dict[Future[None], Prepared] = {}
    stopping = False
    with ThreadPoolExecutor(jobs) as pool:
        try:
            while waiting or running:
                while len(running) < jobs and (chosen := choose_ready(waiting, unfinished)):
                    waiting.remove(chosen)
                    progress.begin(chosen.stage)
                    future = pool.submit(run_stage, chosen, stages, jobs=jobs, keep_on=lambda: not stopping)
                    running[future] = chosen
                for future in wait(running, TICK_S, FIRST_COMPLETED).done:
                    ended = running.pop(future).stage
                    future.result()
                    progress.end(ended)
                    unfinished.discard(ended.name)
                progress.tick()
        finally:
            stopping = True
    return names


def write_state(run: Path, plan_file: Path, quick: bool, stages: Mapping[str, Prepared]) -> None:
    """`RUN/stages.json`: which folder holds which stage of the plan as it stands now."""
    state = {
        "plan": str(plan_file),
        "quick": quick,
        "stages": {name: one.folder.name for name, one in stages.items()},
    }
    run.mkdir(parents=True, exist_ok=True)
    write_whole(run / "stages.json", json.dumps(state, indent=1) + "\n")
