"""Images by URL: only named hosts, only public addresses, and the connection goes to the address that was checked."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from look_again.serving.http.errors import ApiError
from look_again.serving.http.image_fetching import ImageFetcher, is_public
from look_again.serving.http.image_parts import ImageReference
from tests.serving.http.served import encoded_image

PUBLIC = "93.184.216.34"


async def chunks():
    """As a network delivers it."""
    data = encoded_image()
    for start in range(0, len(data), 50):
        yield data[start : start + 50]


def fetch(url, *, hosts=("img.example",), addresses=(PUBLIC,), answer=None, max_bytes=10_000, timeout_s=5.0):
    """The bytes or the error, and the requests that went out."""
    sent = []

    async def resolve(host, port):
        return list(addresses)

    def respond(request):
        sent.append(request)
        return answer(request) if answer else httpx.Response(200, content=chunks())

    async def main():
        transport = httpx.MockTransport(respond)
        fetcher = ImageFetcher(hosts, max_bytes=max_bytes, timeout_s=timeout_s, resolve=resolve, transport=transport)
        try:
            return await fetcher.fetch(ImageReference(url, False, "here"))
        finally:
            await fetcher.close()

    try:
        return asyncio.run(main()), sent
    except ApiError as error:
        return error, sent


def refused(url, **kwargs):
    error, sent = fetch(url, **kwargs)
    assert isinstance(error, ApiError)
    assert (error.status, error.param) == (400, "here")
    assert sent == [], "a request went out"
    return error.message


def test_it_connects_to_the_address_that_was_checked_under_the_hosts_name():
    """Resolved a second time, a name may point into the private network (DNS rebinding)."""
    data, [sent] = fetch("https://img.example/a/b.png?size=1#x")
    assert data == encoded_image()
    assert str(sent.url) == f"https://{PUBLIC}/a/b.png?size=1"
    assert sent.headers["host"] == "img.example"
    assert sent.extensions["sni_hostname"] == "img.example"


@pytest.mark.parametrize(
    "url",
    [
        "https://other.example/a.png",
        "https://img.example.evil.net/a.png",
        "https://img.example@evil.net/a.png",
        "https://user:secret@img.example/a.png",
        "https://img.example:8080/a.png",
        "ftp://img.example/a.png",
        "file:///etc/passwd",
        "//img.example/a.png",
        "img.example/a.png",
        "https://img.example:99999/a.png",
        "https://[::1/a.png",
        "http://127.0.0.1/a.png",
        "gopher://img.example/",
    ],
)
def test_other_hosts_ports_and_schemes_are_refused(url):
    refused(url)


def test_it_is_off_without_hosts():
    assert "off" in refused("https://img.example/a.png", hosts=())


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1",
        "fe80::1%eth0",
        "fc00::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "192.0.2.1",
        "240.0.0.1",
        "192.88.99.1",
        "fec0::1",
        "not an address",
    ],
)
def test_addresses_that_are_not_public_are_refused(address):
    """One private address among public ones is enough: which of them is used is the attacker's choice."""
    assert not is_public(address)
    refused("https://img.example/a.png", addresses=(PUBLIC, address))


@pytest.mark.parametrize("address", [PUBLIC, "2606:4700:4700::1111", "::ffff:93.184.216.34", "64:ff9b::5db8:d822"])
def test_public_addresses(address):
    assert is_public(address)


def test_paths_are_sent_as_they_are_and_quoted():
    """A path of two slashes must not be read as a host."""
    _, [sent] = fetch("https://img.example//evil.net/a b%20c?q=é&u=http://x/?y")
    assert sent.url.host == PUBLIC
    assert sent.url.raw_path == b"//evil.net/a%20b%20c?q=%C3%A9&u=http://x/?y"


def test_a_host_in_other_letters():
    """A name that goes into a header as it was written would be an error of the server's."""
    data, [sent] = fetch("https://bücher.example/a.png", hosts=("bücher.example",))
    assert (data, sent.headers["host"]) == (encoded_image(), "xn--bcher-kva.example")
    refused("https://\u0378\u0379.example/a.png")


def test_a_path_without_end_is_the_callers_400():
    assert "InvalidURL" in refused("https://img.example/" + "a" * 70_000)


def test_an_allowed_port():
    data, [sent] = fetch("http://img.example:8080/a.png", hosts=("img.example:8080",))
    assert data == encoded_image()
    assert (sent.url.port, sent.headers["host"]) == (8080, "img.example:8080")


def test_an_ipv6_address_is_written_in_brackets():
    _, [sent] = fetch("https://img.example/a.png", addresses=("2606:4700:4700::1111",))
    assert sent.url.host == "2606:4700:4700::1111"


def test_redirects_are_not_followed():
    def redirect(request):
        return httpx.Response(302, headers={"location": "http://169.254.169.254/"})

    error, sent = fetch("https://img.example/a.png", answer=redirect)
    assert "302" in error.message
    assert len(sent) == 1


def test_what_is_too_large_is_not_read_to_its_end():
    given = []

    async def endless():
        while True:
            given.append(1)
            yield b"x" * 1000

    error, _ = fetch("https://img.example/a.png", answer=lambda r: httpx.Response(200, content=endless()))
    assert error.code == "image_too_large"
    assert len(given) < 15


def test_a_compressed_answer_is_not_unpacked():
    """A kilobyte of gzip can be a gigabyte of image."""
    packed = {"content-encoding": "gzip"}
    error, _ = fetch(
        "https://img.example/a.png", answer=lambda r: httpx.Response(200, headers=packed, content=chunks())
    )
    assert "compressed" in error.message


def test_a_slow_host_is_given_up():
    async def slow():
        await asyncio.sleep(30)
        yield b""

    error, _ = fetch("https://img.example/a.png", timeout_s=0.1, answer=lambda r: httpx.Response(200, content=slow()))
    assert "0.1 s" in error.message


def test_a_connection_that_fails_is_the_callers_400_and_names_no_address():
    def fail(request):
        raise httpx.ConnectError(f"cannot connect to {PUBLIC}")

    error, _ = fetch("https://img.example/a.png", answer=fail)
    assert "ConnectError" in error.message
    assert PUBLIC not in error.message


@pytest.mark.parametrize("host", ["https://img.example", "img.example/path", "", "user@img.example"])
def test_hosts_are_names(host):
    with pytest.raises(ValueError, match="image host"):
        ImageFetcher([host], max_bytes=1, timeout_s=1)
