"""Agreement between judges: the share of equal verdicts, and kappa, which is corrected for chance.

Cohen's kappa for two judges (Cohen 1960), Fleiss' for all of them (Fleiss 1971). A verdict is whether a judge objects.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

Verdicts = Mapping[str, bool]
"""The verdicts on one item: which judges object."""


def cohen_kappa(pairs: Sequence[tuple[bool, bool]]) -> float | None:
    """(p_o - p_e) / (1 - p_e): p_o the share of equal verdicts, p_e that of two judges who object as often by chance.

    None without pairs, and where both always say the same one thing (p_e = 1).
    Example: 20 yes-yes, 15 no-no, 5 yes-no, 10 no-yes: p_o = 0.7, p_e = 0.5, kappa = 0.4.
    """
    if not pairs:
        return None
    n = len(pairs)
    observed = sum(a == b for a, b in pairs) / n
    first, second = sum(a for a, _ in pairs) / n, sum(b for _, b in pairs) / n
    expected = first * second + (1 - first) * (1 - second)
    return None if expected == 1 else (observed - expected) / (1 - expected)


def fleiss_kappa(rows: Sequence[Sequence[bool]]) -> float | None:
    """Fleiss' kappa over rows with the same number of verdicts, at least two; None where it is undefined.

    With n verdicts of which k object in a row, its agreement is (k(k-1) + (n-k)(n-k-1)) / (n(n-1)); P_e is the sum of
    the squares of the two shares over all verdicts. ValueError for rows of different lengths.
    """
    if not rows or len(rows[0]) < 2:
        return None
    n = len(rows[0])
    if any(len(row) != n for row in rows):
        raise ValueError("Fleiss' kappa needs the same number of verdicts in every row")
    counts = [sum(row) for row in rows]
    observed = sum(k * (k - 1) + (n - k) * (n - k - 1) for k in counts) / (len(rows) * n * (n - 1))
    share = sum(counts) / (len(rows) * n)
    expected = share**2 + (1 - share) ** 2
    return None if expected == 1 else (observed - expected) / (1 - expected)


def agreement(rows: Iterable[Verdicts]) -> dict[str, Any]:
    """Per judge how often it objects, per pair the share of equal verdicts and Cohen's kappa, over all Fleiss' kappa.

    `complete`: rows with a verdict of every judge, which Fleiss' kappa is over.
    """
    seen = list(rows)
    judges = sorted({judge for row in seen for judge in row})
    pairs = []
    for first, second in combinations(judges, 2):
        both = [(row[first], row[second]) for row in seen if first in row and second in row]
        equal = sum(a == b for a, b in both) / len(both) if both else None
        pairs.append({"judges": [first, second], "rows": len(both), "equal": equal, "kappa": cohen_kappa(both)})
    complete = [[row[judge] for judge in judges] for row in seen if len(row) == len(judges)]
    objects = {judge: _share([row[judge] for row in seen if judge in row]) for judge in judges}
    return {"objects": objects, "pairs": pairs, "complete": len(complete), "fleiss_kappa": fleiss_kappa(complete)}


def _share(values: Sequence[bool]) -> float | None:
    return sum(values) / len(values) if values else None
