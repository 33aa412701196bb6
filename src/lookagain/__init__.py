"""LookAgain: vision-language models that look at the image again while they reason.

`load(...)` gives a model with `.ask` and `.stream`; `LookAgainDecoding` is the callable for transformers' `generate`.
Names are imported when they are first used, so that `import lookagain` is quick.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"
_EXPORTS = {
    "load": "lookagain.model",
    "LookAgain": "lookagain.model",
    "Request": "lookagain.model",
    "Sampling": "lookagain.model",
    "Answer": "lookagain.answers",
    "Reattention": "lookagain.reattention",
    "LookAgainDecoding": "lookagain.decoding",
    "Trigger": "lookagain.trigger",
    "parse": "lookagain.grammar",
    "score": "lookagain.scoring",
    "prepare": "lookagain.preparation",
}
__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'lookagain' has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)
