"""The page over HTTP: it is put together, loads nothing from elsewhere, and lets nobody in who may not."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import re

import pytest

from look_again.commands.main import main
from look_again.extras import MissingExtraError
from look_again.pipeline.ledger.ledger import Ledger
from look_again.pipeline.review.reviewers import ReviewAccess
from look_again.pipeline.review.session import ReviewSession
from look_again.web.access import build_access
from tests.pipeline.review.review_runs import PEOPLE, prepare

NAMES = ["la-accept", "la-reject", "la-edit", "la-undo", "la-earlier", "la-later", "la-save", "la-leave", "la-reset"]


@pytest.fixture
def session(tmp_path, response):
    with Ledger(tmp_path) as ledger:
        prepare(ledger, response)
        yield ReviewSession(ledger, PEOPLE)


def talk(app, *requests):
    """(status, headers, text) of each (method, path, options), in one session."""
    httpx = pytest.importorskip("httpx")

    async def go():
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:7860") as client:
            answers = [await client.request(method, path, **options) for method, path, options in requests]
        return [(answer.status_code, answer.headers, answer.text) for answer in answers]

    return asyncio.run(go())


@pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason="needs the extra ui")
def test_the_page_is_whole_and_fetches_nothing(session):
    from look_again.pipeline.review.gradio_app import make_app

    app = make_app(session, ReviewAccess(PEOPLE))
    page, config, foreign, framed = talk(
        app,
        ("GET", "/", {}),
        ("GET", "/config", {}),
        ("GET", "/", {"headers": {"host": "evil.example"}}),
        ("POST", "/gradio_api/queue/join", {"headers": {"origin": "http://evil.example"}, "json": {}}),
    )
    assert page[0] == 200
    assert "default-src 'self'" in page[1]["content-security-policy"]
    assert "la-section" in page[2]
    assert not re.findall(r'<(?:script|link)[^>]+(?:src|href)="(?:https?:)?//(?!127\.0\.0\.1)[^"]*', page[2])
    made = json.loads(config[2])
    assert made["analytics_enabled"] is False
    ids = {part["props"].get("elem_id") for part in made["components"]}
    assert ids >= {*NAMES, "la-editor", "la-note"}
    assert all(event["api_visibility"] == "private" for event in made["dependencies"])
    assert (foreign[0], framed[0]) == (403, 403)


@pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason="needs the extra ui")
def test_a_password_is_asked_for(session):
    from look_again.pipeline.review.gradio_app import make_app

    access = ReviewAccess(("ann",), build_access("0.0.0.0", ["correct horse"]))

    def login(name, password):
        return ("POST", "/login", {"data": {"username": name, "password": password}})

    no, wrong, stranger, right, yes = talk(
        make_app(session, access),
        ("GET", "/config", {}),
        login("ann", "wrong horse"),
        login("eve", "correct horse"),
        login("ann", "correct horse"),
        ("GET", "/config", {}),
    )
    assert [answer[0] for answer in (no, wrong, stranger, right, yes)] == [401, 400, 400, 200, 200]
    assert "correct horse" not in yes[2]


def test_without_gradio_the_extra_is_named(session, monkeypatch):
    from look_again.pipeline.review import gradio_app

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"this needs gradio: pip install 'look-again-vlm\[ui\]'"):
        gradio_app.make_app(session, ReviewAccess(PEOPLE))


CONFIG = """
flow: distilled
endpoints: [{name: any, base_url: "http://127.0.0.1:9/v1", model: m, key_env: NOT_SET_ANYWHERE}]
distil: {model: any}
panel: {judges: [any], threshold: 1}
writer: any
reviewers: [ann, bob]
"""


def test_rows_are_taken_over_without_the_endpoints_keys(tmp_path, session, capsys):
    """Reviewers have none; and a row that came since has to be on the page."""
    session.act("ann", session.next("ann").seen, "reject")
    session.ledger.apply([("DELETE FROM results WHERE stage = 'review'", ())])
    (tmp_path / "run.yaml").write_text(CONFIG)
    assert main(["data", "review", str(tmp_path), "--config", str(tmp_path / "run.yaml"), "--no-page"]) == 0
    assert "5 rows, 0 go on, 1 rejected, 4 wait for people" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--host", "0.0.0.0"], "can be reached from other machines"),
        (["--host", "0.0.0.0", "--password-env", "NOT_SET_ANYWHERE"], "$NOT_SET_ANYWHERE holds no password"),
        (["--reviewer", "eve", "--share-of", "ann", "bob"], "'eve' is not one of those who share the rows: ann, bob"),
        (["--share-of", "ann", "ann"], "each once"),
    ],
)
def test_the_command_says_what_is_wrong(tmp_path, capsys, arguments, reason):
    with Ledger(tmp_path):
        pass
    assert main(["data", "review", str(tmp_path), *arguments]) == 2
    assert reason in capsys.readouterr().err


def test_a_folder_without_a_run_is_refused(tmp_path, capsys):
    assert main(["data", "review", str(tmp_path / "none")]) == 2
    assert "holds no run" in capsys.readouterr().err
