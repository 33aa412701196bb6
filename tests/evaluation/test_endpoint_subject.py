"""An endpoint as the model under test and as a judge, against a server of the standard library."""

from __future__ import annotations

import base64
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image

from look_again.clients.openai import Endpoint
from look_again.commands.main import main
from look_again.evaluation.benchmark import BenchmarkItem
from look_again.evaluation.endpoint_subject import (
    GIVE_UP_AFTER,
    EndpointJudge,
    EndpointSubject,
    endpoint_settings,
    greedy_endpoint,
)
from look_again.evaluation.run import means
from look_again.evaluation.run_folder import RunFolder, whole_lines
from look_again.evaluation.subjects import PREFIX_FACT


class Server(ThreadingHTTPServer):
    """Answers by what is asked: "busy" fails once with 503, "bad" is refused, "down" always fails."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.bodies: list[dict] = []
        self.keys: list[str | None] = []
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        content = body["messages"][0]["content"]
        text = content if isinstance(content, str) else content[-1]["text"]
        with self.server.lock:
            before = sum(one == body for one in self.server.bodies)
            self.server.bodies.append(body)
            self.server.keys.append(self.headers["Authorization"])
        if self.path != "/v1/chat/completions":
            return self.send(200, {"hello": "world"})
        if "down" in text or ("busy" in text and not before):
            return self.send(503, {"error": {"message": "busy"}})
        for word, status, said in (("locked", 403, "no entry"), ("crowded", 429, "slower")):
            if word in text:
                return self.send(status, {"error": {"message": said}})
        if "quota" in text:
            return self.send(200, {"error": {"message": "no quota"}})
        if "parts" in text:
            return self.send(200, {"choices": [{"message": {"content": [{"text": "x"}]}}]})
        if "garbage" in text:
            self.wfile.write(b"\x00\xffnot http at all\r\n\r\n")
            self.close_connection = True
            return None
        if "hang up" in text:
            self.close_connection = True
            return None
        if "unauthorised" in text:
            return self.send(401, {"error": {"message": "who are you"}})
        if "bad" in text:
            return self.send(400, {"error": {"message": "too long \ud83d"}})
        said = f"<CAPTION>c</CAPTION><CONCLUSION>{text[::-1]}</CONCLUSION>" if "tags" in text else text[::-1]
        message = {"role": "assistant", "content": said + "\ud83d" * ("surrogate" in text)}
        counts = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
        return self.send(
            200,
            {
                "id": "1",
                "object": "chat.completion",
                "created": 0,
                "model": "m",
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                "usage": dict.fromkeys(counts) if "uncounted" in text else counts,
            },
        )

    def send(self, status: int, body: dict) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("retry-after-ms", "1")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args) -> None:
        pass


@pytest.fixture
def server(monkeypatch):
    for name in ("LOOK_AGAIN_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    server = Server()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def endpoint(server, **changed) -> Endpoint:
    return greedy_endpoint(**{"base_url": server.url, "model": "m", "max_new_tokens": 50, "retries": 1} | changed)


def test_answers_come_back_to_their_items(server):
    """Would catch replies mixed up between parallel requests, and an item asked although it is done."""
    items = [BenchmarkItem(id=f"q{i}", prompt=f"question {i} tags" if i % 2 else f"question {i}") for i in range(12)]
    outputs = dict(EndpointSubject(endpoint(server), concurrency=4).answers(items, {"q0", "q5"}))
    assert set(outputs) == set(range(12)) - {0, 5}
    assert outputs[2].text == "2 noitseuq"
    assert outputs[2].reply.final == "2 noitseuq"
    assert outputs[3].conclusion == "sgat 3 noitseuq"
    assert outputs[3].tokens == {"prompt": 7, "sampled": 3}
    assert len(server.bodies) == 10


def test_an_image_travels_as_a_data_url_before_the_text(server):
    image = Image.effect_noise((20, 10), 80).convert("RGB")
    dict(EndpointSubject(endpoint(server)).answers([BenchmarkItem(id="a", images=(image,), prompt="what?")], ()))
    shown, text = server.bodies[0]["messages"][0]["content"]
    head, data = shown["image_url"]["url"].split(",")
    assert head == "data:image/png;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).tobytes() == image.tobytes()
    assert text == {"type": "text", "text": "what?"}
    assert (server.bodies[0]["temperature"], server.bodies[0]["max_tokens"]) == (0.0, 50)


def test_a_bound_on_the_reasoning_is_sent_where_it_is_given(server):
    """Would catch a field that only LookAgain's server knows, sent to every endpoint."""
    for bound in (None, 9):
        dict(
            EndpointSubject(endpoint(server, max_reasoning_tokens=bound)).answers(
                [BenchmarkItem(id="a", prompt="?")], ()
            )
        )
    assert [body.get("max_reasoning_tokens", "absent") for body in server.bodies] == ["absent", 9]


