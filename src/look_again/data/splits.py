"""Which splits may be trained on, and which a benchmark evaluates on: a model must not learn what it is asked later.

The paper trains on MATH, MathVision, PolyMATH, SceMQA and Geometry3K and evaluates on MathVision; it does not say which
rows of MathVision it trained on, and MathVision has no training split. Here the splits that benchmarks evaluate on are
refused unless `on_benchmark` is "allow", and where a set has nothing else, a split `train` is made of what is left:

- mathvision: `train` is `test` (3,040 rows) without `testmini` (304 of them). A model trained on it is evaluated on
  `testmini` alone; its score on the whole of `test`, which the paper's table seems to give, would be contaminated.
- polymath: `train` is `test` (5,000) without `testmini` and `testmini_img` (1,000 each, which may overlap).
- scemqa: the set has one part, 1,045 questions, and all of it is `train`: nothing is left to evaluate on afterwards.
- math, geometry3k: their own `train` (7,500 and 2,101; geometry3k's `validation` too); `test` is the benchmark.
"""

from __future__ import annotations

ON_BENCHMARK = ("refuse", "allow")

TRAINED = {
    "math": ("train",),
    "mathvision": ("train",),
    "polymath": ("train",),
    "scemqa": ("train",),
    "geometry3k": ("train", "validation"),
}
"""By loader; loaders that are not listed take any split."""

EVALUATED = {
    "math": ("test",),
    "mathvision": ("testmini", "test"),
    "polymath": ("testmini", "testmini_img", "test"),
    "geometry3k": ("test",),
}


def check_split(loader: str, split: str, on_benchmark: str) -> None:
    """ValueError for a split that the loader's set does not have, and for a benchmark's unless that is allowed."""
    if on_benchmark not in ON_BENCHMARK:
        raise ValueError(f"on_benchmark is {on_benchmark!r}: use one of {', '.join(ON_BENCHMARK)}")
    if loader not in TRAINED:
        return
    known = (*TRAINED[loader], *EVALUATED.get(loader, ()))
    if split not in known:
        raise ValueError(f"split is {split!r}: for {loader} use one of {', '.join(known)}")
    if split not in TRAINED[loader] and on_benchmark == "refuse":
        raise ValueError(
            f"split {split!r} of {loader} is what benchmarks evaluate on: use {' or '.join(TRAINED[loader])}, "
            'or set on_benchmark="allow" to read it for an evaluation'
        )
