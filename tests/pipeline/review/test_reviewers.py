"""Who may reach the page: the reviewers, each under a name, behind the page's access."""

from __future__ import annotations

import pytest

from look_again.pipeline.review.reviewers import ReviewAccess, build_review_access
from look_again.web.access import build_access

PASSWORD = {"SECRET": "correct horse"}


def test_only_this_machine_without_a_password():
    assert build_review_access(["ann"], "127.0.0.1", None, {}) == ReviewAccess(("ann",), build_access("127.0.0.1"))
    for host in ("0.0.0.0", "192.168.1.5", "::", "example.org"):
        with pytest.raises(ValueError, match="--password-env"):
            build_review_access(["ann"], host, None, {})
        assert build_review_access(["ann"], host, "SECRET", PASSWORD).page.knows("correct horse")


@pytest.mark.parametrize("environment", [{}, {"SECRET": ""}, {"SECRET": "short"}])
def test_a_password_has_to_be_there(environment):
    with pytest.raises(ValueError, match=r"\$SECRET holds no password of at least 8"):
        build_review_access(["ann"], "127.0.0.1", "SECRET", environment)


@pytest.mark.parametrize("names", [[], ["ann", "ann"], [""], [" ann"]])
def test_reviewers_can_be_told_apart(names):
    with pytest.raises(ValueError, match="reviewers are"):
        build_review_access(names, "127.0.0.1", None, {})


def test_login_needs_a_known_name_and_the_password():
    access = build_review_access(["ann", "zoë"], "0.0.0.0", "SECRET", PASSWORD)
    assert access.login("ann", "correct horse")
    assert access.login("zoë", "correct horse")
    assert not access.login("eve", "correct horse")
    assert not access.login("ann", "wrong")
    assert not access.login("ann", "pässword")
    assert not ReviewAccess(("ann",)).login("ann", "")


def test_who_sits_at_the_page():
    """With a password nobody can pass for another by asking; without one they say who they are."""
    locked = ReviewAccess(("ann", "bob"), build_access("127.0.0.1", ["correct horse"]))
    one, two = ReviewAccess(("ann",)), ReviewAccess(("ann", "bob"))
    assert locked.reviewer("ann", "bob") == "ann"
    assert locked.reviewer(None, "bob") is None
    assert one.reviewer(None, None) == "ann"
    assert one.reviewer(None, "bob") == "ann"
    assert two.reviewer(None, "bob") == "bob"
    assert two.reviewer(None, None) is None
    assert two.reviewer(None, "eve") is None
