"""The question as code: each snippet is run, against stand-ins, and has to ask exactly what was asked."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
from PIL import Image

from look_again.core.reattention import Reattention
from look_again.model import Sampling
from look_again.ui.question import UserQuestion
from look_again.ui.snippets import code_html, curl_code, openai_code, python_code

QUESTIONS = [
    "How many?",
    'quotes " and \' and """ \\n',
    "$(touch hit) `touch hit` ${HOME} \\ END\nEND\n",
    "emoji 🙂 日本 \u2028 </script>",
]
IMAGE = Image.new("RGB", (60, 60))
ROUTE = Reattention(mode="route", keep=30)


def question(text: str, picture: Image.Image | None = IMAGE, **sampling: object) -> UserQuestion:
    return UserQuestion(picture, text, Sampling(**sampling))  # type: ignore[arg-type]


@pytest.mark.parametrize("text", QUESTIONS)
def test_python_asks_the_same(text, monkeypatch):
    calls = []

    class Model:
        def ask(self, images, question, **options):
            calls.append((images, question, options))
            return SimpleNamespace(answer="", response="")

    import look_again

    monkeypatch.setitem(look_again.__dict__, "load", lambda *name: calls.append(name) or Model())
    exec(python_code(question(text, temperature=0.7, seed=3, max_new_tokens=64), ROUTE, "org/name"), {})
    sampling = Sampling(max_new_tokens=64, temperature=0.7, seed=3)
    assert calls == [("org/name",), ("picture.png", text, {"reattention": ROUTE, "sampling": sampling})]


@pytest.mark.parametrize("text", QUESTIONS)
def test_the_openai_client_asks_the_same(text, monkeypatch, tmp_path):
    sent = []

    class Client:
        def __init__(self, **given):
            self.chat = SimpleNamespace(completions=SimpleNamespace(create=self.create))

        def create(self, **given):
            sent.append(given)
            return SimpleNamespace(choices=[SimpleNamespace(message=SimpleNamespace(content=""))])

    monkeypatch.setitem(sys.modules, "openai", SimpleNamespace(OpenAI=Client))
    monkeypatch.chdir(tmp_path)
    IMAGE.save("picture.png")
    exec(openai_code(question(text), ROUTE, None), {})
    ((image, asked),) = [message["content"] for message in sent[0]["messages"]]
    assert asked == {"type": "text", "text": text}
    assert base64.b64decode(image["image_url"]["url"].split(",")[1]) == (tmp_path / "picture.png").read_bytes()
    assert sent[0]["extra_body"] == {"look_again": {"reattention": "route", "keep": 30}}
    assert (sent[0]["model"], sent[0]["temperature"], sent[0]["max_tokens"]) == ("tabletop-tiny", 0.0, 1024)


@pytest.mark.parametrize("text", QUESTIONS)
def test_curl_asks_the_same(text, tmp_path):
    """Nothing of a question is run by the shell, and nothing of it is changed on the way."""
    IMAGE.save(tmp_path / "picture.png")
    code = f"curl() {{ cat; }}\n{curl_code(question(text), Reattention(mode='copy'), 'm')}"
    done = subprocess.run(["bash", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    body = json.loads(done.stdout)
    image, asked = body["messages"][0]["content"]
    assert asked["text"] == text
    assert base64.b64decode(image["image_url"]["url"].split(",")[1]) == (tmp_path / "picture.png").read_bytes()
    assert body["look_again"] == {"reattention": "copy"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["picture.png"]


def test_without_a_picture_nothing_is_read():
    for code in (python_code, openai_code, curl_code):
        assert "picture" not in code(question("How many?", None), Reattention(mode="text"), None)


def test_another_layout_is_said():
    strip = Reattention(mode="route", keep=30, layout="strip")
    assert "layout='strip'" in python_code(question("a"), strip, None)
    assert '"layout": "strip"' in curl_code(question("a"), strip, None)


def test_code_on_the_page_is_text():
    html = code_html(question("</pre><script>${x}{{y}}"), ROUTE, None)
    assert "<script" not in html
    assert "${" not in html
