"""Both pages, attacked over real connections: no file of this machine comes out, whatever is forged."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from look_again.pipeline.ledger.ledger import Ledger
from look_again.pipeline.review.reviewers import ReviewAccess
from look_again.pipeline.review.session import ReviewSession
from look_again.ui.app import make_app
from look_again.web.access import Access, build_access
from tests.pipeline.review.review_runs import PEOPLE, prepare
from tests.serving.http.served import encoded_image
from tests.ui.ui_answers import build_played_workspace
from tests.web.page_server import join_with, serve_page

httpx = pytest.importorskip("httpx")
pytestmark = pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason="needs the extra ui")
SECRET = "the secret of this machine"


@pytest.fixture(params=["ui", "review"])
def page(request: Any, tmp_path: Path, response: str) -> Iterator[str]:
    """The address of each page in turn."""
    if request.param == "ui":
        with serve_page(make_app(build_played_workspace(), Access())) as url:
            yield url
        return
    from look_again.pipeline.review.gradio_app import make_app as make_review

    with Ledger(tmp_path / "run") as ledger:
        prepare(ledger, response)
        with serve_page(make_review(ReviewSession(ledger, PEOPLE), ReviewAccess(PEOPLE))) as url:
            yield url


@pytest.fixture
def secret(tmp_path: Path) -> str:
    path = tmp_path / "secret.png"
    Image.new("RGB", (31, 17), "red").save(path)
    return str(path)


def cached() -> set[Path]:
    from gradio.utils import get_upload_folder

    return set(Path(get_upload_folder()).rglob("secret.png"))


def test_a_forged_file_is_taken_by_no_field(page, secret):
    """Gradio skips its check of uploads for pages that are mounted: any file was copied into its cache, to be read."""
    before = cached()
    with httpx.Client(base_url=page) as client:
        answers = dict(join_with(client, secret, "attacker"))
        assert len(answers) > 20
        taken = {name: answer.text for name, answer in answers.items() if answer.status_code != 400}
        assert taken == {}
        assert {answer.text for answer in answers.values()} == {"this page has no such file\n"}
    assert cached() == before


def test_answers_do_not_tell_which_paths_exist(page, secret):
    with httpx.Client(base_url=page) as client:
        for path in (secret, "/etc/passwd", "/no/such/file", "../../etc/passwd", "", "/", "a\0b"):
            (first, *_) = [answer for _, answer in join_with(client, path, "attacker")]
            assert (first.status_code, first.text) == (400, "this page has no such file\n")
            if "\0" in path:
                continue
            for address in (f"file={path}", f"file/{path}", f"proxy={path}", f"file=/gradio_api/file={path}"):
                answer = client.get(f"/gradio_api/{address}")
                assert (answer.status_code, answer.text) == (404, "there is nothing here\n"), address


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/gradio_api/deep_link?session_hash=attacker"),
        ("GET", "/?deep_link=../../../etc"),
        ("GET", "/config?deep_link=x"),
        ("GET", "/gradio_api/file=http://127.0.0.1:9/"),
        ("GET", "/gradio_api/proxy=https://example.org/"),
        ("GET", "/gradio_api/info"),
        ("GET", "/gradio_api/openapi.json"),
        ("GET", "/openapi.json"),
        ("POST", "/gradio_api/run/predict"),
        ("POST", "/gradio_api/api/predict"),
        ("POST", "/gradio_api/call/predict"),
        ("POST", "/gradio_api/call/v2/predict"),
        ("POST", "/gradio_api/component_server"),
        ("POST", "/gradio_api/process_recording"),
        ("POST", "/gradio_api/vibe-edit"),
        ("GET", "/gradio_api/vibe-code"),
        ("GET", "/gradio_api/upload_progress?upload_id=x"),
        ("GET", "/gradio_api/queue/status"),
        ("GET", "/gradio_api/stream/a/b/c/playlist.m3u8"),
        ("GET", "/gradio_api/custom_component/a/client/component/x"),
        ("GET", "/gradio_api/dev/reload"),
        ("GET", "/gradio_api/token"),
        ("GET", "/monitoring"),
        ("GET", "/monitoring/summary"),
        ("PUT", "/"),
        ("DELETE", "/config"),
        ("GET", "/assets/%2e%2e/config"),
        ("GET", "/static/%2e%2e/%2e%2e/config"),
        ("GET", "//gradio_api/deep_link"),
        ("GET", "/gradio_api/deep_link/"),
    ],
)
def test_what_the_pages_do_not_use_is_closed(page, method, path):
    with httpx.Client(base_url=page) as client:
        request = client.build_request(method, page + path)
        request.url = httpx.URL(page + path)
        answer = client.send(request)
        assert (answer.status_code, answer.text) == (404, "there is nothing here\n")


def test_a_window_reads_its_own_events_alone(page):
    """Session names are short and drawn by the browser: whoever guesses one could read along."""
    with httpx.Client(base_url=page) as owner, httpx.Client(base_url=page) as other:
        config = owner.get("/config").json()
        other.get("/")
        body = {"data": [], "fn_index": config["dependencies"][0]["id"], "session_hash": "mine"}
        assert owner.post("/gradio_api/queue/join", json=body).status_code != 403
        assert other.post("/gradio_api/queue/join", json=body).status_code == 403
        assert other.get("/gradio_api/queue/data", params={"session_hash": "mine"}).status_code == 403


def test_an_upload_is_the_uploaders_alone():
    app = make_app(build_played_workspace(), Access())
    with serve_page(app) as page, httpx.Client(base_url=page) as owner, httpx.Client(base_url=page) as other:
        owner.get("/")
        other.get("/")
        (path,) = owner.post("/gradio_api/upload", files={"files": ("a.png", b"mine", "image/png")}).json()
        assert owner.get(f"/gradio_api/file={path}").content == b"mine"
        assert other.get(f"/gradio_api/file={path}").status_code == 404
        outcomes = {}
        for client, name in ((other, "b"), (owner, "a")):
            outcomes[name] = {answer.status_code for _, answer in join_with(client, path, name)}
        assert outcomes["b"] == {400}
        assert 200 in outcomes["a"]


def test_uploads_are_bounded_before_they_are_read():
    with serve_page(make_app(build_played_workspace(), Access())) as page, httpx.Client(base_url=page) as client:
        many = [("files", (f"{i}.png", b"x" * 2**20, "image/png")) for i in range(40)]
        answer = client.post("/gradio_api/upload", files=many)
        assert answer.status_code == 413
        form = {"content-type": "multipart/form-data; boundary=x"}
        assert client.post("/gradio_api/upload", content=iter([b"x"] * 3), headers=form).status_code == 411
        assert client.post("/login", data={"username": "x" * 10**5, "password": "y"}).status_code == 413


def test_the_review_page_takes_no_uploads(tmp_path, response):
    from look_again.pipeline.review.gradio_app import make_app as make_review

    with Ledger(tmp_path / "run") as ledger:
        prepare(ledger, response)
        app = make_review(ReviewSession(ledger, PEOPLE), ReviewAccess(PEOPLE))
        with serve_page(app) as page:
            answer = httpx.post(f"{page}/gradio_api/upload", files={"files": ("a.png", b"x", "image/png")})
            assert (answer.status_code, json.dumps(answer.text)) == (404, '"there is nothing here\\n"')


@pytest.fixture
def closed_page() -> Iterator[str]:
    """The page of questions behind a password."""
    access = build_access("127.0.0.1", ["correct horse"])
    with serve_page(make_app(build_played_workspace(), access)) as url:
        yield url


def log_in(url: str, password: str, **headers: str) -> int:
    return httpx.post(f"{url}/login", data={"username": "a", "password": password}, headers=headers).status_code


def test_no_header_names_another_address_for_a_try_of_the_password(closed_page):
    """uvicorn believes X-Forwarded-For of whoever is on this machine: 40 tries of a locked address were answered."""
    while log_in(closed_page, "wrong") != 429:
        pass
    forwarded = {"X-Forwarded-For": "10.0.0.7", "Forwarded": "for=10.0.0.7", "X-Real-IP": "10.0.0.7"}
    assert log_in(closed_page, "wrong", **forwarded) == 429
    assert log_in(closed_page, "correct horse", **forwarded) == 429


@pytest.mark.parametrize("kind", ["multipart/form-data; boundary=b", "application/x-www-form-urlencoded"])
def test_a_form_in_chunks_is_not_read(closed_page, kind):
    """A length beside the chunks was believed: a stranger could fill the disk through the login."""
    sent = []

    def chunks() -> Iterator[bytes]:
        for _ in range(64):
            sent.append(2**16)
            yield b"x" * 2**16

    headers = {"content-type": kind, "transfer-encoding": "chunked", "content-length": "10"}
    with httpx.Client() as client:
        request = client.build_request("POST", f"{closed_page}/login", content=chunks(), headers=headers)
        request.headers["content-length"] = "10"
        try:
            assert client.send(request).status_code in (400, 411, 413)
        except httpx.WriteError:  # it hung up meanwhile
            assert sum(sent) < 2**22


def test_a_heartbeat_needs_a_login(closed_page):
    answer = httpx.get(f"{closed_page}/gradio_api/heartbeat/window", timeout=5)
    assert (answer.status_code, answer.text) == (401, "log in first\n")
    with httpx.Client(base_url=closed_page) as client:
        client.post("/login", data={"username": "a", "password": "correct horse"})
        with client.stream("GET", "/gradio_api/heartbeat/window", timeout=5) as beat:
            assert beat.status_code == 200


@pytest.mark.parametrize(
    ("address", "body"),
    [
        ("session_hash=attacker&session_hash=victim", None),
        ("session_hash=victim&session_hash=attacker", None),
        ("session_hash=victim", {"session_hash": "attacker"}),
        ("session_hash=attacker", {"session_hash": "victim"}),
        ("session_hash=%76ictim", None),
        ("session_hash=" + "v" * 201, None),
    ],
)
def test_another_browsers_window_is_not_named_beside_ones_own(page, address, body):
    """The first of two names was checked and the last one read; a body took the place of the address."""
    with httpx.Client(base_url=page) as victim:
        join = {"data": [], "fn_index": 0, "session_hash": "victim", "event_data": None}
        victim.post("/gradio_api/queue/join", json=join)
    with httpx.Client(base_url=page) as attacker:
        content = None if body is None else json.dumps(body).encode()
        headers = {} if body is None else {"content-type": "application/json"}
        answer = attacker.request(
            "GET", f"/gradio_api/queue/data?{address}", content=content, headers=headers, timeout=10
        )
    assert answer.status_code in (400, 403)
    assert "window" in answer.text


def test_requests_of_strangers_push_no_uploads_out(closed_page, monkeypatch):
    """2,010 requests without a cookie made the page forget the uploads of all who were logged in."""
    monkeypatch.setattr("look_again.web.page_sessions.SESSIONS", 3)
    picture = encoded_image(size=(12, 8))
    with httpx.Client(base_url=closed_page) as user:
        user.post("/login", data={"username": "a", "password": "correct horse"})
        (stored,) = user.post("/gradio_api/upload", files={"files": ("a.png", picture, "image/png")}).json()
        for _ in range(20):
            httpx.get(f"{closed_page}/nothing")
            httpx.get(f"{closed_page}/config")
        assert user.get(f"/gradio_api/file={stored}").content == picture


@pytest.mark.parametrize(
    "body",
    [
        b'{"data": [NaN]}',
        b'{"data": [-Infinity]}',
        b'{"data": [1e999]}',
        b'{"data": [' + b"9" * 400 + b"]}",
        b'{"data": ["\\ud800"]}',
        b'{"data": ["\xed\xa0\x80"]}',
        b'{"\\udfff": 1}',
        b'"\xff"',
    ],
)
def test_values_that_gradio_cannot_handle_do_not_reach_it(page, body):
    headers = {"content-type": "application/json"}
    answer = httpx.post(f"{page}/gradio_api/queue/join", content=body, headers=headers)
    assert answer.status_code == 400


def test_events_that_wait_are_bounded(monkeypatch):
    """Each one that comes is told to all that wait: 400 of them left 67,000 messages."""
    monkeypatch.setattr("look_again.ui.page.MAX_WAITING", 0)
    with serve_page(make_app(build_played_workspace(), Access())) as url, httpx.Client(base_url=url) as client:
        fn = client.get("/config").json()["dependencies"][0]["id"]
        join = {"data": [], "fn_index": fn, "session_hash": "waiting", "event_data": None}
        assert client.post("/gradio_api/queue/join", json=join).status_code == 503
