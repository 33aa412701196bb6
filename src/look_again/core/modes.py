"""Names of what re-attention can do, and a mode written as one word.

No import of torch, so that command lines are built quickly.
"""

from __future__ import annotations

import re

MODES = ("text", "copy", "route", "vision")
CONTROLS = ("wrong-image", "random-rows", "blank-image", "random-place")
RULES = ("paper", "relative")
POSITION_LAYOUTS = ("grid", "strip")

_MODE = re.compile(rf"({'|'.join(MODES)})|route-(\d{{1,3}})")


def parse_mode(text: str) -> tuple[str, int | None]:
    """Mode and percentage of "copy", "text", "vision", "route" or "route-25"; None where no percentage is given.

    ValueError, naming what there is, for anything else.
    """
    found = _MODE.fullmatch(text)
    keep = int(found[2]) if found and found[2] else None
    if found is None or (keep is not None and keep > 100):
        raise ValueError(f"unknown re-attention {text!r}; known: {', '.join(MODES)}, and route-0 to route-100")
    return found[1] or "route", keep
