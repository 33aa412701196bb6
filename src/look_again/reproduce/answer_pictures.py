"""The pictures of the answers that a report shows, drawn or read again from where the benchmark has them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from look_again.reproduce.made import Prepared
from look_again.reproduce.run_report import pick, read_results


def load_pictures(place: str | None, stages: Mapping[str, Prepared], ids: Collection[str]) -> dict[str, list[str]]:
    """Data URLs of small copies, by the answer's id; nothing where the benchmark is not at hand any more."""
    found = read_results(place, stages) if place else []
    if not found or not ids:
        return {}
    from look_again.evaluation.benchmark import DataLocation
    from look_again.evaluation.known_benchmarks import BENCHMARKS, benchmark
    from look_again.evaluation.thumbnails import load_thumbnails

    asked = pick(found[0], "config.place")
    if asked is None or found[0].get("benchmark") not in BENCHMARKS:
        return {}
    try:
        images = None if asked["images"] is None else Path(asked["images"])
        location = DataLocation(path=asked["path"], split=asked["split"], images=images, limit=asked["limit"])
        return load_thumbnails(benchmark(found[0]["benchmark"]), location, ids)
    except (OSError, ValueError, ImportError, KeyError, TypeError):
        return {}
