"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import threading
from pathlib import Path


def write_whole(path: Path, text: str) -> Path:
    """Write a file whole or not at all: a reader, and the next start after a kill, never see a part of it."""
    beside = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.part")  # others may write it too
    try:
        beside.write_text(text, encoding="utf-8")
        return beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
