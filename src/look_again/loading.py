"""Loading a checkpoint by hub name or folder: model, tokenizer, image processor, and what has to be said about it.

Safetensors only, no remote code, and the image processor that needs no torchvision whether or not it is installed, so
that answers do not depend on it. The default is the tiny Tabletop model that ships with the package.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request as UrlRequest
from urllib.request import urlopen

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.constants import ENDPOINT, HF_HUB_OFFLINE
from transformers import AutoConfig, AutoModelForImageTextToText, AutoTokenizer
from transformers.utils import cached_file
from transformers.utils import logging as transformers_logging

from look_again.core.checkpoint_record import CheckpointRecord, read_record
from look_again.core.families import Family, find_family
from look_again.core.reattention import Reattention
from look_again.processing import bound_pixels, load_pil_processor
from look_again.text.renderer import Renderer
from look_again.text.tags import has_tags, prepare

REACH_TIMEOUT_S = 5.0  # for the hub to answer at all
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
GUESSED = (
    "nothing says whether this checkpoint was trained on the response format, so it is prompted for it; if it was "
    "trained, say --trained (trained=True) or write look_again.json into its folder"
)


class LoadError(ValueError):
    """A checkpoint that cannot be loaded; the message says why and what to do."""


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint.

    trained: it writes the format unprompted. notes: what a user should be told. reattention: how it re-attended in
    training, which is followed where nobody asks for anything else.
    """

    name: str
    model: Any
    tokenizer: Any
    image_processor: Any
    family: Family
    trained: bool
    notes: tuple[str, ...] = ()
    reattention: Reattention = field(default_factory=Reattention)

    def __repr__(self) -> str:
        kind = "trained" if self.trained else "prompted"
        return f"Checkpoint({self.name!r}, {kind}, re-attention {self.reattention})"

    @property
    def renderer(self) -> Renderer:
        video = None if self.family.video is None else self.family.video.placeholder
        return Renderer(self.tokenizer, self.family.image_text, self.trained, self.family.placeholder, video)


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


def load_checkpoint(
    name: str | Path | None = None,
    *,
    device: str = "auto",
    dtype: str = "auto",
    attn_implementation: str | None = None,
    max_pixels: int | None = None,
    trained: bool | None = None,
) -> Checkpoint:
    """Load a checkpoint, or the result of a run by the run's folder; None loads the shipped one.

    device: "auto" (CUDA where there is one), "cpu", "cuda", …. dtype: "auto" is bfloat16 on CUDA, else float32;
    "checkpoint" is what the weights are stored in. max_pixels: larger images are scaled down to it; None leaves it to
    the checkpoint's record and processor (the paper trains with 262,144). trained: whether the checkpoint writes the
    response format unprompted; None leaves that to its record.
    Raises LoadError, or UnknownFamilyError for a family that is not in the table. Without tags it gets them in
    memory, and `notes` says so.
    """
    place, source = _device(device), resolve_source(name)
    config = _try(source, lambda: AutoConfig.from_pretrained(source, trust_remote_code=False))
    family = find_family(config)
    kwargs: dict[str, Any] = {"attn_implementation": attn_implementation} if attn_implementation else {}
    tokenizer = _try(source, lambda: load_tokenizer(source))
    record = _try(source, lambda: read_record(source))
    image_processor = load_image_processor(source, record, max_pixels)
    with _progress_bars(shown=name is not None):
        model = _try(
            source,
            lambda: AutoModelForImageTextToText.from_pretrained(
                source, dtype=_dtype(dtype, place), use_safetensors=True, trust_remote_code=False, **kwargs
            ),
        )
    model = _try(source, lambda: model.to(place).eval())
    shown = "tabletop-tiny" if name is None else str(name)
    return Checkpoint(
        shown,
        model,
        tokenizer,
        image_processor,
        family,
        trained=bool(record.trained) if trained is None else trained,
        notes=(*(_give_tags(model, tokenizer) or guess_note(record, trained)), *record.notes),
        reattention=record.reattention or Reattention(),
    )


def load_image_processor(source: str, record: CheckpointRecord, max_pixels: int | None) -> Any:
    """The image processor, bounded by `max_pixels` or else by what the record says of training.

    LoadError where there is none, ValueError for a bound below one visual token.
    """
    bound = record.max_pixels if max_pixels is None else max_pixels
    return bound_pixels(_try(source, lambda: load_pil_processor(source)), bound)


def guess_note(record: CheckpointRecord, trained: bool | None) -> tuple[str, ...]:
    """The note of a checkpoint of which nothing and nobody says whether it was trained on the format."""
    return (GUESSED,) if record.trained is None and trained is None else ()


def recorded_reattention(name: str | Path | None) -> Reattention:
    """How a checkpoint (hub name or folder; None is the shipped one) re-attended in training, without loading it.

    The defaults where nothing says. Raises LoadError for a damaged record.
    """
    source = resolve_source(name)
    return _try(source, lambda: read_record(source)).reattention or Reattention()


@contextmanager
def _progress_bars(shown: bool) -> Iterator[None]:
    """The library's progress bars as they are, or none: the shipped model is loaded before a bar could be read."""
    if shown or not transformers_logging.is_progress_bar_enabled():
        yield
        return
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.enable_progress_bar()


def _give_tags(model: Any, tokenizer: Any) -> tuple[str, ...]:
    if has_tags(tokenizer):
        return ()
    report = prepare(model, tokenizer)
    return (f"this checkpoint has no tags: {len(report.added)} were added in memory, untrained",)


def load_tokenizer(source: str) -> Any:
    """The tokenizer, with the processor's chat template where the checkpoint has one of its own.

    Checkpoints on the hub may keep the template that shows images in `chat_template.json`, which only processors read,
    beside a text-only one in the tokenizer's configuration.
    """
    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    path = _side_file(source, "chat_template.json")
    if path is not None:
        tokenizer.chat_template = json.loads(Path(path).read_text(encoding="utf-8"))["chat_template"]
    return tokenizer


def _side_file(source: str, name: str) -> str | None:
    return cached_file(
        source, name, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False
    )


def _try(source: str, load: Any) -> Any:
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        return load()
    except Exception as error:  # libraries raise anything here: the reason is what a user needs, whatever its class
        lines = str(error).strip().splitlines() or [""]
        reason = f"{type(error).__name__}: {lines[0]}"
        where = "folder" if Path(source).is_dir() else "hub name (no such folder here)"
        raise LoadError(f"cannot load the model {source!r}, taken as a {where}: {reason}") from error
    finally:
        transformers_logging.set_verbosity(verbosity)


def _device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise LoadError(f"unknown device {device!r}; use auto, cpu or cuda") from error
    if place.type == "cuda" and not torch.cuda.is_available():
        raise LoadError("no CUDA device is available; use --device cpu")
    return place


def _dtype(dtype: str, device: torch.device) -> torch.dtype | str:
    if dtype == "checkpoint":
        return "auto"
    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if dtype not in known:
        raise LoadError(f"unknown dtype {dtype!r}; known: auto, checkpoint, {', '.join(known)}")
    return known[dtype]
