"""Names of benchmarks. A literal table: a benchmark's module is imported when it is asked for."""

from __future__ import annotations

import importlib

from lookagain.evaluation.benchmark import Benchmark

BENCHMARKS = {
    "tabletop": ("lookagain.tabletop.benchmark", "TABLETOP"),
    "tabletop-planted": ("lookagain.tabletop.benchmark", "TABLETOP_PLANTED"),
    "mmmu": ("lookagain.evaluation.mmmu", "MMMU"),
    "mmmu-pro": ("lookagain.evaluation.mmmu_pro", "MMMU_PRO"),
    "mmmu-pro-vision": ("lookagain.evaluation.mmmu_pro", "MMMU_PRO_VISION"),
    "mmbench": ("lookagain.evaluation.mmbench", "MMBENCH"),
    "mmstar": ("lookagain.evaluation.mmstar", "MMSTAR"),
    "mathvision": ("lookagain.evaluation.mathvision", "MATHVISION"),
    "chair": ("lookagain.evaluation.chair", "CHAIR"),
    "pope": ("lookagain.evaluation.pope", "POPE"),
    "mme": ("lookagain.evaluation.mme", "MME"),
    "mmhal": ("lookagain.evaluation.mmhal", "MMHAL"),
}


def benchmark(name: str) -> Benchmark:
    """The benchmark of that name. ValueError, listing the known ones, for any other."""
    if name not in BENCHMARKS:
        raise ValueError(f"unknown benchmark {name!r}; known: {', '.join(BENCHMARKS)}")
    module, constant = BENCHMARKS[name]
    found = getattr(importlib.import_module(module), constant)
    assert isinstance(found, Benchmark)
    return found
