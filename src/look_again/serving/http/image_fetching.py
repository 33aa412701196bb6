"""Images from the web, for servers that were told which hosts to fetch from.

A server that fetches what strangers name can be made to read its own network. So: named hosts only, public addresses
only, and the connection goes to the very address that was checked, because a second look-up may answer differently. No
redirects, no proxies, no credentials, bounded in bytes and time.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence
from urllib.parse import SplitResult, quote, urlsplit

import httpx

from look_again.serving.http.errors import ApiError, invalid
from look_again.serving.http.image_parts import ImageReference, too_many_bytes

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Host name and port -> its IP addresses."""

PORTS = {"http": 80, "https": 443}
_PLAIN = "/%:@!$&'()*+,;=~"  # beside letters and digits, left as they are
_RETIRED = (ipaddress.ip_network("192.88.99.0/24"), ipaddress.ip_network("fec0::/10"))  # retired, yet routed by some
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class ImageFetcher:
    """hosts: `example.org`, or `example.org:8443` where the port is not the scheme's own. ValueError for others."""

    def __init__(
        self,
        hosts: Sequence[str] = (),
        *,
        max_bytes: int,
        timeout_s: float,
        resolve: Resolve | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.hosts = frozenset(map(_host_and_port, hosts))
        self.max_bytes, self.timeout_s = max_bytes, timeout_s
        self._resolve = resolve or resolve_by_system
        self._client = httpx.AsyncClient(
            follow_redirects=False,
            trust_env=False,
            timeout=timeout_s,
            transport=transport,
            headers={"accept": "image/*", "accept-encoding": "identity", "user-agent": "look-again"},
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def fetch(self, reference: ImageReference) -> bytes:
        """The image's bytes. ApiError 400 for what may not, or cannot, be fetched."""
        url, host, port = self._allowed(reference)
        try:
            async with asyncio.timeout(self.timeout_s):
                address = await self._address(host, port, reference)
                return await self._read(url, host, port, address, reference)
        except TimeoutError:
            raise _failed(reference, f"{host} did not send the image within {self.timeout_s:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise _failed(reference, f"the image could not be fetched from {host}: {type(error).__name__}") from None

    def _allowed(self, reference: ImageReference) -> tuple[SplitResult, str, int]:
        """The URL, host and port, of a URL that may be fetched."""
        if not self.hosts:
            raise _refused(reference, "images by URL are off; send the image as a data URL")
        try:
            url = urlsplit(reference.url)
            host = _ascii(url.hostname or "")
            port = url.port or PORTS.get(url.scheme, 0)
        except ValueError as error:
            raise _refused(reference, f"this is no URL: {error}") from None
        if url.scheme not in PORTS or not host or url.username is not None or url.password is not None:
            raise _refused(reference, "an image URL begins with data:, http:// or https:// and names no user")
        if (host, port) not in self.hosts and not (port == PORTS[url.scheme] and (host, 0) in self.hosts):
            raise _refused(reference, f"images are not fetched from {host[:100]!r} port {port}")
        return url, host, port

    async def _address(self, host: str, port: int, reference: ImageReference) -> str:
        """The first address of the host, once all of them are public."""
        addresses = await self._resolve(host, port)
        if not addresses or not all(map(is_public, addresses)):
            raise _refused(reference, f"{host} has an address that is not public")
        return addresses[0]

    async def _read(self, url: SplitResult, host: str, port: int, address: str, reference: ImageReference) -> bytes:
        """Ask that address for it, under the host's name: in the Host header and as the name its certificate is for."""
        place = f"[{address}]" if ":" in address else address
        target = httpx.URL(scheme=url.scheme, host=place, port=port, raw_path=_target(url))
        named = host if port == PORTS[url.scheme] else f"{host}:{port}"
        extensions = {"sni_hostname": host}
        async with self._client.stream("GET", target, headers={"host": named}, extensions=extensions) as response:
            if response.status_code != 200:
                raise _failed(reference, f"{host} answered {response.status_code}; redirects are not followed")
            if response.headers.get("content-encoding", "identity") != "identity":
                raise _failed(reference, f"{host} compressed what it sent, which was not asked for")
            data = bytearray()
            async for chunk in response.aiter_raw():
                data += chunk
                if len(data) > self.max_bytes:
                    raise too_many_bytes(reference, self.max_bytes)
        return bytes(data)


async def resolve_by_system(host: str, port: int) -> list[str]:
    """The host's addresses as the operating system finds them. OSError where it has none."""
    entries = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in entries]


def is_public(address: str) -> bool:
    """Whether an IP address is one of the open internet's; also the IPv4 address inside an IPv6 one must be."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:  # with a zone, as fe80::1%eth0
        return False
    inner = None
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    if inner is not None:
        return is_public(str(inner))
    retired = any(ip in network for network in _RETIRED)
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or retired)


def _host_and_port(written: str) -> tuple[str, int]:
    """`example.org` is (example.org, 0): its scheme's own port. ValueError for a URL or a path."""
    url = urlsplit(f"//{written}")
    if not url.hostname or url.netloc != written or url.username is not None:
        raise ValueError(f"an image host is a name such as images.example.org, not {written!r}")
    return _ascii(url.hostname), url.port or 0


def _ascii(host: str) -> str:
    """The name as the network spells it. UnicodeError, which is a ValueError, where it cannot."""
    return host.rstrip(".") if host.isascii() else host.rstrip(".").encode("idna").decode()


def _target(url: SplitResult) -> bytes:
    """Path and query as they go into the request's first line."""
    path, query = quote(url.path or "/", safe=_PLAIN), quote(url.query, safe=f"{_PLAIN}?")
    return (f"{path}?{query}" if query else path).encode()


def _refused(reference: ImageReference, message: str) -> ApiError:
    return invalid(message, reference.param, "image_url_refused")


def _failed(reference: ImageReference, message: str) -> ApiError:
    return invalid(message, reference.param, "image_url_failed")
