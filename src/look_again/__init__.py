"""LookAgain: vision-language models that look at the image again while they reason.

`load(...)` gives a model with `.ask` and `.stream`; `LookAgainDecoding` is the callable for transformers' `generate`.
Names are imported when they are first used, so that `import look_again` is quick.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"
_EXPORTS = {
    "load": "look_again.model",
    "LookAgain": "look_again.model",
    "Request": "look_again.model",
    "Sampling": "look_again.model",
    "Answer": "look_again.answers",
    "Reattention": "look_again.core.reattention",
    "LookAgainDecoding": "look_again.core.generate",
    "Trigger": "look_again.core.trigger",
    "parse": "look_again.text.grammar",
    "score": "look_again.scoring.extraction",
    "prepare": "look_again.text.tags",
    "LoadOptions": "look_again.weights.options",
    "load_video": "look_again.images.video_file",
    "Video": "look_again.images.video",
}
__all__ = sorted(_EXPORTS)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'look_again' has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)
