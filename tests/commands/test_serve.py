"""`look-again serve`: what is said before anything is loaded, the line it starts with, its documentation, its
client."""

from __future__ import annotations

import argparse
import base64
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from look_again.commands import serve
from look_again.commands.main import main
from tests.serving.http.served import FakeBackend, running

REPOSITORY = Path(__file__).parents[2]


def parser():
    made = argparse.ArgumentParser()
    serve.add_arguments(made)
    return made


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--backend", "vllm"], "--vllm-url"),
        (["--vllm-url", "http://x"], "--backend vllm"),
        (["--vllm-only"], "--backend vllm"),
        (["--backend", "vllm", "--vllm-url", "nonsense"], "http://HOST:PORT, not 'nonsense'"),
        (["--backend", "vllm", "--vllm-url", "http://ann:s3cret@x"], "vLLM server at 'x'"),
        (["--port", "70000"], "65535"),
        (["--temperature", "3"], "temperature"),
        (["--max-images", "-1"], "images"),
        (["--timeout-s", "nan"], "timeout_s"),
        (["--host", "192.0.2.1"], "cannot listen"),
        (["--allow-image-host", "http://x/y"], "image host"),
        (["--api-keys", "nowhere.txt"], "nowhere.txt"),
    ],
)
def test_bad_arguments_are_one_line_before_the_model_is_loaded(arguments, said, capsys):
    assert main(["serve", "--port", "0", *arguments]) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert "s3cret" not in captured.err
    assert "loading" not in captured.err
    assert captured.out == ""


def test_a_port_that_is_taken(capsys):
    """Said after a large model was loaded, it would cost minutes."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "--port", str(port)]) == 2
    assert f"port {port}" in capsys.readouterr().err


def test_short_keys_are_refused(capsys, monkeypatch):
    monkeypatch.setenv("LOOK_AGAIN_API_KEY", "short")
    assert main(["serve", "--port", "0"]) == 2
    assert "16" in capsys.readouterr().err


def test_every_option_and_its_default_is_documented():
    text = (REPOSITORY / "docs" / "serve.md").read_text(encoding="utf-8")
    for action in parser()._actions:
        flag = action.option_strings[-1]
        assert flag == "--help" or f"`{flag}`" in text, flag
    for flag, default in (
        ("max_body_bytes", serve.DEFAULT.body_bytes),
        ("default_tokens", serve.DEFAULT.default_tokens),
    ):
        assert f"`--{flag.replace('_', '-')}` | {default}" in text


def test_the_first_line_can_be_pasted_and_shows_a_picture(tmp_path, monkeypatch):
    """The command said "Hello" without a picture to a model that answers questions about pictures."""
    shutil.copy(REPOSITORY / serve.SAMPLE, tmp_path / "picture.png")
    monkeypatch.chdir(tmp_path)
    with running(FakeBackend()) as server:
        line = serve._first_line(server.base, "fake", keys=False, question="What's on it?")
        body, post = line.split("try: ")[1].split(" | curl ")
        sent = subprocess.run(["sh", "-c", body], capture_output=True, text=True, check=True, timeout=60).stdout
        url, *options = shlex.split(post)
        assert options == ["-H", "Content-Type: application/json", "--data-binary", "@-"]
        answer = httpx.post(url, content=sent, headers={"Content-Type": "application/json"}, timeout=60)
    assert answer.status_code == 200, answer.text
    image, text = json.loads(sent)["messages"][0]["content"]
    assert base64.b64decode(image["image_url"]["url"].split(",")[1]) == (tmp_path / "picture.png").read_bytes()
    assert text["text"] == "What's on it?"


def test_the_first_line_names_what_is_there(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    line = serve._first_line("http://127.0.0.1:1", "a-model", keys=True, question="How many?")
    assert f"base64 < {serve.SAMPLE} |" in line
    assert "Authorization: Bearer KEY" in line
    assert "\n" not in line


def test_the_example_client_runs_as_it_is():
    with running(FakeBackend()) as server:
        environment = {**os.environ, "LOOK_AGAIN_URL": f"{server.base}/v1"}
        command = [sys.executable, str(REPOSITORY / "examples" / "serve_client.py")]
        made = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert made.returncode == 0, made.stderr
    assert "looks again: 4 visual tokens put back" in made.stdout
    assert "1 cube" in made.stdout
