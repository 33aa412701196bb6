"""Means over answers against a position, with 95% intervals, in a form that JSON holds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from look_again.scoring.statistics import Z_95

MAX_POINTS = 60


@dataclass(frozen=True)
class Curve:
    """x: centres. mean, low, high: per x, None where nothing (or, for the interval, one answer) was there. n: answers.

    The interval is that of a mean over answers, mean +- 1.96 standard errors.
    """

    x: list[float]
    mean: list[float | None]
    low: list[float | None]
    high: list[float | None]
    n: list[int]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def bin_width(lengths: Sequence[int]) -> int:
    """Tokens per point, so that the longest answer gives at most MAX_POINTS; 1 for a single answer."""
    return 1 if len(lengths) < 2 else max(1, math.ceil(max(lengths) / MAX_POINTS))


def binned(tracks: Sequence[np.ndarray], width: int) -> Curve:
    """Curve over token numbers 1, 2, … of per-token values, (tokens,) per answer, `width` tokens a point.

    Every answer counts once in a point, with the mean of its tokens there; NaN is left out.
    """
    bins = math.ceil(max(map(len, tracks), default=0) / width)
    table = np.full((len(tracks), bins), np.nan)
    for row, track in enumerate(tracks):
        for index in range(math.ceil(len(track) / width)):
            table[row, index] = _mean(track[index * width : (index + 1) * width])
    return build_curve([index * width + (width + 1) / 2 for index in range(bins)], table)


def aligned(tracks: Sequence[tuple[np.ndarray, int]], before: int, after: int) -> Curve:
    """Curve over offsets -before .. after from a token of each answer, given as (values, index of that token)."""
    offsets = range(-before, after + 1)
    table = np.full((len(tracks), len(offsets)), np.nan)
    for row, (track, centre) in enumerate(tracks):
        for column, offset in enumerate(offsets):
            if 0 <= centre + offset < len(track):
                table[row, column] = track[centre + offset]
    return build_curve(list(map(float, offsets)), table)


def build_curve(x: list[float], table: np.ndarray) -> Curve:
    """Mean and interval of each column of (answers, x)."""
    mean, low, high, counts = [], [], [], []
    for column in table.T:
        values = column[~np.isnan(column)]
        middle = float(values.mean()) if len(values) else None
        spread = Z_95 * float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else None
        mean.append(middle)
        low.append(None if middle is None or spread is None else middle - spread)
        high.append(None if middle is None or spread is None else middle + spread)
        counts.append(len(values))
    return Curve(x, mean, low, high, counts)


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
