"""YAML to dataclasses: one reader for every recipe and configuration, which checks before anything is loaded.

A configuration may be split by concern without its users seeing it: a field made by `group(cls)` takes its keys from
the level that it stands on. Fields that are dataclasses, or tuples of them, are read likewise.
"""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import field
from pathlib import Path
from typing import Any, TypeVar

import yaml

C = TypeVar("C")
GROUP = "group"
MOST_VALUES = 100_000  # of a file


class ConfigError(ValueError):
    """A configuration that cannot be used; the message says which key and why."""


def group(cls: type[C], choose: Callable[[Mapping[str, Any]], type] | None = None) -> C:
    """A field whose own keys stand on its parent's level. `choose` picks the class by the values of that level."""
    metadata = {GROUP: choose or (lambda values: cls)}
    return field(default_factory=cls, metadata=metadata)


def read_yaml(path: str | Path, what: str = "") -> dict[str, Any]:
    """The keys of a file as they stand: mappings with texts as keys, lists, texts, numbers, truth values and null.

    ConfigError, with the line where there is one, for a missing file, bad YAML, a key that is there twice, other kinds
    of keys and values, more than `MOST_VALUES`, or no mapping; `what` is the file's noun. Aliases are copies.
    """
    try:
        raw = yaml.load(Path(path).read_text(encoding="utf-8"), _Loader)
        plain = _plain(raw, str(path), [MOST_VALUES], ())
    except OSError as error:
        raise ConfigError(f"cannot read {f'the {what} ' if what else ''}{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8: byte {error.start} is wrong") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise ConfigError(f"{path}{line} is not YAML: {error.problem or error.context}") from error
    except (yaml.YAMLError, ValueError) as error:  # a character that YAML has not, a date that does not exist
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path} is not YAML: {str(error).splitlines()[0]}") from error
    except RecursionError as error:
        raise ConfigError(f"{path} is nested too deeply") from error
    if not isinstance(plain, dict):
        raise ConfigError(f"{path}: a {what or 'configuration'} is a mapping of keys to values, not {plain!r}")
    return plain


class _Loader(yaml.SafeLoader):
    """Safe YAML whose mappings name each key once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        named: set[str] = set()
        for key, _ in node.value:
            if key.value in named and isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is there twice", key.start_mark)
            if isinstance(key, yaml.ScalarNode):
                named.add(key.value)
        return super().construct_mapping(node, deep)


def _plain(value: Any, where: str, left: list[int], above: tuple[int, ...]) -> Any:
    """A copy in which nothing is there twice. left: values that may still come. above: what it lies in, by identity."""
    left[0] -= 1
    if left[0] < 0 or id(value) in above:
        raise ConfigError(f"{where} holds more than {MOST_VALUES} values, or itself")
    if isinstance(value, dict):
        if odd := [key for key in value if not isinstance(key, str)]:
            raise ConfigError(f"{where}: a key is a text, not {odd[0]!r}: put it in quotes")
        return {key: _plain(part, f"{where}: {key}", left, (*above, id(value))) for key, part in value.items()}
    if isinstance(value, list):
        return [_plain(part, where, left, (*above, id(value))) for part in value]
    if value is not None and not isinstance(value, str | bool | int | float):
        raise ConfigError(f"{where} is {type(value).__name__} ({value}), which is no text or number: put it in quotes")
    return value


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
    """ValueError for a field that is annotated as a text, number or bool, or as mappings or tuples of them, and is
    none, such as YAML's text 1e-3, and for a number that is not finite.
    """
    for name, hint in typing.get_type_hints(type(config)).items():
        _check_type(name, hint, getattr(config, name))


def _check_type(name: str, hint: Any, value: Any) -> None:
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple and parts[1:] == (...,):
        if not isinstance(value, tuple | list):
            raise ValueError(f"{name} is a list, not {value!r}")
        for part in value:
            _check_type(name, parts[0], part)
        return
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise ValueError(f"{name} is a mapping of keys to values, not {value!r}")
        for key, part in value.items():
            _check_type(f"a key of {name}", parts[0], key)
            _check_type(f"{name}: {key}", parts[1], part)
        return
    kinds = {hint} if origin is None else set(parts)
    if hint is bool and not isinstance(value, bool):
        raise ValueError(f"{name} is true or false, not {value!r}")
    if not kinds <= {int, float, str, type(None)} or (value is None and type(None) in kinds):
        return
    if str in kinds:
        if not isinstance(value, str) and kinds <= {str, type(None)}:
            raise ValueError(f"{name} is a text, not {value!r}")
        return
    whole = float not in kinds
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        raise ValueError(f"{name} is a {'whole number' if whole else 'number (1.0e-3)'}, not {value!r}")
    if not abs(value) < math.inf:
        raise ValueError(f"{name} is a finite number, not {value!r}")


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
