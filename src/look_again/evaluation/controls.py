"""The controls of one model as one command: what a look adds, and what of it comes from the image.

The paper ablates no insertion, vision-only and m; users of such systems report the same answers with and without images
put back, and no paper shows the wrong image. Every arm here is the same decoding loop under another `Reattention`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from look_again.core.reattention import Reattention
from look_again.evaluation.comparison import Result, compare, mean_interval, paired_scores

ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    "copy": ("COPY: all rows at every reflection", {"mode": "copy"}),
    "text": ("text-only: nothing is put back", {"mode": "text"}),
    "vision": ("vision-only: all rows, and the reflection is closed", {"mode": "vision"}),
    "route-25": ("ROUTE, m = 25", {"mode": "route", "keep": 25}),
    "route-50": ("ROUTE, m = 50", {"mode": "route", "keep": 50}),
    "route-75": ("ROUTE, m = 75", {"mode": "route", "keep": 75}),
    "route-100": ("ROUTE, m = 100", {"mode": "route", "keep": 100}),
    "wrong-image": ("COPY, another image's rows", {"mode": "copy", "control": "wrong-image"}),
    "blank-image": ("COPY, a blank image's rows", {"mode": "copy", "control": "blank-image"}),
    "random-rows": ("random m% of the rows", {"mode": "route", "control": "random-rows"}),
    "route-50-diversity": ("ROUTE, m = 50, by diversity", {"mode": "route", "keep": 50, "ranking": "diversity"}),
    "route-50-both": (
        "ROUTE, m = 50, by relevance times diversity",
        {"mode": "route", "keep": 50, "ranking": "relevance-diversity"},
    ),
    "image-twice": ("the image twice in the prompt, nothing put back", {"mode": "image-twice"}),
    "user-turn": ("a user turn in words, nothing put back", {"mode": "user-turn"}),
    "user-turn-image": ("a user turn with the image", {"mode": "user-turn-image"}),
    "random-place": ("COPY, at a random place instead", {"mode": "copy", "control": "random-place"}),
}
"""Arm -> what it is, and what it changes of the policy that the command line describes."""
BASELINES = ("copy", "text")


def policies(base: Reattention, names: Sequence[str] | None = None) -> dict[str, Reattention]:
    """The policy of each arm, in the table's order; None takes all. ValueError for unknown names and a base control."""
    if base.control is not None:
        raise ValueError(f"--controls runs every control; leave out --control {base.control}")
    if unknown := [name for name in names or () if name not in ARMS]:
        raise ValueError(f"unknown arm {unknown[0]!r}; known: {', '.join(ARMS)}")
    return {arm: replace(base, **ARMS[arm][1]) for arm in ARMS if names is None or arm in names}


def summary(
    results: Mapping[str, Mapping[str, Result]],
    *,
    not_possible: Mapping[str, Mapping[str, str]] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """The JSON of a run with controls. results: benchmark -> arm -> what its `result.json` holds.

    not_possible: benchmark -> arm -> why these items do not allow it. ValueError for a benchmark without any result.
    Per benchmark: each arm's mean of the score that is paired, with its interval, the primary metric and the lengths;
    and against COPY and text-only each arm's paired differences, whole and per subset.
    """
    reasons = not_possible or {}
    for name in (name for name, arms in results.items() if not arms):
        raise ValueError(f"no arm is possible on {name}: {'; '.join(reasons.get(name, {}).values())}")
    return {
        "benchmarks": {
            name: {
                "primary": next(iter(arms.values()))["primary"],
                "score": next(iter(arms.values()))["paired"],
                "arms": {arm: _arm(arm, result, seed) for arm, result in arms.items()},
                "not_possible": dict(reasons.get(name, {})),
                "against": {
                    base: compare(_first(base, arms), seed=seed) for base in BASELINES if base in arms and len(arms) > 1
                },
            }
            for name, arms in results.items()
        }
    }


def _arm(arm: str, result: Result, seed: int) -> dict[str, Any]:
    values = [value for value in paired_scores(result, result["paired"]) if value is not None]
    return {
        "title": ARMS[arm][0],
        "reattention": result["config"]["subject"].get("reattention"),
        "primary": result["metrics"].get(result["primary"]),
        "n": len(values),
        "mean": sum(values) / len(values) if values else None,
        "interval": mean_interval(values, seed=seed),
        "counts": result["counts"],
        "tokens_per_answer": result["tokens_per_answer"],
        "looks_per_answer": result["looks_per_answer"],
    }


def _first(base: str, arms: Mapping[str, Result]) -> dict[str, Result]:
    return {base: arms[base], **{arm: result for arm, result in arms.items() if arm != base}}
