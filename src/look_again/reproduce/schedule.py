"""Which stage runs next, and how long the rest takes, where several run at once."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence

from look_again.reproduce.made import Prepared


def choose_ready(waiting: Sequence[Prepared], unfinished: set[str]) -> Prepared | None:
    """The first stage none of whose inputs is among the `unfinished` names; None where all have to wait."""
    return next((one for one in waiting if unfinished.isdisjoint(one.inputs)), None)


def schedule_minutes(todo: Iterable[Prepared], minutes: Mapping[str, float], jobs: int) -> float:
    """The time until the last stage of `todo` ends, in minutes, when up to `jobs` of them run at once.

    minutes: of each stage by name. Stages start in their order as soon as their inputs are there, as `run_stages` does.
    """
    waiting = list(todo)
    unfinished = {one.stage.name for one in waiting}
    running: list[tuple[float, str]] = []
    now = 0.0
    while waiting or running:
        while len(running) < jobs and (chosen := choose_ready(waiting, unfinished)):
            waiting.remove(chosen)
            heapq.heappush(running, (now + minutes[chosen.stage.name], chosen.stage.name))
        now, ended = heapq.heappop(running)
        unfinished.discard(ended)
    return now
