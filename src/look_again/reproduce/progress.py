"""The bar of a whole run: minutes of the plan's estimates, corrected by what the stages so far took."""

from __future__ import annotations

import time
from collections.abc import Sequence

from tqdm import tqdm

from look_again.reproduce.made import Prepared
from look_again.reproduce.plan import PlannedStage
from look_again.reproduce.schedule import schedule_minutes

LEAST_MINUTES = 0.05  # of a stage without an estimate


def expected_minutes(stage: PlannedStage) -> float:
    return max(stage.cost.minutes, LEAST_MINUTES)


class StageProgress:
    """A bar over all stages, in the plan's minutes; the time left is that of their schedule at this machine's pace."""

    def __init__(self, todo: Sequence[Prepared], *, jobs: int = 1, shown: bool = True) -> None:
        self.left = {one.stage.name: one for one in todo}
        self.total = sum(expected_minutes(one.stage) for one in todo)
        self.count, self.jobs = len(todo), jobs
        self.estimated = self.took = 0.0  # minutes of the stages that ran
        self.started: dict[str, float] = {}
        form = "{desc} {percentage:3.0f}%|{bar}| {elapsed}{postfix}"
        self.bar = tqdm(total=self.total, bar_format=form, disable=not shown, dynamic_ncols=True)

    def skip(self, stage: PlannedStage) -> None:
        """A stage that is there already."""
        del self.left[stage.name]
        self._show(f"{stage.name} (kept)")

    def begin(self, stage: PlannedStage) -> None:
        """A stage starts."""
        self.started[stage.name] = time.monotonic()
        self.tick()

    def end(self, stage: PlannedStage) -> None:
        """A stage is made; what it took corrects the estimate of the rest."""
        self.took += (time.monotonic() - self.started.pop(stage.name)) / 60
        self.estimated += expected_minutes(stage)
        del self.left[stage.name]
        self.tick()

    def tick(self) -> None:
        """Moves the bar within the stages that run, never beyond their ends."""
        self._show(", ".join(self.started))

    @property
    def pace(self) -> float:
        """Minutes here per minute of the plan."""
        return self.took / self.estimated if self.estimated else 1.0

    def close(self) -> None:
        self.bar.close()

    def _minutes_left(self) -> dict[str, float]:
        """The plan's minutes of each stage that is not made, less what is spent on it."""
        now, left = time.monotonic(), {}
        for name, one in self.left.items():
            expected = expected_minutes(one.stage)
            spent = (now - self.started[name]) / 60 / self.pace if name in self.started else 0.0
            left[name] = expected - min(spent, 0.95 * expected)
        return left

    def _show(self, what: str) -> None:
        left = self._minutes_left()
        minutes = schedule_minutes(self.left.values(), left, self.jobs) * self.pace
        self.bar.n = round(self.total - sum(left.values()), 3)
        self.bar.set_description_str(f"[{self.count - len(self.left)}/{self.count}] {what}", refresh=False)
        self.bar.set_postfix_str(f"about {minutes:.0f} min left")
