"""Where a checkpoint is looked for: folders, results of runs, the cache of downloads, and a hub that may not answer."""

from __future__ import annotations

import re
from functools import cache
from importlib import resources
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request as UrlRequest
from urllib.request import urlopen

from huggingface_hub import snapshot_download
from huggingface_hub.constants import ENDPOINT, HF_HUB_OFFLINE

from look_again.weights.options import LoadError

REACH_TIMEOUT_S = 5.0  # for the hub to answer at all
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def default_checkpoint() -> Path:
    """Folder of the shipped tiny model."""
    return Path(str(resources.files("look_again") / "assets" / "tiny"))


def resolve_source(name: str | Path | None) -> str:
    """Where a checkpoint is loaded from: its folder, the result in a run's folder, or a hub name; None is the shipped.

    A hub name is its folder in the cache where the hub cannot be reached. LoadError, at once, for a folder that is not
    there, and for a hub name that is neither in the cache nor can be fetched.
    """
    if name is None:
        return str(default_checkpoint())
    source = resolve_run(str(name))
    _refuse_gguf(source)
    if source and Path(source).is_dir():
        return source
    if not _HUB_NAME.fullmatch(source):
        raise LoadError(f"cannot load the model {source!r}: there is no such folder here, and it is no hub name")
    reason = None if HF_HUB_OFFLINE else unreachable()
    if not HF_HUB_OFFLINE and reason is None:
        return source
    try:
        return snapshot_download(source, local_files_only=True)
    except (OSError, ValueError) as error:
        why = "HF_HUB_OFFLINE is set" if HF_HUB_OFFLINE else f"{ENDPOINT} cannot be reached ({reason})"
        raise LoadError(
            f"cannot load the model {source!r}: there is no such folder here, it is not in the cache of downloads, "
            f"and {why}"
        ) from error


@cache
def unreachable() -> str | None:
    """Why the hub cannot be reached, by one short try; None where it answers. Asked once per process."""
    try:
        with urlopen(UrlRequest(ENDPOINT, method="HEAD"), timeout=REACH_TIMEOUT_S):
            return None
    except HTTPError:
        return None  # an answer, whatever it says
    except (OSError, ValueError) as error:
        return str(getattr(error, "reason", error))


def resolve_run(source: str) -> str:
    """Returns the checkpoint inside the folder of a finished run; anything else is its own name."""
    final = Path(source) / "final"
    return str(final) if (final / "config.json").is_file() and not (Path(source) / "config.json").exists() else source


def _refuse_gguf(source: str) -> None:
    """LoadError for a file or a name of GGUF's, and for a folder whose weights are GGUF alone."""
    folder = Path(source)
    held = folder.is_dir() and any(folder.glob("*.gguf")) and not any(folder.glob("*.safetensors"))
    if held or source.lower().endswith((".gguf", "-gguf")):
        raise LoadError(
            f"{source!r} is GGUF, which is not loaded here: take the checkpoint in safetensors that it was made of, "
            "with --quantization int8 or bnb-4bit where it is too large"
        )
