"""What a checkpoint says of its training: the side file look_again.json, read and written here alone.

The file says whether the checkpoint writes the response format unprompted, how it re-attended in training, how large
its images were, and which version of this package wrote it. Checkpoints of before have a part of that: a side file
under its old name, and mode and percentage in generation_config.json.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.utils import cached_file

from look_again.core.reattention import Reattention

SIDE_FILE = "look_again.json"
OLD_SIDE_FILE = "lookagain.json"  # its name until version 0.1
GENERATION_FILE = "generation_config.json"
GENERATION_KEYS = ("look_again", "lookagain")  # of its entry: the present name, and the name until version 0.1
FORMAT = 1
"""Version of the response format and of this file's fields."""

_POLICY_FIELDS = ("mode", "keep", "rule", "layout", "delimiters")


@dataclass(frozen=True, kw_only=True)
class CheckpointRecord:
    """What is recorded of a checkpoint.

    trained: whether it writes the response format unprompted; None where nothing says. reattention: how it re-attended
    in training; None where nothing says. max_pixels: of its images in training; None for no bound of its own. format:
    see `FORMAT`. version: of the package that wrote the record; None for a record of before. scope: the name of the
    small world that is all it knows (`checkpoint_scope.SCOPES`); None for a model of anything.
    """

    trained: bool | None = None
    reattention: Reattention | None = None
    max_pixels: int | None = None
    format: int | None = None
    version: str | None = None
    scope: str | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should be told of the record itself."""
        if self.format is None or self.format <= FORMAT:
            return ()
        return (
            f"this checkpoint's response format is number {self.format}, written by look-again-vlm {self.version}, and "
            f"this version knows number {FORMAT}: update the package",
        )

    def as_dict(self) -> dict[str, Any]:
        """The fields of the side file."""
        policy = {} if self.reattention is None else policy_fields(self.reattention)
        return {
            "trained": self.trained,
            **policy,
            "max_pixels": self.max_pixels,
            "format": self.format,
            "version": self.version,
            **({} if self.scope is None else {"scope": self.scope}),
        }


def read_record(source: str) -> CheckpointRecord:
    """The record of a checkpoint (hub name or folder), empty where it has none. ValueError for a damaged one."""
    path = find_side_file(source)
    facts = {} if path is None else _read(path)
    generation = find_file(source, GENERATION_FILE)
    older = {} if generation is None else _entry(_read(generation))
    where = path or generation
    try:
        policy = {name: value for name, value in (older | facts).items() if name in _POLICY_FIELDS}
        return CheckpointRecord(
            trained=None if path is None else _checked(facts, "trained", bool) or False,
            reattention=Reattention(**policy) if "mode" in policy else None,
            max_pixels=_checked(facts, "max_pixels", int),
            format=_checked(facts, "format", int),
            version=_checked(facts, "version", str),
            scope=_checked(facts, "scope", str),
        )
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from error


def read_generation_entry(generation_config: Any) -> Mapping[str, Any] | None:
    """The package's entry of a loaded generation configuration, under its present or old name; None without one."""
    entries = (getattr(generation_config, name, None) for name in GENERATION_KEYS)
    return next((entry for entry in entries if entry is not None), None)


def build_policy(entry: Mapping[str, Any]) -> Reattention:
    """The re-attention that an entry or a side file describes. ValueError for values out of range."""
    return Reattention(**{name: entry[name] for name in _POLICY_FIELDS if name in entry})


def policy_fields(policy: Reattention) -> dict[str, Any]:
    """What an entry or a side file says of a policy."""
    return {name: getattr(policy, name) for name in _POLICY_FIELDS}


def find_side_file(source: str) -> Path | None:
    """Returns the side file of a checkpoint (hub name or folder), under its present or old name, or None."""
    return find_file(source, SIDE_FILE) or find_file(source, OLD_SIDE_FILE)


def find_file(source: str, name: str) -> Path | None:
    """A file of a checkpoint (hub name or folder) on this machine; None where the checkpoint has no such file."""
    path = cached_file(
        source, name, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False
    )
    return None if path is None else Path(path)


def _read(path: Path) -> dict[str, Any]:
    try:
        facts = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(facts, dict):
        raise ValueError(f"{path} is a JSON {type(facts).__name__}: an object is needed")
    return facts


def _entry(configuration: Mapping[str, Any]) -> dict[str, Any]:
    entries = (configuration.get(name) for name in GENERATION_KEYS)
    return next((dict(entry) for entry in entries if isinstance(entry, dict)), {})


def _checked(facts: Mapping[str, Any], name: str, kind: type) -> Any:
    value = facts.get(name)
    if value is not None and (not isinstance(value, kind) or (kind is int and isinstance(value, bool))):
        raise ValueError(f"{name} is {value!r}: {kind.__name__} is needed")
    return value
