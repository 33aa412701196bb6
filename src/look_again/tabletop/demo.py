"""`look-again data demo`: the whole engine on Tabletop, offline.

Cold start: a teacher puts reflections into answers, stand-ins for people decide by the truth. Then the shipped model
answers questions by the batched decoding loop, four judges examine, a writer corrects what two object to, and the rest
is built. Teacher, judges and writer are Tabletop's endpoint inside this process; the model is a real one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from look_again.clients.openai import Endpoint
from look_again.data.sample import Sample
from look_again.pipeline.build import BuildConfig, check_build
from look_again.pipeline.engine import StageReport
from look_again.pipeline.intake import add_rows
from look_again.pipeline.ledger.items import WorkItem, results
from look_again.pipeline.ledger.ledger import Ledger
from look_again.pipeline.pipeline_run import build_run, run
from look_again.pipeline.review import decisions
from look_again.pipeline.run_config import CONFIG_FILE, RunConfig
from look_again.pipeline.stages import rewrite
from look_again.pipeline.stages.distil import Distillation
from look_again.pipeline.stages.verify import JudgePanel
from look_again.pipeline.status import status
from look_again.scoring.extraction import score
from look_again.tabletop.answering import COMMON_FAULTS
from look_again.tabletop.loader import build_sample
from look_again.tabletop.samples import make_sample
from look_again.tabletop.seeing import listed
from look_again.text.grammar import parse
from look_again.yaml_config import dump_yaml

COLD_START, DISTILLED = "cold-start", "distilled"
REVIEWERS = tuple(f"stand-in-{i}" for i in range(1, 5))
JUDGES = tuple(f"judge-{i}" for i in range(1, 5))


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """rows: of each flow. error_rate: of judges, teacher and writer. faults: share of each common kind of fault.
    split: of Tabletop; the shipped model has never seen the pairs of "heldout" and errs there more. model: an oracle at
    an endpoint instead of the shipped checkpoint, for tests of everything else. ValueError for less than one row."""

    rows: int
    seed: int = 0
    split: str = "heldout"
    error_rate: float = 0.1
    faults: float = 0.0
    threshold: int = 2
    batch: int = 50
    oracle: bool = False
    concurrency: int = 8

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise ValueError(f"rows is {self.rows}: use 1 or more")

    def endpoint(self, name: str, role: str) -> Endpoint:
        """An endpoint of Tabletop inside this process. Prices are made up, so that there is something to count."""
        faults = "".join(f"&{kind}={self.faults}" for kind in COMMON_FAULTS if self.faults)
        url = f"tabletop:?error={self.error_rate}&seed={self.seed}&stall_s=30&retry_after_s=0.02{faults}"
        return Endpoint(
            name=name, base_url=url, model=f"tabletop-{role}", price_in=1.0, price_out=4.0, backoff_s=0.02,
            max_wait_s=0.5, timeout_s=1.0, attempts=10, concurrency=self.concurrency,
        )  # fmt: skip

    def cold_start(self) -> RunConfig:
        return RunConfig(
            flow=COLD_START,
            endpoints=(self.endpoint("teacher", "teacher"),),
            teacher="teacher",
            reviewers=REVIEWERS,
            build=BuildConfig(name="Tabletop cold start"),
        )

    def distilled(self) -> RunConfig:
        judges = tuple(self.endpoint(name, name) for name in JUDGES)
        local = Distillation(checkpoint="", batch=self.batch, max_new_tokens=512)
        return RunConfig(
            flow=DISTILLED,
            endpoints=(self.endpoint("model", "model"), *judges, self.endpoint("writer", "writer")),
            distil=Distillation(model="model") if self.oracle else local,
            panel=JudgePanel(judges=JUDGES, threshold=self.threshold),
            writer="writer",
            review="rewritten",
            reviewers=REVIEWERS,
            build=BuildConfig(name="Tabletop, distilled"),
        )


def demo(config: DemoConfig, out: Path, *, progress: bool = False) -> dict[str, Any]:
    """Run both flows under `out`, each in a ledger of its own, and build; the summary. Started again, it goes on.

    Each flow's folder gets its configuration, as `look-again data status` reads it. MissingExtraError before anything
    is made.
    """
    summaries: dict[str, Any] = {"rows": config.rows}
    flows = ((config.cold_start(), _cold_rows), (config.distilled(), _plain_rows))
    for run_config, _ in flows:
        check_build(run_config.build)
    for run_config, rows in flows:
        with Ledger(out / run_config.flow) as ledger:
            (ledger.folder / CONFIG_FILE).write_text(dump_yaml(run_config), encoding="utf-8")
            if ledger.fact("rows") is None:
                add_rows(ledger, rows(config), "tabletop")
                ledger.set_fact("rows", str(config.rows))
            reports = _to_the_end(ledger, run_config, progress)
            _stand_in(ledger, run_config)
            reports = run(ledger, run_config, [decisions.NAME], progress=progress) or reports
            built = build_run(ledger, run_config, out / run_config.flow / "build")
            summaries[run_config.flow] = summary(ledger, run_config, built)
    return summaries


def _to_the_end(ledger: Ledger, config: RunConfig, progress: bool) -> list[StageReport]:
    """All stages; rows that wait for an endpoint get another chance."""
    reports = run(ledger, config, progress=progress)
    if any(report.waiting for report in reports if report.stage != decisions.NAME):
        reports = run(ledger, config, progress=progress)
    return reports


def _plain_rows(config: DemoConfig) -> Iterator[Sample]:
    """Questions alone."""
    for index in range(config.rows):
        yield replace(
            build_sample(make_sample(config.split, config.seed, index), config.split), response=None, silent=()
        )


def _cold_rows(config: DemoConfig) -> Iterator[Sample]:
    """Answers without reflection, as LLaVA-CoT's; mistakes in them are what there is to see in the image again."""
    for index in range(config.rows):
        yield build_sample(make_sample("train", config.seed, index, reflections=0), "train")


