"""Optional dependencies: a missing one is an error that names the extra to install."""

from __future__ import annotations

import importlib.util


class MissingExtraError(ValueError):
    """A package of an extra is not installed."""


def require(package: str, *, extra: str) -> None:
    """Raise MissingExtraError unless `package` can be imported."""
    if importlib.util.find_spec(package) is None:
        raise MissingExtraError(f"this needs {package}: pip install 'look-again-vlm[{extra}]', in a clone '.[{extra}]'")
