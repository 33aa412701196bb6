"""A checkpoint's config.json: what is wrong with it is told before the library is asked, whose errors lose the reason.

For a type that it does not know, the library speaks of its own version, or of code that the checkpoint brings.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from look_again.core.families import find_type
from look_again.weights.checkpoint_record import find_file
from look_again.weights.options import LoadError, parse_object

CONFIG = "config.json"


def read_config(source: str | Path) -> Any:
    """The configuration of a checkpoint (folder or hub name).

    LoadError for a folder without one and for a file that is none, UnknownFamilyError for a type that the library does
    not know; what it raises besides is left as it is.
    """
    path = _find(str(source))
    if path is not None:
        model_type = _read_type(path)
        if model_type not in CONFIG_MAPPING:
            find_type(model_type)
    return AutoConfig.from_pretrained(source, trust_remote_code=False)


def _find(source: str) -> Path | None:
    folder = Path(source)
    if not folder.is_dir():
        return find_file(source, CONFIG)
    if (folder / CONFIG).is_file():
        return folder / CONFIG
    why = f"it has no {CONFIG}" if any(folder.iterdir()) else "it is empty"
    raise LoadError(f"the folder {source} holds no checkpoint: {why}")


def _read_type(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise LoadError(f"{path} cannot be read: {error}; fetch or save the checkpoint again") from error
    model_type = parse_object(text, str(path)).get("model_type")
    if not isinstance(model_type, str):
        raise LoadError(f"{path} does not say what kind of model it is: its model_type is {model_type!r}")
    return model_type
