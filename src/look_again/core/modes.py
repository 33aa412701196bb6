"""Names of what re-attention can do, and a mode written as one word.

No import of torch, so that command lines are built quickly.
"""

from __future__ import annotations

import re

MODES = ("text", "copy", "route", "vision")
COMPARISON_MODES = ("image-twice", "user-turn", "user-turn-image")
"""What others do instead of re-inserting: show the image twice up front, or ask in a new turn to look again."""
RANKINGS = ("relevance", "diversity", "relevance-diversity")
CONTROLS = ("wrong-image", "random-rows", "blank-image", "random-place")
RULES = ("paper", "relative")
POSITION_LAYOUTS = ("grid", "strip")
REUSES = ("rotated",)

_MODE = re.compile(rf"({'|'.join((*MODES, *COMPARISON_MODES))})|route-(\d{{1,3}})")


def parse_mode(text: str) -> tuple[str, int | None]:
    """Mode and percentage of "copy", "route-25", "user-turn" and so on; None where no percentage is given.

    ValueError, naming what there is, for anything else.
    """
    found = _MODE.fullmatch(text)
    keep = int(found[2]) if found and found[2] else None
    if found is None or (keep is not None and keep > 100):
        raise ValueError(
            f"unknown re-attention {text!r}; known: {', '.join(MODES)}, and route-0 to route-100; "
            f"for comparisons {', '.join(COMPARISON_MODES)}"
        )
    return found[1] or "route", keep
