"""Who may talk to a page or a server of this project: the one rule for all of them.

Whatever has no secret (an API key, a page's password) trusts the machine that it runs on. It therefore answers to local
host names only: a web page whose own name points here (DNS rebinding) is refused. Pages, to which a browser brings its
cookies, also refuse requests of other origins; the server takes JSON alone, which a browser sends to another origin
only after permission that the server never gives. The paper has no pages; these are our rules.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
KEY_VARIABLE = "LOOK_AGAIN_API_KEY"
KEY_CHARACTERS = 16  # at least, of an API key
PASSWORD_CHARACTERS = 8  # at least, of a password


@dataclass(frozen=True)
class Access:
    """secrets: SHA-256 of each key or password; without any everybody who reaches the address is let in.

    host: the address that is listened on. hosts: names that are answered to; None is any.
    """

    secrets: tuple[bytes, ...] = ()
    host: str = "127.0.0.1"
    hosts: tuple[str, ...] | None = LOCAL_NAMES

    @property
    def closed(self) -> bool:
        """Whether a secret is asked for."""
        return bool(self.secrets)

    def knows(self, secret: str) -> bool:
        """Whether it is one of the secrets; takes as long for any, right or wrong."""
        digest = _digest(secret)
        matches = [hmac.compare_digest(digest, known) for known in self.secrets]
        return any(matches)

    def answers_to(self, name: str | None) -> bool:
        """Whether requests under this host name are answered. None: a name that cannot be read."""
        return self.hosts is None or name in self.hosts


def build_access(host: str, secrets: Iterable[str] = (), allowed_hosts: Sequence[str] = ()) -> Access:
    """The access of what listens on `host`. allowed_hosts: names that are answered to beside the local ones."""
    digests = tuple(map(_digest, secrets))
    trusting = not digests and is_local(host)
    names = tuple(name.lower() for name in (*LOCAL_NAMES, host, *allowed_hosts))
    return Access(digests, host, names if trusting else None)


def build_page_access(host: str, password: str | None, remedy: str) -> Access:
    """The access of a page: with a password, or on this machine alone.

    remedy: how to give a password. ValueError for an address that others can reach without one.
    """
    if password is None and not is_local(host):
        raise ValueError(f"{host} can be reached from other machines: {remedy}")
    return build_access(host, () if password is None else (password,))


def read_password(text: str, source: str) -> str:
    """A page's password as it was given. ValueError, naming its source, for one of fewer than 8 characters."""
    if len(text) < PASSWORD_CHARACTERS:
        raise ValueError(f"{source} holds no password of at least {PASSWORD_CHARACTERS} characters")
    return text


def read_keys(key_file: Path | None, environment: Mapping[str, str]) -> list[str]:
    """API keys: the file's lines (blank ones and `#` comments aside) and $LOOK_AGAIN_API_KEY.

    Never from the command line, where every user of the machine could read them. ValueError for a key that is short or
    not plain ASCII, and for a file without any; OSError for a file that cannot be read.
    """
    keys = [] if key_file is None else _lines(key_file)
    if environment.get(KEY_VARIABLE, "").strip():
        keys.append(environment[KEY_VARIABLE].strip())
    for key in keys:
        if len(key) < KEY_CHARACTERS or not key.isascii() or any(letter.isspace() for letter in key):
            raise ValueError(
                f"an API key has at least {KEY_CHARACTERS} ASCII characters and no blanks; one way to make one: "
                "python -c 'import secrets; print(secrets.token_urlsafe(32))'"
            )
    return keys


def is_local(host: str) -> bool:
    """Whether an address can be reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def read_headers(scope: Mapping[str, Any]) -> dict[str, str]:
    """The headers of an ASGI scope by lower-case name."""
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}


def read_host_name(headers: Mapping[str, str]) -> str | None:
    """The name in the Host header, "" where there is none; None for what cannot be read."""
    name, _ = _split_address(f"//{headers.get('host', '')}")
    return None if name is None else name.rstrip(".")


def is_own_origin(headers: Mapping[str, str]) -> bool:
    """Whether a request does not come from another web page."""
    origin = headers.get("origin")
    return origin is None or (_split_address(origin)[1] or None) == headers.get("host")


def _split_address(url: str) -> tuple[str | None, str | None]:
    """Host name and host with port; None twice for what is no address, such as one with half a bracket."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return None, None
    return parts.hostname or "", parts.netloc


def _lines(path: Path) -> list[str]:
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        raise ValueError(f"{path} holds no API key")
    return keys


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()
