"""One run from its configuration: rows in, stages one after the other, a build out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from look_again.pipeline.build import build
from look_again.pipeline.endpoint_pool import Line
from look_again.pipeline.engine import Stage, StageReport, open_desk, run_stages
from look_again.pipeline.intake import add_source
from look_again.pipeline.ledger.items import Item
from look_again.pipeline.ledger.ledger import Ledger
from look_again.pipeline.overlap import fingerprints_of, shared_with
from look_again.pipeline.review import review
from look_again.pipeline.run_config import RunConfig, lines_of

if TYPE_CHECKING:
    from look_again.pipeline.ray.ray_engine import RayOptions


def run(
    ledger: Ledger,
    config: RunConfig,
    names: Sequence[str] | None = None,
    *,
    progress: bool = False,
    ray: RayOptions | None = None,
) -> list[StageReport]:
    """Run the flow's stages, or those of these names, here or under Ray. ValueError for a name that the flow does not
    have; RayError and MissingExtraError where Ray cannot be used."""
    stages = config.stages(ledger)
    known = [stage.name for stage in stages]
    if unknown := [name for name in names or () if name not in known]:
        raise ValueError(f"the flow {config.flow} has no stage {', '.join(unknown)}; it has {', '.join(known)}")
    for source in config.sources:
        add_source(ledger, source)
    chosen = [stage for stage in stages if names is None or stage.name in names]
    if ray is not None:
        return _run_under_ray(ledger, config, chosen, ray, progress)
    return _run_here(ledger, chosen, lines_of(config), config, progress)


def _run_here(
    ledger: Ledger, stages: Sequence[Stage], lines: Sequence[Line], config: RunConfig, progress: bool
) -> list[StageReport]:
    async def go() -> list[StageReport]:
        async with open_desk(ledger, lines, " ".join(stage.name for stage in stages), config.budget) as desk:
            return await run_stages(desk, stages, workers=config.width, progress=progress)

    return asyncio.run(go())


def _run_under_ray(
    ledger: Ledger, config: RunConfig, stages: Sequence[Stage], options: RayOptions, progress: bool
) -> list[StageReport]:
    """All but the review, whose decisions are in the ledger."""
    from look_again.pipeline.ray import ray_engine

    asking = [stage for stage in stages if stage.name != review.NAME]
    reports: list[StageReport] = []
    for report in ray_engine.run_stages(ledger, config, asking, options, progress=progress) if asking else ():
        reports.append(report)
        if report.stopped:
            return reports
    rest = [stage for stage in stages if stage.name == review.NAME]
    return reports + (_run_here(ledger, rest, [], config, progress) if rest else [])


def build_run(ledger: Ledger, config: RunConfig, out: Path) -> dict[str, Any]:
    """Build what came through the flow. ValueError where rows are shared with evaluation sets and that is refused."""
    stages = config.stages(ledger)
    about = {
        "flow": config.flow,
        "models": ", ".join(dict.fromkeys(f"{e.name} ({e.model})" for e in config.endpoints if e.name in config.asked)),
        "prompts": ", ".join(f"{stage} {version}" for stage, version in _prompts(ledger)),
    }
    return build(ledger, stages[-1].place, out, config.build, leave_out=_shared(config, out), about=about)


def _prompts(ledger: Ledger) -> list[tuple[str, str]]:
    found = ledger.read("SELECT DISTINCT stage, prompt FROM requests WHERE prompt != '' ORDER BY stage, prompt")
    return [(stage, prompt) for stage, prompt in found]


def _shared(config: RunConfig, out: Path) -> Callable[[Item], str | None]:
    """What leaves out rows that evaluation sets hold too; under "refuse" the first one ends the build."""
    if not config.evaluation or config.on_overlap == "keep":
        return lambda item: None
    known = fingerprints_of(config.evaluation)

    def reason(item: Item) -> str | None:
        found = shared_with(item.row, known)
        if found and config.on_overlap == "refuse":
            raise ValueError(
                f"row {item.row.id!r} is in an evaluation set ({found[0]}): see `look-again data overlap`, then set "
                "on_overlap to drop or keep"
            )
        return "shared with an evaluation set" if found else None

    return reason
