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
from look_again.web.access import Access
from tests.pipeline.review.review_runs import PEOPLE, prepare
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
