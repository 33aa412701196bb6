"""Prompts are files: ours are shipped, a user's own take their place.

A file has a part `## system` (may be left out) and a part `## user`; `{{name}}` stands for a field. The version is a
hash of the text, so that another text is other work. The paper prints none of its prompts; these are ours.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from look_again.pipeline.contents import compute_digest

FIELDS = {
    "cold_start": ("question", "response"),
    "distil": ("format", "question"),
    "verify": ("question", "reference", "response"),
    "rewrite": ("question", "reference", "response", "objections"),
}
_PART = re.compile(r"^## (system|user)[ \t]*$", re.MULTILINE)
_FIELD = re.compile(r"\{\{(\w+)\}\}")


@dataclass(frozen=True)
class PromptTemplate:
    """A prompt's two texts with their fields, and the version of both together."""

    system: str
    user: str
    version: str

    def fill(self, fields: Mapping[str, str]) -> tuple[str, str]:
        """System and user text. What stands in a field's value is left alone."""
        system, user = (_FIELD.sub(lambda match: fields[match[1]], text) for text in (self.system, self.user))
        return system, user


def load_prompt(name: str, path: str | Path | None = None) -> PromptTemplate:
    """The shipped prompt of a stage, or the one in a file.

    ValueError for a file that cannot be read, without a user's part, or with fields that the stage does not have.
    """
    where = Path(path) if path else Path(str(resources.files("look_again") / "assets" / "prompts" / f"{name}.md"))
    try:
        text = where.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"the prompt {where} cannot be read: {error}") from error
    _, *pieces = _PART.split(text)
    parts = {kind: part.strip() for kind, part in zip(pieces[::2], pieces[1::2], strict=True)}
    if not parts.get("user"):
        raise ValueError(f"the prompt {where} has no part '## user'")
    if unknown := set(_FIELD.findall(text)) - set(FIELDS[name]):
        raise ValueError(f"the prompt {where} has the fields {sorted(unknown)}; {name} has {', '.join(FIELDS[name])}")
    return PromptTemplate(parts.get("system", ""), parts["user"], compute_digest(text)[:12])