def _stand_in(ledger: Ledger, config: RunConfig) -> None:
    """Decides for people by the truth: rejects wrong answers, and reflections that claim what is not there."""
    for reviewer in config.reviewers:
        while (item := decisions.claim(ledger, reviewer, config.reviewers)) is not None:
            fault = _fault(item)
            decisions.decide(ledger, item, reviewer, "reject" if fault else "accept", note=fault)


def _fault(item: WorkItem) -> str:
    sample = item.row
    parsed = parse(item.response or "")
    if not score(parsed.conclusion or "", sample.reference or ""):
        return "the answer is wrong"
    scene = sample.images[0].scene  # type: ignore[union-attr]
    truth = {(thing.place, *thing.pair) for thing in scene.things}
    last = parsed.reflections[-1].text if parsed.reflections else ""
    return "the reflection misreads the image" if last and listed(last) != truth else ""


def summary(ledger: Ledger, config: RunConfig, built: dict[str, Any]) -> dict[str, Any]:
    """Counts of every stage, which add up, and the share of wrong answers before and after."""
    state = status(ledger, config.stages(ledger))
    stages = state["stages"]
    reports = {
        name: {key: stage[key] for key in ("items", "ok", "bad", "waiting", "pending")}
        for name, stage in stages.items()
    }
    counts = {
        "rows": state["rows"],
        "stages": reports,
        "built": built["rows"],
        "left_out": built["left_out"],
        "adds_up": adds_up(state["rows"], reports, built),
        "reasons": {name: stage["reasons"] for name, stage in stages.items() if stage["reasons"]},
        "spent": state["spent"],
        "requests": state["requests"],
    }
    if config.flow == DISTILLED:
        counts |= {"panel": state["panel"], "wrong": wrong_shares(ledger, config)}
    return counts


def adds_up(rows: dict[str, int], stages: dict[str, dict[str, int]], built: dict[str, Any]) -> bool:
    """Whether each stage got what the one before let through, and lost none of it."""
    through = rows.get("ok", 0)
    for stage in stages.values():
        if stage["items"] != through or stage["ok"] + stage["bad"] + stage["waiting"] + stage["pending"] != through:
            return False
        through = stage["ok"]
    return built["rows"] + sum(built["left_out"].values()) == through


def wrong_shares(ledger: Ledger, config: RunConfig) -> dict[str, Any]:
    """Wrong answers against Tabletop's truth: as distilled, after rewriting, and in the build."""
    stages = {stage.name: stage.key for stage in config.stages(ledger)}
    shares: dict[str, Any] = {}
    for label, name in (("distilled", "distil"), ("rewritten", rewrite.NAME), ("built", decisions.NAME)):
        verdicts = [_is_wrong(item, output) for item, output in results(ledger, stages[name])]
        share = sum(verdicts) / len(verdicts) if verdicts else None
        shares[label] = {"wrong": sum(verdicts), "of": len(verdicts), "share": share}
    return shares


def _is_wrong(item: WorkItem, output: dict[str, Any]) -> bool:
    return not score(parse(output.get("response") or "").conclusion or "", item.row.reference or "")
