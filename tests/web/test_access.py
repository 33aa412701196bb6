"""Who may talk to pages and servers: whoever has a secret, or this machine alone under its own names."""

from __future__ import annotations

import hmac

import pytest

from look_again.web import access as access_module
from look_again.web.access import (
    LOCAL_NAMES,
    Access,
    build_access,
    build_page_access,
    is_local,
    read_keys,
    read_password,
)

KEY, OTHER = "k" * 16, "another-key-0123456789"


def write(tmp_path, text):
    path = tmp_path / "keys"
    path.write_text(text)
    return path


def test_keys_from_the_file_and_the_environment(tmp_path):
    keys = read_keys(write(tmp_path, f"# ours\n{KEY}\n\n"), {"LOOK_AGAIN_API_KEY": OTHER})
    access = build_access("0.0.0.0", keys)
    assert access.knows(KEY)
    assert access.knows(OTHER)
    assert not any(map(access.knows, ("", "k" * 15, "k" * 17, f"# ours\n{KEY}", "\ud800")))


def test_every_key_is_compared(monkeypatch):
    """Stopping at the first match tells by its time which key was right."""
    compared, real = [], hmac.compare_digest

    def compare(a, b):
        compared.append(b)
        return real(a, b)

    access = Access(build_access("127.0.0.1", [KEY]).secrets * 3)
    monkeypatch.setattr(access_module.hmac, "compare_digest", compare)
    assert access.knows(KEY)
    assert len(compared) == 3


@pytest.mark.parametrize("text", ["", "# nothing\n", "short\n", "with a blank in the key\n", "ключключключключ\n"])
def test_bad_key_files(tmp_path, text):
    with pytest.raises(ValueError, match="key"):
        read_keys(write(tmp_path, text), {})


def test_only_what_has_no_secret_trusts_its_machine():
    assert set(build_access("127.0.0.1", [], ["Mine.example"]).hosts) == {*LOCAL_NAMES, "mine.example"}
    assert build_access("127.0.0.1", [KEY]).hosts is None
    assert build_access("0.0.0.0").hosts is None
    assert not build_access("127.0.0.1").closed
    assert not build_access("127.0.0.1").knows("")


def test_a_page_that_others_can_reach_needs_a_password():
    assert is_local("localhost")
    assert is_local("::1")
    assert build_page_access("127.0.0.1", None, "do that") == build_access("127.0.0.1")
    for host in ("0.0.0.0", "192.168.1.5", "::", "example.org"):
        assert not is_local(host)
        with pytest.raises(ValueError, match=f"^{host} can be reached from other machines: do that$"):
            build_page_access(host, None, "do that")
        access = build_page_access(host, "correct horse", "do that")
        assert access.knows("correct horse")
        assert not any(map(access.knows, ("wrong", "pässword", "")))


def test_a_short_password_is_none():
    assert read_password("12345678", "it") == "12345678"
    with pytest.raises(ValueError, match=r"^it holds no password of at least 8 characters$"):
        read_password("1234567", "it")
