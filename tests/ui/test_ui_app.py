"""The page over HTTP: it is whole, loads nothing from elsewhere, and lets nobody in who may not."""

from __future__ import annotations

import asyncio
import importlib.util
import re

import pytest
from PIL import Image
from test_ui_desk import Played
from ui_answers import ANSWER, events_of

from lookagain.cli import main
from lookagain.extras import MissingExtraError
from lookagain.serving.backend import BackendError, RefusedError
from lookagain.ui.app import Entrance, entrance_of, make_app
from lookagain.ui.desk import Desk
from lookagain.ui.shelf import shown_png

needs_gradio = pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason="needs the extra ui")


def desk_of() -> Desk:
    return Desk(Played(lambda job: events_of(ANSWER)))


def talk(app, *requests):
    """(status, headers, content) of each (method, path, options), in one session."""
    httpx = pytest.importorskip("httpx")

    async def go():
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:7861") as client:
            answers = [await client.request(method, path, **options) for method, path, options in requests]
        return [(answer.status_code, answer.headers, answer.content) for answer in answers]

    return asyncio.run(go())


@needs_gradio
def test_the_page_is_whole_and_fetches_nothing():
    app = make_app(desk_of(), Entrance())
    page, config, foreign, other, docs = talk(
        app,
        ("GET", "/", {}),
        ("GET", "/config", {}),
        ("GET", "/", {"headers": {"host": "evil.example"}}),
        ("GET", "/looks/x", {"headers": {"origin": "http://evil.example"}}),
        ("GET", "/gradio_api/info", {}),
    )
    assert page[0] == config[0] == 200
    text = config[2].decode()
    for name in ("la-picture", "la-question", "la-modes", "la-ask", "la-stop", "la-keep", "la-examples"):
        assert f'"{name}"' in text
    outside = re.findall(r"(?:src|href)=\"(https?://[^\"]+)", page[2].decode())
    assert [url for url in outside if "127.0.0.1" not in url] == []
    assert "fonts.googleapis" not in page[2].decode() + text
    assert foreign[0] == other[0] == 403
    assert "default-src 'self'" in page[1]["content-security-policy"]
    assert docs[0] != 200 or b"/ask" not in docs[2]


@needs_gradio
def test_pictures_and_scenes_are_found_by_their_names():
    desk = desk_of()
    key = desk.pictures.put((shown_png(Image.new("RGB", (30, 20))), (30, 20)))
    kept, gone, scene, no_scene, odd = talk(
        make_app(desk, Entrance()),
        ("GET", f"/pictures/{key}", {}),
        ("GET", "/pictures/other", {}),
        ("GET", "/scenes/0/3", {}),
        ("GET", "/scenes/0/99", {}),
        ("GET", "/scenes/a/b", {}),
    )
    assert (kept[0], kept[1]["content-type"], kept[2][:4]) == (200, "image/png", b"\x89PNG")
    assert "private" in kept[1]["cache-control"]
    assert (scene[0], scene[2][:4]) == (200, b"\x89PNG")
    assert (gone[0], no_scene[0], odd[0]) == (404, 404, 422)


@needs_gradio
@pytest.mark.parametrize(
    ("outcome", "status", "said"),
    [
        (None, 404, "ask again"),
        (RefusedError("no model here"), 400, "no model here"),
        (BackendError("gone"), 503, "gone"),
        ({"layers": 2}, 200, "layers"),
    ],
)
def test_what_measuring_says(outcome, status, said):
    desk = desk_of()

    async def looks(key, layer):
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    desk.looks = looks
    answer, wrong = talk(
        make_app(desk, Entrance()), ("GET", "/looks/key?layer=1", {}), ("GET", "/looks/key?layer=x", {})
    )
    assert answer[0] == status
    assert said in answer[2].decode()
    assert wrong[0] == 400


@needs_gradio
def test_a_password_keeps_others_out():
    entrance = Entrance("0.0.0.0", "correct horse")
    config, wrong, right = talk(
        make_app(desk_of(), entrance),
        ("GET", "/config", {}),
        ("POST", "/login", {"data": {"username": "ann", "password": "wrong horse"}}),
        ("POST", "/login", {"data": {"username": "ann", "password": "correct horse"}}),
    )
    assert (config[0], wrong[0], right[0]) == (401, 400, 200)
    assert not Entrance().login("ann", "")


def test_only_this_machine_without_a_password(tmp_path):
    file = tmp_path / "password"
    assert entrance_of("127.0.0.1", None) == Entrance("127.0.0.1")
    with pytest.raises(ValueError, match="--password-file"):
        entrance_of("0.0.0.0", None)
    file.write_text("correct horse \nsecond line\n")
    assert entrance_of("0.0.0.0", file) == Entrance("0.0.0.0", "correct horse")
    for short in ("", "short\n"):
        file.write_text(short)
        with pytest.raises(ValueError, match="no password of at least 8"):
            entrance_of("0.0.0.0", file)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--host", "0.0.0.0"], "--password-file"),
        (["--backend", "vllm"], "--backend vllm and --vllm-url go together"),
        (["--vllm-url", "http://a"], "--backend vllm and --vllm-url go together"),
    ],
)
@needs_gradio
def test_the_command_refuses_before_it_loads_a_model(arguments, said, capsys):
    assert main(["ui", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_without_gradio_the_command_names_the_extra(monkeypatch, capsys):
    def missing(package, *, extra):
        raise MissingExtraError(f"this needs {package}: pip install 'lookagain-vlm[{extra}]'")

    monkeypatch.setattr("lookagain.extras.require", missing)
    assert main(["ui"]) == 2
    assert "lookagain-vlm[ui]" in capsys.readouterr().err
