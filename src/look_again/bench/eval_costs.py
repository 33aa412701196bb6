"""`look-again bench eval`: what scoring costs, and what `look-again analyze` costs beside the answers that it reads.

Scorers are timed on one core, on replies that all differ; a judge's time is not counted. Analyses are timed as they
time themselves: answers first, then the pass over them. The paper reports no cost; the targets are our own.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from functools import partial
from typing import Any

import torch

from look_again.analysis.analyses import dilution, heatmap
from look_again.bench.decode_costs import describe_machine
from look_again.bench.eval_items import made
from look_again.bench.measure import describe_spread, timed
from look_again.bench.settings import EvalSettings
from look_again.core.reattention import Reattention
from look_again.evaluation.known_benchmarks import BENCHMARKS, benchmark
from look_again.model import LookAgain, Sampling, load
from look_again.tabletop.analysis_questions import TABLETOP

TARGETS = {"chair_captions_per_second": 2000.0, "analysis_over_generation": 1.3}
RATING = "Rating: 4"  # what the judge of MMHal says at once
BATCH = 4  # as of the command


def run(args: argparse.Namespace) -> dict[str, Any]:
    return measure(EvalSettings(**{field.name: getattr(args, field.name) for field in fields(EvalSettings)}))


def measure(settings: EvalSettings) -> dict[str, Any]:
    """All figures: medians, and under "spread" their samples. analysis_over_generation is that of the dearer one."""
    per_caption = scoring_seconds("chair", settings.captions, settings)
    per_item = {name: scoring_seconds(name, settings.items, settings) for name in BENCHMARKS}
    analyses = analysis_ratios(load(device="cpu"), settings)
    ratios = {name: statistics.median(samples) for name, samples in analyses.items()}
    return {
        "benchmark": "eval",
        "chair_captions_per_second": 1 / statistics.median(per_caption),
        "analysis_over_generation": max(ratios.values()),
        "analyses_over_generation": ratios,
        "scoring_seconds_per_item": {name: statistics.median(samples) for name, samples in per_item.items()},
        "spread": {
            "chair_seconds_per_caption": describe_spread(per_caption),
            **{f"{name}_over_generation": describe_spread(samples) for name, samples in analyses.items()},
            **{f"{name}_seconds_per_item": describe_spread(samples) for name, samples in per_item.items()},
        },
        "targets": TARGETS,
        "settings": asdict(settings) | describe_machine(torch.device("cpu")),
    }


def scoring_seconds(name: str, n: int, settings: EvalSettings) -> list[float]:
    """Seconds per item of a benchmark's `score`, once per repeat, after one call that is not counted."""
    found, (items, replies) = benchmark(name), made(name, n)
    call = partial(found.score, items, replies, lambda prompt: RATING)
    clock = time.process_time if settings.clock == "cpu" else time.perf_counter
    call()
    return [timed(call, torch.device("cpu"), clock) / len(items) for _ in range(settings.repeats)]


def analysis_ratios(model: LookAgain, settings: EvalSettings) -> dict[str, list[float]]:
    """Per analysis, (answers + reading) / answers of each repeat, after one that is not counted."""
    questions = TABLETOP.draw("test", 0, settings.answers)
    policy, sampling = Reattention(), Sampling(max_new_tokens=settings.tokens)

    def heatmaps() -> Mapping[str, float]:
        seconds = [heatmap(model, question, policy, sampling)["seconds"] for question in questions]
        return {part: sum(one[part] for one in seconds) for part in ("generation", "reading")}

    def dilutions() -> Mapping[str, float]:
        found: Mapping[str, float] = dilution(model, questions, policy, sampling, BATCH, TABLETOP)["seconds"]
        return found

    calls: dict[str, Callable[[], Mapping[str, float]]] = {"dilution": dilutions, "heatmap": heatmaps}
    ratios = {}
    for name, call in calls.items():
        seconds = [call() for _ in range(1 + settings.repeats)][1:]
        ratios[name] = [(one["generation"] + one["reading"]) / one["generation"] for one in seconds]
    return ratios


def table(result: Mapping[str, Any]) -> str:
    """The result for a terminal."""
    lines = [f"{'':34}{'measured':>12}{'target':>10}"]
    lines += [f"{name:34}{result[name]:>12.4g}{target:>10g}" for name, target in result["targets"].items()]
    lines += [
        f"{f'{name} over generation':34}{value:>12.3f}" for name, value in result["analyses_over_generation"].items()
    ]
    lines += ["", f"{'scoring, per item':34}{'microseconds':>12}"]
    lines += [f"{name:34}{1e6 * value:>12.1f}" for name, value in result["scoring_seconds_per_item"].items()]
    return "\n".join(lines)
