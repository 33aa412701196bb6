"""The log of a run: one JSON line per step, each step once also after a kill."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from look_again.files import write_whole


def append_line(path: Path, entry: dict[str, Any]) -> None:
    """Add one line."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")


def keep_lines(path: Path, step: int) -> None:
    """Drop log lines after `step`, which will be made again, and one that was cut off."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            kept += [line] if json.loads(line)["step"] <= step else []
        except (ValueError, KeyError, TypeError):
            continue
    write_whole(path, "".join(f"{line}\n" for line in kept))
