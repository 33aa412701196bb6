"""A run of the data engine, read from YAML and checked before anything is sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from look_again.clients.openai import Endpoint, open_transport
from look_again.data.source import Source
from look_again.pipeline.budget import BudgetLimits
from look_again.pipeline.build import BuildConfig
from look_again.pipeline.endpoint_pool import EndpointState
from look_again.pipeline.engine import PipelineStage
from look_again.pipeline.ledger.ledger import Ledger
from look_again.pipeline.review import decisions
from look_again.pipeline.stages import cold_start, distil, rewrite, verify
from look_again.pipeline.stages.distil import Distillation
from look_again.pipeline.stages.prompt_files import load_prompt
from look_again.yaml_config import build, read_yaml

B = TypeVar("B", Endpoint, Distillation)
FLOWS = {
    "cold-start": (cold_start.NAME, decisions.NAME),
    "distilled": (distil.NAME, verify.NAME, rewrite.NAME, decisions.NAME),
}
ON_OVERLAP = ("refuse", "drop", "keep")
CONFIG_FILE = "run.yaml"  # in a run's folder, where nobody names another file


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A run. flow: "cold-start" (a teacher, then people) or "distilled" (a model, a panel, a writer, people).

    teacher, writer: names of endpoints. panel: the judges. review: which rows people see: "all", "rewritten" or "none".
    reviewers: who shares them. prompts: files instead of the shipped ones, by stage. asks: for a usable reply.
    workers: rows in work at once; None is twice the widest endpoint's concurrency. evaluation: sets that no row may be
    shared with; on_overlap: "refuse" to build then, "drop" such rows, or "keep" them. max_pixels: what a model, a judge
    and a writer see of an image at most, where their own entry says nothing else; the student should be trained with
    the same.
    """

    flow: str
    sources: tuple[Source, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()
    budget: BudgetLimits = field(default_factory=BudgetLimits)
    teacher: str | None = None
    distil: Distillation | None = None
    panel: verify.JudgePanel | None = None
    writer: str | None = None
    review: str = "all"
    reviewers: tuple[str, ...] = ("reviewer",)
    prompts: Mapping[str, str] = field(default_factory=dict)
    asks: int = 3
    workers: int | None = None
    evaluation: tuple[Source, ...] = ()
    on_overlap: str = "refuse"
    max_pixels: int | None = None
    build: BuildConfig = field(default_factory=BuildConfig)

    def __post_init__(self) -> None:
        if self.flow not in FLOWS:
            raise ValueError(f"flow is {self.flow!r}: use one of {', '.join(FLOWS)}")
        if self.on_overlap not in ON_OVERLAP:
            raise ValueError(f"on_overlap is {self.on_overlap!r}: use one of {', '.join(ON_OVERLAP)}")
        needed = ("teacher",) if self.flow == "cold-start" else ("distil", "panel", "writer")
        if missing := [name for name in needed if getattr(self, name) is None]:
            raise ValueError(f"the flow {self.flow} needs {', '.join(missing)}")
        known = [endpoint.name for endpoint in self.endpoints]
        if len(set(known)) != len(known):
            raise ValueError(f"endpoints are {known}: give each a name of its own")
        if unknown := [name for name in self.asked if name not in known]:
            raise ValueError(f"there are no endpoints {unknown}; known: {', '.join(known) or 'none'}")
        if self.max_pixels is not None:
            object.__setattr__(self, "endpoints", tuple(_bounded(end, self.max_pixels) for end in self.endpoints))
            object.__setattr__(self, "distil", self.distil and _bounded(self.distil, self.max_pixels))

    @property
    def asked(self) -> tuple[str, ...]:
        """The endpoints that the flow's stages name."""
        return tuple(name for stage in FLOWS[self.flow] for name in self.asked_by(stage))

    def asked_by(self, stage: str) -> tuple[str, ...]:
        """The endpoints that a stage names; () for one that asks nobody."""
        judges = self.panel.judges if self.panel else ()
        named = {
            cold_start.NAME: (self.teacher,),
            distil.NAME: (self.distil.model if self.distil else None,),
            verify.NAME: judges,
            rewrite.NAME: (self.writer,),
        }
        return tuple(name for name in named.get(stage, ()) if name is not None)

    @property
    def width(self) -> int:
        """Rows in work at once."""
        return self.workers or 2 * max((endpoint.concurrency for endpoint in self.endpoints), default=1)

    def stages(self, ledger: Ledger) -> list[PipelineStage]:
        """The flow's stages, in order; nothing is loaded or sent yet."""
        names = FLOWS[self.flow]
        later = {name: names[i + 1 :] for i, name in enumerate(names)}
        people = decisions.stage(ledger, names[-2], which=self.review, later=later[decisions.NAME])
        if self.flow == "cold-start":
            prompt = load_prompt("cold_start", self.prompts.get("cold_start"))
            teach = cold_start.stage(str(self.teacher), prompt, asks=self.asks, later=later[cold_start.NAME])
            return [teach, people]
        assert self.panel is not None
        check, mend = (load_prompt(name, self.prompts.get(name)) for name in ("verify", "rewrite"))
        return [
            self._distil_stage(later[distil.NAME]),
            verify.stage(self.panel, check, distil.NAME, later=later[verify.NAME]),
            rewrite.stage(str(self.writer), mend, verify.NAME, asks=self.asks, later=later[rewrite.NAME]),
            people,
        ]

    def _distil_stage(self, later: tuple[str, ...]) -> PipelineStage:
        given = self.distil
        assert given is not None
        if given.model is not None:
            prompt = load_prompt("distil", self.prompts.get("distil"))
            return distil.stage(given.model, prompt, samples=given.samples, asks=self.asks, later=later)
        return distil.local_stage(given, later=later)


def _bounded(part: B, max_pixels: int) -> B:
    """An endpoint or a distillation with this bound, unless it has its own."""
    return part if part.max_pixels is not None else replace(part, max_pixels=max_pixels)


def open_endpoints(config: RunConfig) -> list[EndpointState]:
    """The endpoints that the run asks, opened. ValueError without their keys, MissingExtraError without openai."""
    return [
        EndpointState(endpoint, open_transport(endpoint))
        for endpoint in config.endpoints
        if endpoint.name in config.asked
    ]


def load_run_config(path: str | Path) -> RunConfig:
    """Read a configuration. ConfigError for a missing file, bad YAML, unknown keys or values out of range."""
    return build(RunConfig, read_yaml(path), str(path))
