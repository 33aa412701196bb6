"""Who may reach the review page: the local machine alone unless told otherwise, and elsewhere only with a password.

What any page of ours refuses is `pages.guard`'s. The paper does not say how its people worked; these are our rules.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from look_again.web.guard import LEAST_CHARACTERS, Guard, is_local, refusal

__all__ = ["Access", "Guard", "access_of", "is_local", "refusal"]


@dataclass(frozen=True)
class Access:
    """reviewers: who may decide on this page. password: None on the local machine. host: that the page is bound to."""

    reviewers: tuple[str, ...]
    password: str | None = None
    host: str = "127.0.0.1"

    def login(self, name: str, password: str) -> bool:
        """Whether a reviewer may in. The comparison takes as long for a wrong password as for the right one."""
        right = hmac.compare_digest(password.encode(), (self.password or "").encode())
        return right and self.password is not None and name in self.reviewers

    def reviewer(self, login: str | None, asked: str | None) -> str | None:
        """Who sits at the page: whoever logged in; without a password the only reviewer, or the one `asked` for."""
        name = login if self.password is not None else asked if len(self.reviewers) > 1 else self.reviewers[0]
        return name if name in self.reviewers else None


def access_of(
    reviewers: Sequence[str], host: str, password_variable: str | None, environment: Mapping[str, str]
) -> Access:
    """The access that was asked for.

    ValueError for names that cannot be told apart, an address that others can reach without a password, and a variable
    that holds none of at least 8 characters.
    """
    if not reviewers or len(set(reviewers)) != len(reviewers) or any(not n or n != n.strip() for n in reviewers):
        raise ValueError(f"reviewers are {list(reviewers)}: name at least one, each once, without blanks around it")
    if password_variable is None:
        if not is_local(host):
            raise ValueError(
                f"{host} can be reached from other machines: put a password into an environment variable and name it "
                "with --password-env"
            )
        return Access(tuple(reviewers), None, host)
    password = environment.get(password_variable, "")
    if len(password) < LEAST_CHARACTERS:
        raise ValueError(f"${password_variable} holds no password of at least {LEAST_CHARACTERS} characters")
    return Access(tuple(reviewers), password, host)
