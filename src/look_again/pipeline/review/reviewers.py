"""Who may decide on the review page: the reviewers, behind the access that all pages have (`web.access`).

The paper does not say how its people worked; these are our rules.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from look_again.web.access import Access, build_page_access, read_password


@dataclass(frozen=True)
class ReviewAccess:
    """reviewers: who may decide on this page. page: who may open it."""

    reviewers: tuple[str, ...]
    page: Access = field(default_factory=Access)

    def login(self, name: str, password: str) -> bool:
        """Whether a reviewer may in. The comparison takes as long for a wrong password as for the right one."""
        return self.page.knows(password) and name in self.reviewers

    def reviewer(self, login: str | None, requested: str | None) -> str | None:
        """Who sits at the page: whoever logged in; without a password the only reviewer, or the one `requested`."""
        alone = len(self.reviewers) == 1
        name = login if self.page.closed else self.reviewers[0] if alone else requested
        return name if name in self.reviewers else None


def build_review_access(
    reviewers: Sequence[str], host: str, password_variable: str | None, environment: Mapping[str, str]
) -> ReviewAccess:
    """The access of a review page.

    ValueError for names that cannot be told apart, an address that others can reach without a password, and a variable
    that holds none of at least 8 characters.
    """
    if not reviewers or len(set(reviewers)) != len(reviewers) or any(not n or n != n.strip() for n in reviewers):
        raise ValueError(f"reviewers are {list(reviewers)}: name at least one, each once, without blanks around it")
    password = None
    if password_variable is not None:
        password = read_password(environment.get(password_variable, ""), f"${password_variable}")
    remedy = "put a password into an environment variable and name it with --password-env"
    return ReviewAccess(tuple(reviewers), build_page_access(host, password, remedy))
