"""Guessing a page's password takes time: every failure is answered late, and many of them lock the guesser out.

The lock is by address (of IPv6 by network, as one machine has many), so that nobody locks out others. The paper has no
pages.
"""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

DELAY_S = 1.0  # before a failure is answered
FREE_FAILURES = 5  # before the lock, which doubles with every further one
LOCK_S, LONGEST_LOCK_S = 5.0, 900.0
FORGOTTEN_AFTER_S = 3600.0
ADDRESSES = 10_000  # remembered


@dataclass
class _Failures:
    count: int = 0
    until: float = 0.0
    last: float = 0.0


class LoginAttempts:
    """Failures by address. clock: seconds that only grow."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._failures: OrderedDict[str, _Failures] = OrderedDict()

    def start(self, address: str) -> float:
        """Seconds for which an address is locked out, 0 for one that may try. The try counts until it succeeds."""
        now, failures = self.clock(), self._failures.setdefault(_network(address), _Failures())
        self._failures.move_to_end(_network(address))
        while len(self._failures) > ADDRESSES:
            self._failures.popitem(last=False)
        if now < failures.until:
            return failures.until - now
        if now - failures.last > FORGOTTEN_AFTER_S:
            failures.count = 0
        failures.count, failures.last = failures.count + 1, now
        over = failures.count - FREE_FAILURES
        if over >= 0:
            failures.until = now + min(LONGEST_LOCK_S, LOCK_S * 2.0 ** min(over, 20))
        return 0.0

    def succeed(self, address: str) -> None:
        """The password was right: nothing is held against the address."""
        self._failures.pop(_network(address), None)


def _network(address: str) -> str:
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network((ip, 64), strict=False)) if ip.version == 6 else str(ip)
