"""One run from its configuration: rows in, stages one after the other, a build out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from look_again.extras import require
from look_again.pipeline.build import build
from look_again.pipeline.endpoint_pool import EndpointState
from look_again.pipeline.engine import PipelineStage, StageReport, open_chat_client, run_stages
from look_again.pipeline.intake import add_source
from look_again.pipeline.ledger.items import WorkItem
from look_again.pipeline.ledger.ledger import Ledger
from look_again.pipeline.overlap import load_fingerprints, shared_with
from look_again.pipeline.review import decisions
from look_again.pipeline.run_config import RunConfig, open_endpoints

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
    """Run the flow's stages, or those of these names, here or under Ray.

    ValueError for a name that the flow does not have, and where no row can be used; RayError and MissingExtraError
    where Ray cannot be used.
    """
    stages = config.stages(ledger)
    known = [stage.name for stage in stages]
    if unknown := [name for name in names or () if name not in known]:
        raise ValueError(f"the flow {config.flow} has no stage {', '.join(unknown)}; it has {', '.join(known)}")
    for source in config.sources:
        add_source(ledger, source)
    if ray is not None:
        require("ray", extra="ray")
    _check_rows(ledger)
    chosen = [stage for stage in stages if names is None or stage.name in names]
    if ray is not None:
        return _run_under_ray(ledger, config, chosen, ray, progress)
    return _run_here(ledger, chosen, open_endpoints(config), config, progress)


def _check_rows(ledger: Ledger) -> None:
    """ValueError for a run without a row that can be used: it would end at once, as if all were well."""
    if ledger.read("SELECT 1 FROM rows WHERE verdict = 'ok' LIMIT 1"):
        return
    query = "SELECT reason, count(*) FROM rows GROUP BY reason ORDER BY count(*) DESC, reason LIMIT 1"
    if not (refused := ledger.read(query)):
        raise ValueError(f"there are no rows in {ledger.folder}: name sources that have some")
    ((reason, count),) = refused
    total = ledger.read("SELECT count(*) FROM rows")[0][0]
    raise ValueError(f"all {total} rows are refused, so there is nothing to do; {count} of them: {reason}")


def _run_here(
    ledger: Ledger, stages: Sequence[PipelineStage], states: Sequence[EndpointState], config: RunConfig, progress: bool
) -> list[StageReport]:
    async def go() -> list[StageReport]:
        async with open_chat_client(ledger, states, " ".join(stage.name for stage in stages), config.budget) as client:
            return await run_stages(client, stages, workers=config.width, progress=progress)

    return asyncio.run(go())


def _run_under_ray(
    ledger: Ledger, config: RunConfig, stages: Sequence[PipelineStage], options: RayOptions, progress: bool
) -> list[StageReport]:
    """All but the review, whose decisions are in the ledger."""
    from look_again.pipeline.ray import ray_engine

    chat_stages = [stage for stage in stages if stage.name != decisions.NAME]
    reports: list[StageReport] = []
    for report in ray_engine.run_stages(ledger, config, chat_stages, options, progress=progress) if chat_stages else ():
        reports.append(report)
        if report.stopped:
            return reports
    rest = [stage for stage in stages if stage.name == decisions.NAME]
    return reports + (_run_here(ledger, rest, [], config, progress) if rest else [])


def build_run(ledger: Ledger, config: RunConfig, out: Path) -> dict[str, Any]:
    """Build what came through the flow. ValueError where rows are shared with evaluation sets and that is refused."""
    stages = config.stages(ledger)
    about = {
        "flow": config.flow,
        "models": ", ".join(dict.fromkeys(f"{e.name} ({e.model})" for e in config.endpoints if e.name in config.asked)),
        "prompts": ", ".join(f"{stage} {version}" for stage, version in _prompts(ledger)),
    }
    return build(ledger, stages[-1].key, out, config.build, leave_out=_shared(config, out), about=about)


def _prompts(ledger: Ledger) -> list[tuple[str, str]]:
    versions = ledger.read("SELECT DISTINCT stage, prompt FROM requests WHERE prompt != '' ORDER BY stage, prompt")
    return [(stage, prompt) for stage, prompt in versions]


def _shared(config: RunConfig, out: Path) -> Callable[[WorkItem], str | None]:
    """What leaves out rows that evaluation sets hold too; under "refuse" the first one ends the build."""
    if not config.evaluation or config.on_overlap == "keep":
        return lambda item: None
    known = load_fingerprints(config.evaluation)

    def reason(item: WorkItem) -> str | None:
        matches = shared_with(item.row, known)
        if matches and config.on_overlap == "refuse":
            raise ValueError(
                f"row {item.row.id!r} is in an evaluation set ({matches[0]}): see `look-again data overlap`, then set "
                "on_overlap to drop or keep"
            )
        return "shared with an evaluation set" if matches else None

    return reason
