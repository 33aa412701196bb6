"""What goes wrong over HTTP: one shape of error, the right status, and an end, before and in the middle of a stream."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time

import httpx
import pytest

from look_again.serving.backend import BackendError, BusyError, RefusedError
from look_again.serving.http.limits import Limits
from tests.serving.http.served import ANSWER, FakeBackend, body, image_part, running

LONG = ANSWER * 40


@pytest.fixture(scope="module")
def server():
    with running(FakeBackend(), Limits(body_bytes=100_000, grace_s=1)) as one:
        yield one


def error_of(response, status):
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    return error


def wait_until(condition, what):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/v1/completions", 405),
        ("GET", "/v1/chat/completions", 405),
        ("DELETE", "/v1/models", 405),
        ("POST", "/health", 405),
    ],
)
def test_wrong_paths_and_methods(server, method, path, status):
    error_of(httpx.request(method, server.base + path), status)


def test_a_body_that_is_no_request(server):
    def send(content, **headers):
        return httpx.post(
            f"{server.base}/v1/chat/completions",
            content=content,
            headers={"content-type": "application/json", **headers},
        )

    assert error_of(send(b"{"), 400)["code"] == "invalid_json"
    assert error_of(send(b"[" * 90_000), 400)["code"] == "request_too_large"  # counted before it is parsed
    assert error_of(send(b"\xff"), 400)["code"] == "invalid_json"
    assert error_of(send(b"5"), 400)["code"] == "invalid_value"
    assert error_of(send(b"{}", **{"content-encoding": "gzip"}), 415)
    assert error_of(send(json.dumps(body("x" * 100_000)).encode()), 413)["code"] == "request_too_large"
    assert error_of(send(b"[" + b"0," * 45_000 + b"0]"), 400)["code"] == "request_too_large"
    assert server.post(body("0," * 40_000)).status_code == 200
    assert error_of(send(json.dumps(body("\ud800")).encode()), 400)["code"] == "invalid_json"


def test_a_body_without_a_length_is_bounded_as_well(server):
    """Content-Length is what the client says; the limit holds for what arrives."""

    def endless():
        for _ in range(10_000):
            yield b" " * 1000

    sent = httpx.post(
        f"{server.base}/v1/chat/completions", content=endless(), headers={"content-type": "application/json"}
    )
    error_of(sent, 413)


def test_an_image_that_is_none_is_named(server):
    error = error_of(server.post(body("see", image_part(b"no image"))), 400)
    assert error["param"] == "messages[0].content[1].image_url.url"


def test_web_addresses_are_refused_unless_allowed(server):
    part = {"type": "image_url", "image_url": {"url": "http://169.254.169.254/latest"}}
    assert error_of(server.post(body(part, "x")), 400)["code"] == "image_url_refused"


@pytest.mark.parametrize(
    ("raised", "status", "started_status"),
    [
        (RefusedError("ask for copy"), 400, 500),
        (ValueError("the messages take 5000 tokens"), 400, 500),
        (BusyError("full", 2.5), 429, 429),
        (BackendError("gone"), 503, 503),
        (RuntimeError("a secret of ours"), 500, 500),
    ],
)
def test_what_a_backend_raises(raised, status, started_status, caplog):
    with running(FakeBackend(refuses=raised)) as server:
        response = server.post(body())
        error = error_of(response, status)
        assert response.headers.get("retry-after") == ("3" if status == 429 else None)
    with running(FakeBackend(error=raised, fails_after=3)) as server:
        error_of(server.post(body()), started_status)
        lines = server.lines(body(stream=True))
    assert "secret" not in error["message"]
    assert "secret" not in lines[-1]


def test_an_upstream_failure_is_a_bad_gateway():
    with running(FakeBackend(name="vllm", error=BackendError("gone"), fails_after=0)) as server:
        error_of(server.post(body()), 502)


def test_a_failure_in_the_middle_of_a_stream_is_its_last_event():
    """A stream that only stops looks like an answer, and one that goes on waiting is a hang."""
    with running(FakeBackend(fails_after=5)) as server:
        lines = server.lines(body(stream=True))
    assert "the engine is gone" in json.loads(lines[-1])["error"]["message"]
    assert "[DONE]" not in lines


def test_a_failing_choice_stops_the_others():
    backend = FakeBackend(step_s=0.005)

    def answer(job):
        if job.sampling.seed == 0:
            raise BackendError("this one fails")
        return LONG

    backend.answer = answer
    with running(backend) as server:
        error_of(server.post(body(n=2, seed=0, max_tokens=5000)), 503)
        wait_until(lambda: backend.running == 0, "the other choice goes on")


def test_a_full_server_sends_clients_away_and_takes_them_later():
    backend = FakeBackend(LONG, step_s=0.02)
    with running(backend, Limits(concurrency=1, queue=1, grace_s=1)) as server:
        slow = [threading.Thread(target=server.post, args=[body(max_tokens=60)]) for _ in range(2)]
        for thread in slow:
            thread.start()
        wait_until(lambda: server.service.admission.inside == 2, "both are in")
        assert server.service.admission.waiting == 1
        refused = server.post(body())
        assert error_of(refused, 429)["type"] == "rate_limit_error"
        assert int(refused.headers["retry-after"]) >= 1
        for thread in slow:
            thread.join()
        assert len(backend.jobs) == 2
        assert server.post(body(max_tokens=3)).status_code == 200


@pytest.mark.parametrize("size", [10, 1_000_000])
def test_clients_that_leave_the_queue_give_their_place_back(size):
    """Clients that time out and try again would otherwise fill the queue with places that nobody waits in."""
    backend = FakeBackend(LONG, step_s=0.02)
    with running(backend, Limits(concurrency=1, queue=2, grace_s=1)) as server:
        slow = threading.Thread(target=server.post, args=[body("first", max_tokens=150)])
        slow.start()
        wait_until(lambda: backend.running == 1, "it runs")
        host, port = server.base.removeprefix("http://").split(":")
        data = json.dumps(body("x" * size)).encode()
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        for _ in range(2):
            with socket.create_connection((host, int(port)), timeout=20) as client:
                client.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
                wait_until(lambda: server.service.admission.waiting == 1, "it waits")
            wait_until(lambda: server.service.admission.waiting == 0, "its place is kept")
        assert backend.running == 1
        assert server.post(body("last", max_tokens=3)).status_code == 200  # waits, then is answered
        slow.join()
        assert len(backend.jobs) == 2


def test_what_a_waiting_request_sends_is_not_lost():
    """Would catch a watch for leaving clients that eats the body, of which it keeps the first part only."""
    backend = FakeBackend(LONG, step_s=0.02)
    with running(backend, Limits(concurrency=1, queue=1, grace_s=1)) as server:
        slow = threading.Thread(target=server.post, args=[body("first", max_tokens=60)])
        slow.start()
        wait_until(lambda: backend.running == 1, "it runs")
        long = "word " * 200_000
        assert server.post(body(long, max_tokens=3)).status_code == 200
        slow.join()
        [_, second] = backend.jobs
        assert second.messages[0]["content"] in (long, [{"type": "text", "text": long}])


def test_a_request_that_takes_too_long_is_stopped():
    backend = FakeBackend(LONG, step_s=0.01)
    with running(backend, Limits(timeout_s=1, grace_s=1)) as server:
        response = server.post(body(max_tokens=5000))
        assert error_of(response, 504)["code"] == "timeout"
        assert response.headers["x-should-retry"] == "false"
        last = json.loads(server.lines(body(max_tokens=5000, stream=True))[-1])
        assert last["error"]["code"] == "timeout"
        wait_until(lambda: (backend.running, backend.closed) == (0, 2), "generations go on")


def test_a_slow_body_is_given_up():
    with running(FakeBackend(), Limits(body_timeout_s=1, grace_s=1)) as server:
        host, port = server.base.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=20) as client:
            head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            client.sendall(f"{head}Content-Length: 1000\r\n\r\n{{".encode())
            assert b" 408 " in client.recv(1000)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_stops_its_generation(stream):
    backend = FakeBackend(LONG, step_s=0.01)
    with running(backend) as server:
        host, port = server.base.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=20) as client:
            data = json.dumps(body(n=2, max_tokens=5000, stream=stream)).encode()
            head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            client.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
            wait_until(lambda: backend.running == 2, "it runs")
        wait_until(lambda: (backend.running, backend.closed) == (0, 2), "generations go on")
        wait_until(lambda: server.service.admission.inside == 0, "its place is kept")
        assert 'status="499"' in httpx.get(f"{server.base}/metrics").text


def test_shutdown_lets_requests_finish():
    with running(FakeBackend(step_s=0.02), Limits(grace_s=20)) as server:
        answers = []
        thread = threading.Thread(target=lambda: answers.append(server.post(body())))
        thread.start()
        wait_until(lambda: server.service.backend.running, "it runs")
        server.server.should_exit = True
        thread.join()
    assert answers[0].json()["choices"][0]["message"]["content"] == "1 cube"


@pytest.mark.parametrize("stream", [False, True])
def test_shutdown_ends_what_does_not_finish(stream):
    """A client must not mistake a cut for an end."""
    backend = FakeBackend(LONG, step_s=0.01)
    with running(backend, Limits(grace_s=1)) as server:
        answers = []

        def ask():
            asked = body(max_tokens=5000, stream=stream)
            answers.append(server.lines(asked)[-1] if stream else server.post(asked).text)

        thread = threading.Thread(target=ask)
        thread.start()
        wait_until(lambda: backend.running, "it runs")
        server.server.should_exit = True
        thread.join()
    assert json.loads(answers[0])["error"]["code"] == "shutting_down"
    assert backend.closed == 1


def test_no_text_of_a_request_is_logged(caplog):
    with caplog.at_level(logging.DEBUG, "look_again"), running(FakeBackend()) as server:
        server.post(body("my secret question"))
        server.post(body("my secret question", temperature="secret"))
    assert "tokens sampled" in caplog.text
    assert "secret" not in caplog.text
