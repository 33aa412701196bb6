"""What a checkpoint is able to answer, where that is a small world: so that nobody takes its guesses for answers.

A checkpoint's side file names its scope; what the scope knows stands on top of everything and is entered here by name.
"""

from __future__ import annotations

from typing import Any, Protocol

from look_again.registry import resolve
from look_again.text.grammar import Response

SCOPES = {"tabletop": "look_again.tabletop.people.tabletop_scope:TABLETOP_SCOPE"}


class Scope(Protocol):
    """A small world. about: what it is, in one sentence. questions: some that can be answered."""

    about: str
    questions: tuple[str, ...]

    def note_on_image(self, image: Any) -> str | None:
        """What to say of an image that shows nothing of this world; None for others."""
        ...

    def note_on_answer(self, response: Response) -> str | None:
        """What to say of a response that answers nothing; None for others."""
        ...


def find_scope(name: str | None) -> Scope | None:
    """The scope of a name; None without one, and for one that only a newer version knows."""
    return resolve(SCOPES[name]) if name in SCOPES else None
