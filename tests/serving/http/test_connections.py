"""Connections that say nothing, half of it, or never listen: each over a real socket against a real server."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import statistics
import time
from contextlib import ExitStack, contextmanager, suppress

import httpx
import pytest

from look_again.serving.http import body as body_module
from look_again.serving.http import chat_completion, connections
from look_again.serving.http.connections import BoundedConnection, QuietLoopErrors
from look_again.serving.http.limits import Limits
from tests.serving.http.served import ANSWER, TRACE, FakeBackend, body, running

LONG = ANSWER.replace("one", "one " * 400)


@contextmanager
def connect(server):
    host, port = server.base.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as client:
        yield client


def request(**fields) -> bytes:
    data = json.dumps(body("Hi", **fields)).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\n"
    return f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data


def read_all(client: socket.socket) -> bytes:
    data = b""
    while part := client.recv(65536):
        data += part
    return data


def wait_until(condition, what: str, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


@pytest.mark.parametrize("sent", [b"", b"POST /v1/chat", b"GET / HTTP/1.1\r\nHost: x\r\n", b"GET / HTTP/1.1\r\nA: "])
def test_a_connection_without_a_whole_head_is_closed(sent, monkeypatch):
    """It stayed for ever: a few thousand of them take every descriptor."""
    monkeypatch.setattr(connections, "HEAD_TIMEOUT_S", 0.3)
    with running(FakeBackend()) as server, connect(server) as client:
        client.sendall(sent)
        began = time.monotonic()
        assert client.recv(1000) == b""
        assert 0.2 < time.monotonic() - began < 10


def test_a_head_that_trickles_in_is_closed_too(monkeypatch):
    monkeypatch.setattr(connections, "HEAD_TIMEOUT_S", 0.5)
    with running(FakeBackend()) as server, connect(server) as client:
        client.sendall(b"GET / HTTP/1.1\r\nA: ")
        sent = 0
        with suppress(ConnectionError):
            while sent < 200:
                client.sendall(b"x")
                sent += 1
                time.sleep(0.05)
        assert sent < 200


def test_an_answer_takes_longer_than_a_head_may(monkeypatch):
    monkeypatch.setattr(connections, "HEAD_TIMEOUT_S", 0.2)
    with running(FakeBackend(step_s=0.02)) as server:
        assert server.post(body("Hi")).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_closed_its_half_gets_its_answer(stream):
    with running(FakeBackend(step_s=0.01)) as server, connect(server) as client:
        client.sendall(request(stream=stream))
        client.shutdown(socket.SHUT_WR)
        answer = read_all(client).decode()
        assert "200 OK" in answer
        assert "cube" in answer.replace(TRACE, "")
        assert ("[DONE]" in answer) == stream


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_has_gone_is_still_noticed(stream):
    backend = FakeBackend(LONG, step_s=0.02)
    with running(backend) as server:
        with connect(server) as client:
            client.sendall(request(stream=stream, max_tokens=5000))
            wait_until(lambda: backend.running == 1, "it runs")
        wait_until(lambda: backend.running == 0, "it goes on for nobody", 5)
        assert backend.closed == 1


def test_slow_bodies_hold_no_places():
    """64 of them kept everybody out for a minute."""
    with running(FakeBackend(), Limits(concurrency=1, queue=0, grace_s=1)) as server, ExitStack() as slow:
        for _ in range(5):
            slow.enter_context(connect(server)).sendall(request()[:-5])
        time.sleep(0.2)
        assert server.post(body("Hi")).status_code == 200


def test_a_body_that_stands_still_is_given_up(monkeypatch):
    monkeypatch.setattr(body_module, "PAUSE_S", 0.3)
    with running(FakeBackend()) as server, connect(server) as client:
        client.sendall(request()[:-5])
        assert b" 408 " in read_all(client)


def test_bodies_together_are_bounded():
    with running(FakeBackend(), Limits(bodies_bytes=30_000, grace_s=1)) as server, connect(server) as client:
        client.sendall(request(metadata={"a": "x" * 20_000})[:-5])
        wait_until(lambda: server.service.bodies.used > 20_000, "it arrives")
        assert server.post(body("x" * 20_000)).status_code == 429
        assert server.post(body("Hi")).status_code == 200
        client.close()
        wait_until(lambda: server.service.bodies.used == 0, "its bytes are kept")
        assert server.post(body("x" * 20_000)).status_code == 200


def test_a_client_that_does_not_read_stops_its_generation(monkeypatch):
    monkeypatch.setattr(chat_completion, "SEND_TIMEOUT_S", 0.3)
    backend = FakeBackend("x" * 20_000_000)
    monkeypatch.setattr("tests.serving.http.served.tokens_of", lambda text: [500] * 2_000_000)
    with running(backend) as server, connect(server) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.sendall(request(stream=True, max_tokens=1_900_000))
        wait_until(lambda: backend.running == 1, "it runs")
        wait_until(lambda: backend.running == 0, "it writes to nobody", 60)


def test_small_answers_are_sent_at_once():
    """Without TCP_NODELAY the second part of an answer waits 40 ms for the first part's acknowledgement."""
    with running(FakeBackend()) as server, httpx.Client(base_url=server.base) as client:
        seconds = []
        for _ in range(30):
            began = time.perf_counter()
            assert client.get("/v1/models").status_code == 200
            seconds.append(time.perf_counter() - began)
        (connection,) = server.server.server_state.connections
        transport_socket = connection.transport.get_extra_info("socket")
        assert transport_socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        print(f"\nkeep-alive GET /v1/models: {statistics.median(seconds) * 1000:.1f} ms")


def test_beyond_its_descriptors_it_turns_away_and_resumes(monkeypatch, caplog):
    with running(FakeBackend()) as server:
        monkeypatch.setattr(BoundedConnection, "max_connections", 4)
        with ExitStack() as stack:
            clients = [stack.enter_context(connect(server)) for _ in range(12)]
            wait_until(lambda: len(server.server.server_state.connections) == 4, "they stay")
            assert sum(not _is_open(client) for client in clients) == 8
        wait_until(lambda: not server.server.server_state.connections, "they stay")
        assert server.post(body("Hi")).status_code == 200
    assert caplog.text == ""


def _is_open(client: socket.socket) -> bool:
    client.settimeout(0.2)
    try:
        return client.recv(1) != b""
    except TimeoutError:
        return True
    except OSError:
        return False


def test_faults_of_the_loop_are_reported_once_a_minute(caplog):
    """asyncio reports a lack of descriptors up to 2,048 times a second, each time with a traceback."""
    loop, handler = asyncio.new_event_loop(), QuietLoopErrors()
    with caplog.at_level(logging.ERROR):
        for _ in range(1000):
            context = {"message": "socket.accept() out of system resource", "exception": OSError(24, "Too many open")}
            handler(loop, context)
        assert len(caplog.records) == 1
        handler(loop, {"message": "another fault"})
        assert len(caplog.records) == 2
    loop.close()
