"""The page over HTTP: it is whole, loads nothing from elsewhere, and lets nobody in who may not."""

from __future__ import annotations

import asyncio
import importlib.util
import re

import pytest
from PIL import Image

from look_again.commands.main import main
from look_again.extras import MissingExtraError
from look_again.serving.backend import BackendError, RefusedError
from look_again.ui.app import make_app, read_access
from look_again.ui.kept_answers import shown_png
from look_again.ui.page import make_page
from look_again.web.access import Access, build_access
from tests.ui.ui_answers import build_played_workspace

needs_gradio = pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason="needs the extra ui")


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
    app = make_app(build_played_workspace(), Access())
    page, config, foreign, other, docs = talk(
        app,
        ("GET", "/", {}),
        ("GET", "/config", {}),
        ("GET", "/", {"headers": {"host": "evil.example"}}),
        ("GET", "/attention_maps/x", {"headers": {"origin": "http://evil.example"}}),
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
def test_pictures_are_found_by_their_names():
    workspace = build_played_workspace()
    key = workspace.images.put((shown_png(Image.new("RGB", (30, 20))), (30, 20)))
    kept, gone = talk(
        make_app(workspace, Access()),
        ("GET", f"/images/{key}", {}),
        ("GET", "/images/other", {}),
    )
    assert (kept[0], kept[1]["content-type"], kept[2][:4]) == (200, "image/png", b"\x89PNG")
    assert "private" in kept[1]["cache-control"]
    assert gone[0] == 404


def asking(workspace, image=None, question="How many?", video=None):
    """A request that presses Ask with these in the fields."""
    listeners = make_page(workspace).config["dependencies"]
    ask = next(listener["id"] for listener in listeners if len(listener["inputs"]) == 8)
    data = [image, question, ["text"], 50, 0, 0, 10, video]
    return "POST", "/gradio_api/queue/join", {"json": {"data": data, "fn_index": ask, "session_hash": "w"}}


@needs_gradio
def test_no_field_makes_the_server_fetch_a_file():
    """Gradio downloads what a file's path names, also in a field that takes text."""
    workspace = build_played_workspace()
    there, elsewhere = (
        {"path": path, "meta": {"_type": "gradio.FileData"}} for path in ("/tmp/a.png", "https://example.org/a.png")
    )
    not_uploaded, image, text, video, plain = talk(
        make_app(workspace, Access()),
        asking(workspace, there),
        asking(workspace, elsewhere),
        asking(workspace, question=elsewhere),
        asking(workspace, video=elsewhere),
        asking(workspace, question="What is on https://example.org/a.png?"),
    )
    assert (not_uploaded[0], plain[0]) == (400, 200)
    for answer in (image, text, video):
        assert (answer[0], answer[2]) == (400, b"files are uploaded; this page fetches none\n")


@needs_gradio
def test_the_picture_field_keeps_its_own_way_to_read_uploads():
    """Gradio makes a skipped field anew, without it: only what fills picture and question may touch the picture."""
    config = make_page(build_played_workspace()).config
    (field,) = (part["id"] for part in config["components"] if part["props"].get("elem_id") == "la-picture")
    (scenes,) = (part["id"] for part in config["components"] if part["props"].get("elem_id") == "la-examples")
    changing = [listener["outputs"] for listener in config["dependencies"] if field in listener["outputs"]]
    (question,) = (part["id"] for part in config["components"] if part["props"].get("elem_id") == "la-question")
    assert changing == [[field, question]] * 2  # a chosen scene, and the first one
    assert scenes not in changing[0]


@needs_gradio
def test_whatever_is_pressed_takes_a_way_that_the_page_answers():
    """Gradio sends an event without a queue to an address of its own, which is refused: Stop stopped nothing."""
    listeners = make_page(build_played_workspace()).config["dependencies"]
    assert [listener["id"] for listener in listeners if listener["queue"] is False] == []


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
    workspace = build_played_workspace()

    async def attention_maps(key, layer):
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    workspace.attention_maps = attention_maps
    address = "/attention_maps/key?layer="
    answer, wrong = talk(make_app(workspace, Access()), ("GET", f"{address}1", {}), ("GET", f"{address}x", {}))
    assert answer[0] == status
    assert said in answer[2].decode()
    assert wrong[0] == 400


@needs_gradio
def test_a_password_keeps_others_out():
    access = build_access("0.0.0.0", ["correct horse"])
    config, scene, wrong, right = talk(
        make_app(build_played_workspace(), access),
        ("GET", "/config", {}),
        ("GET", "/scenes/0/3", {}),  # an example, drawn for whoever asked
        ("POST", "/login", {"data": {"username": "ann", "password": "wrong horse"}}),
        ("POST", "/login", {"data": {"username": "ann", "password": "correct horse"}}),
    )
    assert (config[0], wrong[0], right[0]) == (401, 400, 200)
    assert scene[0] != 200
    assert not Access().knows("")


def test_only_this_machine_without_a_password(tmp_path):
    file = tmp_path / "password"
    assert read_access("127.0.0.1", None) == build_access("127.0.0.1")
    with pytest.raises(ValueError, match="--password-file"):
        read_access("0.0.0.0", None)
    file.write_text("correct horse \nsecond line\n")
    assert read_access("0.0.0.0", file) == build_access("0.0.0.0", ["correct horse"])
    for short in ("", "short\n"):
        file.write_text(short)
        with pytest.raises(ValueError, match="no password of at least 8"):
            read_access("0.0.0.0", file)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--host", "0.0.0.0"], "--password-file"),
        (["--port", "70000"], "a port is a number from 0 to 65535, not 70000"),
        (["--backend", "vllm"], "--backend vllm and --vllm-url go together"),
        (["--vllm-url", "http://a"], "--backend vllm and --vllm-url go together"),
        (["--backend", "vllm", "--vllm-url", "http://me:secret@a"], "holds a user or a password"),
    ],
)
@needs_gradio
def test_the_command_refuses_before_it_loads_a_model(arguments, said, capsys):
    assert main(["ui", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_without_gradio_the_command_names_the_extra(monkeypatch, capsys):
    def missing(package, *, extra):
        raise MissingExtraError(f"this needs {package}: pip install 'look-again-vlm[{extra}]'")

    monkeypatch.setattr("look_again.extras.require", missing)
    assert main(["ui"]) == 2
    assert "look-again-vlm[ui]" in capsys.readouterr().err
