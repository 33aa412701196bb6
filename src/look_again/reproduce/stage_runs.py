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


def selected(
    stages: Mapping[str, Prepared], start: str | None, only: Sequence[str], *, check_inputs: bool = True
) -> list[Prepared]:
    """The stages to go through, in order: all, those from `start` on, or `only` some, all seeds of a name with it.

    ValueError for names that no stage has, and for inputs that neither are made nor will be, unless those are not
    checked.
    """
    chosen = list(stages.values())
    for asked in [*([start] if start else []), *only]:
        if not any(_is_asked(one, asked) for one in chosen):
            known = dict.fromkeys(one.stage.planned for one in chosen)
            raise ValueError(f"no stage is called {asked!r}; there are {', '.join(known)}")
    if start:
        chosen = chosen[next(place for place, one in enumerate(chosen) if _is_asked(one, start)) :]
    if only:
        chosen = [one for one in chosen if any(_is_asked(one, asked) for asked in only)]
    names = {one.stage.name for one in chosen}
    for one in chosen if check_inputs else ():
        for needed in one.inputs:
            if needed not in names and stages[needed].record() is None:
                raise ValueError(f"stage {one.stage.name!r} needs {needed!r}, which is not made yet: run that first")
    return chosen


def _is_asked(one: Prepared, asked: str) -> bool:
    """By its own name, or by that of the plan, which means all of its seeds."""
    return asked in (one.stage.name, one.stage.planned)


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