def test_fields_of_the_request_can_be_added_and_taken_out(server):
    """Some endpoints refuse max_tokens or a temperature of 0."""
    changed = endpoint(server, request={"max_tokens": None, "max_completion_tokens": 9, "seed": 1})
    dict(EndpointSubject(changed).answers([BenchmarkItem(id="a", prompt="what?")], ()))
    assert {"max_completion_tokens": 9, "seed": 1}.items() <= server.bodies[0].items()
    assert "max_tokens" not in server.bodies[0]
    assert endpoint_settings(changed)["request"] == {
        "model": "m", "temperature": 0.0, "max_completion_tokens": 9, "seed": 1, "messages": None,
    }  # fmt: skip


def test_what_fails_for_a_while_is_tried_again_and_what_is_refused_is_counted(server, tmp_path):
    """Would catch a run that ends at one bad question, or a busy moment that becomes a wrong answer."""
    items = [
        BenchmarkItem(id="a", prompt="busy once"),
        BenchmarkItem(id="b", prompt="bad question"),
        BenchmarkItem(id="c", prompt="what?", images=(tmp_path / "gone.png",)),
    ]
    outputs = dict(EndpointSubject(endpoint(server)).answers(items, ()))
    assert outputs[0].text == "ecno ysub"
    assert "too long" in outputs[1].error
    assert "gone.png" in outputs[2].error


@pytest.mark.parametrize(("word", "shown"), [("quota", "no quota"), ("parts", "no chat completion")])
def test_a_reply_of_another_shape_is_tried_again_and_then_the_items_error(server, word, shown):
    """Would catch a run ended, or an item scored, by an error that comes with status 200."""
    items = [BenchmarkItem(id="a", prompt=word), BenchmarkItem(id="b", prompt="what?")]
    outputs = dict(EndpointSubject(endpoint(server)).answers(items, ()))
    assert shown in outputs[0].error
    assert outputs[1].text == "?tahw"
    assert len(server.bodies) == 3
    with pytest.raises(ConnectionError, match=shown):
        EndpointJudge(endpoint(server, retries=0))(word)


def test_half_a_surrogate_pair_is_kept_as_a_question_mark(server, tmp_path):
    """Would catch a reply, or a refusal, that no file can hold and that ends the run at that item every time."""
    items = [BenchmarkItem(id="a", prompt="surrogate"), BenchmarkItem(id="b", prompt="bad question")]
    with RunFolder(tmp_path, {}) as folder:
        for index, output in EndpointSubject(endpoint(server)).answers(items, ()):
            folder.add(items[index].id, output)
    kept = {line["id"]: line for line in whole_lines(tmp_path / "items.jsonl")}
    assert kept["a"]["text"] == "etagorrus?"
    assert "too long ?" in kept["b"]["error"]
    assert EndpointJudge(endpoint(server))("surrogate") == "etagorrus?"


def test_counts_that_the_endpoint_leaves_empty_are_left_out(server):
    """Would catch a null among the tokens, which ends the run when lengths are added up."""
    items = [BenchmarkItem(id="a", prompt="uncounted"), BenchmarkItem(id="b", prompt="what?")]
    outputs = dict(EndpointSubject(endpoint(server)).answers(items, ()))
    assert (outputs[0].text, outputs[0].tokens) == ("detnuocnu", {})
    assert means(outputs[index].tokens for index in range(2)).keys() == {"prompt", "sampled"}


def test_an_endpoint_that_is_down_ends_the_run(server):
    """Would catch an outage scored as wrong answers."""
    with pytest.raises(ConnectionError, match="busy"):
        dict(EndpointSubject(endpoint(server, retries=0)).answers([BenchmarkItem(id="a", prompt="down")], ()))
    shown = server.url.replace("//", "//user:s3cret@")
    with pytest.raises(ConnectionError, match="busy") as error:
        dict(
            EndpointSubject(endpoint(server, retries=0, base_url=shown)).answers(
                [BenchmarkItem(id="a", prompt="down")], ()
            )
        )
    assert "s3cret" not in str(error.value)
    subject = EndpointSubject(endpoint(server, base_url=server.url.removesuffix("/v1")))
    with pytest.raises(ConnectionError, match="lack /v1"):
        dict(subject.answers([BenchmarkItem(id="a", prompt="what?")], ()))


