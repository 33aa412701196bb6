"""Names of what re-attention can do. No import of torch, so that command lines are built quickly."""

from __future__ import annotations

MODES = ("text", "copy", "route", "vision")
CONTROLS = ("wrong-image", "random-rows", "blank-image", "random-place")
RULES = ("paper", "relative")
POSITION_LAYOUTS = ("grid", "strip")
