"""YAML to dataclasses: one reader for every recipe and configuration, which checks before anything is loaded.

A configuration may be split by concern without its users seeing it: a field made by `group(cls)` takes its keys from
the level that it stands on. Fields that are dataclasses, or tuples of them, are read likewise.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import field
from pathlib import Path
from typing import Any, TypeVar

import yaml

C = TypeVar("C")
GROUP = "group"


class ConfigError(ValueError):
    """A configuration that cannot be used; the message says which key and why."""


def group(cls: type[C], choose: Callable[[Mapping[str, Any]], type] | None = None) -> C:
    """A field whose own keys stand on its parent's level. `choose` picks the class by the values of that level."""
    metadata = {GROUP: choose or (lambda values: cls)}
    return field(default_factory=cls, metadata=metadata)


def read_yaml(path: str | Path, what: str = "") -> dict[str, Any]:
    """The keys of a file as they stand. ConfigError for a missing file, bad YAML, or no mapping; `what` is its noun."""
    try:
        raw = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {f'the {what} ' if what else ''}{path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{path}: a {what or 'configuration'} is a mapping of keys to values, not {raw!r}")
    return dict(raw)


def build(cls: type[C], values: Any, where: str) -> C:
    """A dataclass from a mapping, its parts likewise; lists become tuples.

    ConfigError, beginning with `where`, for unknown keys, missing ones, and values that the class refuses.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}: a mapping of keys to values is needed, not {values!r}")
    try:
        known = set(known_keys(cls, values))
    except ValueError as error:  # of the choice of a group
        raise ConfigError(f"{where}: {error}") from error
    if unknown := set(values) - known:
        raise ConfigError(f"{where}: unknown keys {sorted(unknown, key=str)}; known: {', '.join(sorted(known))}")
    return _construct(cls, values, where)


def known_keys(cls: type, values: Mapping[str, Any]) -> Iterator[str]:
    """The keys that a configuration may have on its own level, those of its groups with them."""
    for part in dataclasses.fields(cls):
        if GROUP in part.metadata:
            yield from known_keys(part.metadata[GROUP](values), values)
        elif part.init:
            yield part.name


def with_keys(config: C, **changes: Any) -> C:
    """A copy with other values of some keys, those of its groups with them. TypeError for unknown keys."""
    own: dict[str, Any] = {}
    for part in dataclasses.fields(typing.cast(Any, config)):
        if GROUP in part.metadata:
            inner = getattr(config, part.name)
            names = [name for name in known_keys(type(inner), changes) if name in changes]
            if names:
                own[part.name] = with_keys(inner, **{name: changes.pop(name) for name in names})
    return dataclasses.replace(typing.cast(Any, config), **own, **changes)


def as_keys(config: Any) -> dict[str, Any]:
    """The mapping that `build` would read a configuration from: `dataclasses.asdict` with the groups' keys in place."""
    keys: dict[str, Any] = {}
    for part in dataclasses.fields(config):
        value = getattr(config, part.name)
        if GROUP in part.metadata:
            keys |= as_keys(value)
        elif dataclasses.is_dataclass(value):
            keys[part.name] = as_keys(value)
        elif isinstance(value, tuple | list):
            keys[part.name] = [as_keys(item) if dataclasses.is_dataclass(item) else item for item in value]
        else:
            keys[part.name] = value
    return keys


def check_types(config: Any) -> None:
    """ValueError for a field that is annotated as a number or a bool and is none, such as YAML's text 1e-3."""
    for name, hint in typing.get_type_hints(type(config)).items():
        value, kinds = getattr(config, name), {hint} if typing.get_origin(hint) is None else set(typing.get_args(hint))
        if hint is bool and not isinstance(value, bool):
            raise ValueError(f"{name} is true or false, not {value!r}")
        if not kinds <= {int, float, type(None)} or (value is None and type(None) in kinds):
            continue
        whole = float not in kinds
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
            raise ValueError(f"{name} is a {'whole number' if whole else 'number (1.0e-3)'}, not {value!r}")


def _construct(cls: type[C], values: Mapping[str, Any], where: str) -> C:
    """`build` for values whose unknown keys, if any, belong to other groups of the level."""
    hints = typing.get_type_hints(cls)
    arguments: dict[str, Any] = {}
    for part in dataclasses.fields(typing.cast(Any, cls)):
        if GROUP in part.metadata:
            arguments[part.name] = _construct(part.metadata[GROUP](values), values, where)
        elif part.name in values:
            arguments[part.name] = _part(hints[part.name], values[part.name], f"{where}: {part.name}")
    try:
        return cls(**arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: {error}") from error


def _part(hint: Any, value: Any, where: str) -> Any:
    """The value of one field: a dataclass, a tuple of dataclasses, or what stands there."""
    parts = [choice for choice in typing.get_args(hint) or (hint,) if dataclasses.is_dataclass(choice)]
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list | tuple | None):
            raise ConfigError(f"{where} is a list, not {value!r}")
        return tuple(_part(parts[0], item, _named(where, item)) if parts else item for item in value or ())
    optional = type(None) in typing.get_args(hint)
    if not parts or isinstance(value, typing.cast(type, parts[0])) or (optional and value is None):
        return tuple(value) if isinstance(value, list) else value
    return build(typing.cast(type, parts[0]), {} if value is None else value, where)


def _named(where: str, item: Any) -> str:
    """Where an entry of a list stands, with its name if it has one."""
    name = item.get("name") if isinstance(item, Mapping) else None
    return where if name is None else f"{where} {name!r}"


def dump_yaml(config: Any) -> str:
    """A configuration as YAML that `build` reads as the same."""
    return str(yaml.safe_dump(as_keys(config), sort_keys=False, allow_unicode=True))