def test_the_key_comes_from_the_environment_and_is_written_nowhere(server, monkeypatch):
    item = BenchmarkItem(id="a", prompt="what?")
    dict(EndpointSubject(endpoint(server)).answers([item], ()))
    monkeypatch.setenv("LOOK_AGAIN_API_KEY", "s3cret")
    subject = EndpointSubject(endpoint(server, base_url=server.url.replace("//", "//user:s3cret@")))
    assert "s3cret" not in json.dumps(subject.settings)
    dict(EndpointSubject(endpoint(server)).answers([item], ()))
    assert server.keys == ["Bearer none", "Bearer s3cret"]


def test_a_continued_response_is_no_question_for_an_endpoint(server):
    with pytest.raises(ValueError, match="needs a checkpoint"):
        dict(
            EndpointSubject(endpoint(server)).answers([BenchmarkItem(id="a", prompt="?", facts={PREFIX_FACT: "<"})], ())
        )


def test_a_judge_replies_or_raises_an_os_error(server):
    judge = EndpointJudge(endpoint(server, retries=0))
    assert judge("rate this") == "siht etar"
    with pytest.raises(OSError, match="busy"):
        judge("down")


@pytest.mark.parametrize("word", ["bad", "locked"])
def test_a_judge_that_refuses_ends_the_scoring(server, word):
    """Would catch answers left unjudged, one by one, by an endpoint that takes no max_tokens or another key."""
    with pytest.raises(ValueError, match=r"(too long|no entry).*--judge-request"):
        EndpointJudge(endpoint(server, retries=0))(f"{word} rating")


def test_a_judge_that_is_too_busy_leaves_an_answer_unjudged(server):
    with pytest.raises(OSError, match="slower"):
        EndpointJudge(endpoint(server, retries=0))("crowded")


def test_a_bad_base_url_and_bad_fields_are_refused():
    with pytest.raises(ValueError, match="localhost:8000"):
        greedy_endpoint("localhost:8000/v1", "m", max_new_tokens=5)
    with pytest.raises(ValueError, match="JSON object"):
        greedy_endpoint("http://localhost", "m", max_new_tokens=5, request=[1])


def test_the_command_evaluates_an_endpoint(server, tmp_path, capsys):
    """End to end: Tabletop's questions to a server that knows no tags; planted responses are left out."""
    argv = ["eval", "tabletop", "--n", "3", "--base-url", server.url, "--model", "m", "--out", str(tmp_path), "--json"]
    assert main(argv) == 0
    result = json.loads(capsys.readouterr().out)
    assert list(result) == ["tabletop"]
    assert result["tabletop"]["counts"]["items"] == 3
    assert result["tabletop"]["metrics"]["accuracy"] == 0.0
    saved = json.loads((tmp_path / "tabletop" / "result.json").read_text())
    assert saved["config"]["subject"] == endpoint_settings(endpoint(server, max_new_tokens=512))
    assert len(server.bodies) == 3
    assert main(argv) == 0
    assert len(server.bodies) == 3


def test_items_without_a_reply_are_their_own_errors_once_the_endpoint_has_answered(server):
    """Would catch a run of thousands of items that one unlucky item ends, whatever the server sends for it."""
    words = ["down", "garbage", "hang up", "unauthorised"]
    items = [BenchmarkItem(id="first", prompt="what?"), *(BenchmarkItem(id=word, prompt=word) for word in words)]
    items += [BenchmarkItem(id="last", prompt="and?")]
    outputs = dict(EndpointSubject(endpoint(server, retries=0), concurrency=1).answers(items, ()))
    assert (outputs[0].text, outputs[5].text) == ("?tahw", "?dna")
    assert all(outputs[1 + i].error for i in range(len(words)))


def keep_all(answers, kept: dict) -> None:
    for index, output in answers:
        kept[index] = output  # noqa: PERF403 - what came before an exception is looked at


def test_an_outage_in_the_middle_is_given_up_and_what_was_answered_is_kept(server, tmp_path):
    """Would catch thousands of items marked as failed because the server went away."""
    items = [BenchmarkItem(id="first", prompt="what?")]
    items += [BenchmarkItem(id=f"d{i}", prompt="down") for i in range(3 * GIVE_UP_AFTER)]
    subject, kept = EndpointSubject(endpoint(server, retries=0), concurrency=1), {}
    with pytest.raises(ConnectionError, match="busy"):
        keep_all(subject.answers(items, ()), kept)
    assert kept[0].text == "?tahw"
    assert len(kept) == GIVE_UP_AFTER
