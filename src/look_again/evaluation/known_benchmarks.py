"""Names of benchmarks. A literal table: a benchmark's module is imported when it is asked for."""

from __future__ import annotations

from look_again.evaluation.benchmark import Benchmark
from look_again.registry import lookup

BENCHMARKS = {
    "tabletop": "look_again.tabletop.tabletop_benchmark:TABLETOP",
    "tabletop-planted": "look_again.tabletop.tabletop_benchmark:TABLETOP_PLANTED",
    "tabletop-clips": "look_again.tabletop.clips.clip_benchmark:TABLETOP_CLIPS",
    "tabletop-phrased": "look_again.tabletop.people.phrased_benchmark:TABLETOP_PHRASED",
    "tabletop-long": "look_again.tabletop.long_world.long_benchmark:TABLETOP_LONG",
    "mmmu": "look_again.evaluation.benchmarks.mmmu:MMMU",
    "mmmu-pro": "look_again.evaluation.benchmarks.mmmu_pro:MMMU_PRO",
    "mmmu-pro-vision": "look_again.evaluation.benchmarks.mmmu_pro:MMMU_PRO_VISION",
    "mmbench": "look_again.evaluation.benchmarks.mmbench:MMBENCH",
    "mmstar": "look_again.evaluation.benchmarks.mmstar:MMSTAR",
    "mathvision": "look_again.evaluation.benchmarks.mathvision:MATHVISION",
    "chair": "look_again.evaluation.benchmarks.chair:CHAIR",
    "pope": "look_again.evaluation.benchmarks.pope:POPE",
    "mme": "look_again.evaluation.benchmarks.mme:MME",
    "mmhal": "look_again.evaluation.benchmarks.mmhal:MMHAL",
}


def benchmark(name: str) -> Benchmark:
    """The benchmark of that name. ValueError, listing the known ones, for any other."""
    found = lookup(BENCHMARKS, name, what="benchmark")
    assert isinstance(found, Benchmark)
    return found
