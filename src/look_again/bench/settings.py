"""What each part of `look-again bench` measures: checked on construction, reported with every result.

Imports nothing heavy, so that help is quick and complete on any installation.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass

BATCH = 8
MOST_SEED = 2**32 - 1
DTYPES = ("float32", "bfloat16", "float16")
SHAPES = {"tiny": "float32", "qwen2.5-vl-7b": "bfloat16"}  # with the dtype each is measured in by default
CLOCKS = ("wall", "cpu")
LEFT = 100  # rows that a resumed run of the data engine still has to do
RATIOS = (
    "copy_over_text",
    "route_over_text",
    "loop_over_generate_b1",
    "loop_over_generate_b8",
    "copy_loop_over_generate_b1",
    "copy_loop_over_generate_b8",
    "cache_slots_over_length_b8",
    "route_peak_memory_over_text",
    "route_peak_memory_over_random_rows",
    "chunk_over_resubmit",
    "rotated_over_chunk",
    "forced_prefill_over_steps",
    "forced_prefill_over_steps_b8",
    "compiled_over_eager_b1",
    "compiled_over_generate_b1",
    "compiled_over_eager_b8",
)
"""Ratios of `look-again bench decode`, in the order of its table."""


@dataclass(frozen=True, kw_only=True)
class DecodeSettings:
    """What is measured. ValueError for values that leave nothing to measure.

    tokens: sampled per answer. every: sampled tokens per reflection. keep: percentage of rows that ROUTE re-inserts.
    pairs: timed pairs per ratio. clock: "wall", or "cpu" for processor time, which other programs on a busy machine
    disturb less (use one thread then). layers: decoder layers instead of the shapes' own. vocabulary, image_pixels: the
    same, for the large shapes.
    """

    shapes: str = "tiny"
    device: str = "cpu"
    dtype: str | None = None
    pairs: int = 9
    tokens: int = 300
    every: int = 150
    keep: int = 50
    clock: str = "wall"
    layers: int | None = None
    vocabulary: int | None = None
    image_pixels: int | None = None

    def __post_init__(self) -> None:
        _check("shapes", self.shapes, SHAPES)
        _check("clock", self.clock, CLOCKS)
        if self.dtype is not None:
            _check("dtype", self.dtype, DTYPES)
        _check_counts(self, "pairs", "layers", "vocabulary", "image_pixels")
        _check_keep(self.keep)
        if not 2 <= self.every <= self.tokens:
            raise ValueError(f"every must be from 2 to tokens ({self.tokens}), not {self.every}")
        if self.tokens < BATCH + 2:
            raise ValueError(f"tokens must be at least {BATCH + 2}: {BATCH} rows reflect at different steps")
        if self.clock == "cpu" and self.device != "cpu":
            raise ValueError(f"processor time says nothing about {self.device}; measure there with the wall clock")
        if self.shapes == "tiny" and (self.vocabulary or self.image_pixels):
            raise ValueError("vocabulary and image_pixels belong to the large shapes; the tiny model has its own")

    @property
    def triggers(self) -> list[int]:
        """Steps at which an answer reflects: in the middle of every stretch of `every` sampled tokens."""
        return list(range(self.every // 2, self.tokens - 1, self.every))

    @property
    def spread_triggers(self) -> list[list[int]]:
        """One step per row of a batch, all different, from the answer's first steps to its last."""
        return [[(row + 1) * self.tokens // (BATCH + 1)] for row in range(BATCH)]


@dataclass(frozen=True, kw_only=True)
class SftSettings:
    """What is measured. rows: of a step. reflections: of each row. image_pixels: side of the large shapes' image.

    loss_targets: of the loss in chunks; None for 8,192 on a GPU and 4,096 on a CPU, which take 7.5 GB when whole.
    ValueError for values out of range.
    """

    shapes: str = "tiny"
    device: str = "cpu"
    dtype: str | None = None
    pairs: int = 9
    rows: int = 8
    reflections: int = 1
    keep: int = 50
    layers: int | None = None
    image_pixels: int = 448
    loss_targets: int | None = None

    def __post_init__(self) -> None:
        _check("shapes", self.shapes, SHAPES)
        _check_counts(self, "pairs", "rows", "reflections", "layers", "image_pixels", "loss_targets")
        _check_keep(self.keep)


@dataclass(frozen=True, kw_only=True)
class BrpoSettings:
    """What is measured. answers: of the reward timing. repeats: of it. steps: of a run on the shipped model."""

    answers: int = 2000
    repeats: int = 7
    mathematics: int = 60
    steps: int = 3
    questions: int = 2
    group: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.answers, self.repeats, self.mathematics, self.steps, self.questions) < 1 or self.group < 2:
            raise ValueError("counts must be at least 1, and group at least 2")
        if not 0 <= self.seed <= MOST_SEED:
            raise ValueError(f"seed is from 0 to {MOST_SEED}, not {self.seed}")


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """rows: of the timed run and the small side of the memory ratio. many: of its large side and of the resumed run.
    concurrency: requests under way at once. ValueError for numbers below 1, or not more than LEFT rows resumed."""

    rows: int = 2000
    many: int = 40_000
    concurrency: int = 64

    def __post_init__(self) -> None:
        if min(self.rows, self.concurrency) < 1 or self.many <= LEFT:
            raise ValueError(f"rows and concurrency are at least 1, many is more than {LEFT}: {asdict(self)}")


@dataclass(frozen=True, kw_only=True)
class EvalSettings:
    """What is measured. ValueError for counts below 1.

    captions: of CHAIR's timing. items: of each benchmark's. answers: of each analysis. tokens: at most, of an answer.
    repeats: of every figure, which is their median. clock: of scoring, "cpu" (processor time) or "wall".
    """

    captions: int = 2000
    items: int = 300
    answers: int = 8
    tokens: int = 512
    repeats: int = 5
    clock: str = "cpu"

    def __post_init__(self) -> None:
        if min(self.captions, self.items, self.answers, self.tokens, self.repeats) < 1:
            raise ValueError(f"counts must be at least 1: {asdict(self)}")
        if self.clock not in CLOCKS:
            raise ValueError(f"unknown clock {self.clock!r}; known: {', '.join(CLOCKS)}")


@dataclass(frozen=True, kw_only=True)
class ServeSettings:
    """What is measured. ValueError for counts below 1, or tokens that are not a multiple of `every` above it.

    conversations: at once. tokens: of an answer by vLLM; every: sampled tokens per reflection, the last of which ends
    the answer and shows nothing. answer: tokens of the
    transformers backend's answers, at most. pairs: timed pairs of each ratio.
    """

    conversations: int = 16
    tokens: int = 1200
    every: int = 300
    answer: int = 200
    pairs: int = 3

    def __post_init__(self) -> None:
        if min(self.conversations, self.tokens, self.every, self.answer, self.pairs) < 1:
            raise ValueError(f"counts are at least 1: {asdict(self)}")
        if self.tokens <= self.every or self.tokens % self.every:
            raise ValueError(f"tokens are a multiple of every and more than it, not {self.tokens} and {self.every}")


def _check_counts(settings: object, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}")


def _check_keep(keep: int) -> None:
    if not 0 <= keep <= 100:
        raise ValueError(f"keep is a whole percentage from 0 to 100, not {keep}")


def _check(name: str, value: str, known: Collection[str]) -> None:
    if value not in known:
        raise ValueError(f"unknown {name} {value!r}; known: {', '.join(known)}")
