"""The bar of a whole run: minutes of the plan's estimates, corrected by what the stages so far took."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tqdm import tqdm

from look_again.reproduce.plan import PlannedStage

LEAST_MINUTES = 0.05  # of a stage without an estimate


def expected_minutes(stage: PlannedStage) -> float:
    return max(stage.cost.minutes, LEAST_MINUTES)


class StageProgress:
    """A bar over all stages. It counts the plan's minutes; the time left is theirs times this machine's pace."""

    def __init__(self, stages: Sequence[PlannedStage], *, shown: bool = True) -> None:
        self.left = {stage.name: expected_minutes(stage) for stage in stages}
        self.total, self.count, self.done = sum(self.left.values()), len(stages), 0
        self.estimated = self.took = 0.0  # minutes of the stages that ran
        self.started: tuple[PlannedStage, float] | None = None
        form = "{desc} {percentage:3.0f}%|{bar}| {elapsed}{postfix}"
        self.bar = tqdm(total=self.total, bar_format=form, disable=not shown, dynamic_ncols=True)

    def skip(self, stage: PlannedStage) -> None:
        """A stage that is there already."""
        self._finish(stage)
        self._show(f"{stage.name} (kept)")

    @contextmanager
    def running(self, stage: PlannedStage) -> Iterator[None]:
        """While a stage runs; what it took corrects the estimate of the rest."""
        self.started = (stage, time.monotonic())
        self._show(stage.name)
        yield
        self.estimated += expected_minutes(stage)
        self.took += (time.monotonic() - self.started[1]) / 60
        self.started = None
        self._finish(stage)

    def tick(self) -> None:
        """Moves the bar within the stage that runs, never beyond its end."""
        if self.started is None:
            return
        stage, since = self.started
        spent = min((time.monotonic() - since) / 60 / self.pace, 0.95 * expected_minutes(stage))
        self.bar.n = round(self.total - sum(self.left.values()) + spent, 3)
        self._show(stage.name, spent)

    @property
    def pace(self) -> float:
        """Minutes here per minute of the plan."""
        return self.took / self.estimated if self.estimated else 1.0

    def close(self) -> None:
        self.bar.close()

    def _finish(self, stage: PlannedStage) -> None:
        self.left.pop(stage.name)
        self.done += 1
        self.bar.n = round(self.total - sum(self.left.values()), 3)

    def _show(self, name: str, spent: float = 0.0) -> None:
        minutes = (sum(self.left.values()) - spent) * self.pace
        self.bar.set_description_str(f"[{self.done}/{self.count}] {name}", refresh=False)
        self.bar.set_postfix_str(f"about {minutes:.0f} min left")
