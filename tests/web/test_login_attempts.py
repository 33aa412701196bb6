"""Guessing passwords: how long it takes, and whom it locks out."""

from __future__ import annotations

import importlib.util
import time

import httpx
import pytest

from look_again.web import guard
from look_again.web.access import build_access
from look_again.web.login_attempts import FREE_FAILURES, LOCK_S, LONGEST_LOCK_S, LoginAttempts
from tests.ui.ui_answers import build_played_workspace
from tests.web.page_server import serve_page


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_guesser_is_locked_out_for_longer_and_longer():
    clock, tries = Clock(), 0
    attempts = LoginAttempts(clock)
    while clock.now < 86_400:
        locked_s = attempts.start("192.0.2.7")
        tries += locked_s == 0
        clock.now += max(locked_s, 0.001)
    assert tries < FREE_FAILURES + 8 + 86_400 / LONGEST_LOCK_S
    assert attempts.start("192.0.2.8") == 0


def test_the_right_password_clears_what_was_held_against_an_address():
    attempts = LoginAttempts(Clock())
    for _ in range(3):
        for _ in range(FREE_FAILURES - 1):
            assert attempts.start("192.0.2.7") == 0
        attempts.succeed("192.0.2.7")


def test_a_network_of_addresses_counts_as_one():
    """One machine with IPv6 has 2**64 of them."""
    attempts = LoginAttempts(Clock())
    locked = [attempts.start(f"2001:db8::{place:x}") for place in range(FREE_FAILURES + 1)]
    assert locked == [0.0] * FREE_FAILURES + [LOCK_S]
    assert attempts.start("2001:db8:0:1::1") == 0


@pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason="needs the extra ui")
def test_a_page_delays_wrong_passwords_and_then_refuses(monkeypatch):
    """Without both a password of eight letters is tried through at thousands a second."""
    from look_again.ui.app import make_app

    monkeypatch.setattr(guard, "DELAY_S", 0.2)
    app = make_app(build_played_workspace(), build_access("0.0.0.0", ["correct horse"]))
    with serve_page(app) as page, httpx.Client(base_url=page) as client:

        def log_in(password: str) -> tuple[int, float]:
            began = time.monotonic()
            answer = client.post("/login", data={"username": "ann", "password": password})
            return answer.status_code, time.monotonic() - began

        assert log_in("correct horse")[0] == 200
        for _ in range(FREE_FAILURES):
            status, seconds = log_in("wrong horse")
            assert status == 400
            assert seconds >= 0.2
        answer = client.post("/login", data={"username": "ann", "password": "correct horse"})
        assert answer.status_code == 429
        assert 1 <= int(answer.headers["retry-after"]) <= LOCK_S
