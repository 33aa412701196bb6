"""Requests go out once, are tried again as the server asks, and stop at the budget; nothing is paid twice."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from look_again.clients.openai import (
    Endpoint,
    InProcessTransport,
    OpenAITransport,
    Reply,
    RequestRefusedError,
)
from look_again.data.sample import Sample
from look_again.pipeline.budget import BudgetLimits
from look_again.pipeline.chat_client import Chat, Halt
from look_again.pipeline.endpoint_pool import DOWN_AFTER, EndpointDownError, EndpointState
from look_again.pipeline.engine import open_chat_client
from look_again.pipeline.ledger.items import WorkItem
from look_again.pipeline.ledger.ledger import Ledger

ENDPOINT = Endpoint(
    name="e", base_url="test:", model="m", backoff_s=0.001, max_wait_s=0.05, timeout_s=30.0, price_in=1e6, attempts=4
)
ITEM = WorkItem(1, 0, Sample(id="r", question="Q?", source="test"), {}, "i")


def completion(text: str = "fine", tokens: int = 1) -> dict:
    choice = {"message": {"content": text}, "finish_reason": "stop"}
    return {"choices": [choice], "usage": {"prompt_tokens": tokens, "completion_tokens": 0}}


class Server:
    """Answers what it is told to, in order; the last for ever. Remembers when and how often it was asked."""

    def __init__(self, *answers: tuple[int, dict, object]) -> None:
        self.answers, self.calls, self.seen = list(answers) or [(200, {}, completion())], [], []
        self.open = self.widest = 0

    async def __call__(self, body, headers):
        self.calls.append(time.monotonic())
        self.seen.append((body, headers))
        self.open += 1
        self.widest = max(self.widest, self.open)
        await asyncio.sleep(0.002)
        self.open -= 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if answer == "stall":
            await asyncio.sleep(60)
        return answer


def asked(
    ledger: Ledger, server: Server, *, times: int = 1, endpoint=ENDPOINT, budget=None, each: Callable | None = None
):
    """Replies or errors of `times` different requests made at once."""

    async def go():
        async with open_chat_client(
            ledger, [EndpointState(endpoint, InProcessTransport(server))], "test", budget
        ) as client:
            chat = Chat(client, "stage", ITEM)
            asks = [chat.ask("e", "", "text", ask=number) for number in range(times)]
            return await asyncio.gather(*asks, return_exceptions=True)

    return asyncio.run(go())


def outcomes(ledger: Ledger) -> list[str]:
    return [outcome for (outcome,) in ledger.read("SELECT outcome FROM attempts ORDER BY id")]


def test_a_finished_request_is_never_sent_again(ledger):
    server = Server()
    (first,) = asked(ledger, server)
    (second,) = asked(ledger, server)
    assert first == second == Reply("fine", tokens_in=1)
    assert len(server.calls) == 1


def test_another_model_prompt_or_sample_is_another_request(ledger):
    server = Server()
    asked(ledger, server)
    asked(ledger, server, endpoint=replace(ENDPOINT, model="other"))
    asked(ledger, server, endpoint=replace(ENDPOINT, temperature=0.5))
    asked(ledger, server, times=2)
    assert len(server.calls) == 4
    asked(ledger, server, endpoint=replace(ENDPOINT, price_in=3.0, concurrency=1, timeout_s=9.0))
    assert len(server.calls) == 4, "a price or a pace is no other request"


@pytest.mark.parametrize("status", [408, 429, 500, 503, 529])
def test_passing_faults_are_tried_again(ledger, status):
    server = Server((status, {}, "busy"), (200, {}, completion()))
    assert asked(ledger, server) == [Reply("fine", tokens_in=1)]
    assert outcomes(ledger) == [f"status {status}: busy", "ok"]
    assert [headers["X-Attempt"] for _, headers in server.seen] == ["0", "1"]
    assert len({headers["Idempotency-Key"] for _, headers in server.seen}) == 1


def test_a_stall_and_a_malformed_reply_are_tried_again(ledger):
    server = Server("stall", (200, {}, "not json"), (200, {}, {"choices": []}), (200, {}, completion()))
    assert asked(ledger, server, endpoint=replace(ENDPOINT, timeout_s=0.3)) == [Reply("fine", tokens_in=1)]
    assert outcomes(ledger)[0] == "no reply within 0.3 s"
    assert "no chat completion" in outcomes(ledger)[1]


def test_retry_after_is_honoured_by_every_request_to_the_server(ledger):
    """A server that asks one caller for a pause means all of them."""
    endpoint = replace(ENDPOINT, max_wait_s=1.0, concurrency=1)
    server = Server((429, {"Retry-After": "0.15"}, "slow down"), (200, {}, completion()))
    asked(ledger, server, times=2, endpoint=endpoint)
    assert server.calls[1] - server.calls[0] >= 0.15


def test_half_a_surrogate_pair_does_not_end_the_run(ledger):
    """JSON can spell it and servers that cut tokens do; the ledger would refuse the reply that was paid for."""
    odd = [(500, {}, "\ud83d no"), (200, {}, completion("half \ud83d of it"))]
    assert asked(ledger, Server(*odd)) == [Reply("half ? of it", tokens_in=1)]
    assert outcomes(ledger) == ["status 500: ? no", "ok"]
    assert asked(ledger, Server(*odd)) == [Reply("half ? of it", tokens_in=1)]


def test_a_server_that_is_down_is_given_up_and_left_alone(ledger):
    """40,000 rows must not wait for the time-outs of each."""
    server = Server((503, {}, "down"))

    async def go() -> list[BaseException | Reply]:
        async with open_chat_client(ledger, [EndpointState(ENDPOINT, InProcessTransport(server))], "test") as client:
            chat, ends = Chat(client, "stage", ITEM), []
            for number in range(40):
                ends += await asyncio.gather(chat.ask("e", "", "text", ask=number), return_exceptions=True)
            return ends

    assert all(isinstance(end, EndpointDownError) for end in asyncio.run(go()))
    assert len(server.calls) == DOWN_AFTER * ENDPOINT.attempts


def test_a_wrong_key_stops_the_run_at_once(ledger):
    server = Server((401, {}, "bad key"))
    errors = asked(ledger, server, times=10, endpoint=replace(ENDPOINT, concurrency=1))
    assert all(isinstance(error, Halt) for error in errors)
    assert len(server.calls) == 1
    assert "bad key" in ledger.read("SELECT outcome FROM sessions")[0][0]


def test_a_request_that_is_refused_is_the_rows_fault(ledger):
    (error,) = asked(ledger, Server((400, {}, "picture too large")))
    assert isinstance(error, RequestRefusedError)


@pytest.mark.parametrize("budget", [BudgetLimits(money=5.0), BudgetLimits(tokens=5)])
def test_the_budget_stops_cleanly_and_holds_over_sessions(ledger, budget):
    """Each reply costs 1: requests that go out side by side must not all see the same rest of the budget."""
    server = Server()
    for _ in range(2):
        replies = asked(ledger, server, times=20, budget=budget)
        assert sum(isinstance(reply, Reply) for reply in replies) == 5
        assert sum(isinstance(reply, Halt) for reply in replies) == 15
    assert len(server.calls) == 5
    assert "budget of 5" in ledger.read("SELECT outcome FROM sessions")[0][0]


def test_concurrency_and_rate_are_kept(ledger):
    server = Server()
    asked(ledger, server, times=12, endpoint=replace(ENDPOINT, concurrency=3))
    assert server.widest == 3
    server = Server()
    asked(ledger, server, times=17, endpoint=replace(ENDPOINT, model="paced", rate=50))
    gaps = [b - a for a, b in zip(server.calls, server.calls[1:], strict=False)]
    assert server.calls[-1] - server.calls[0] >= 16 / 50 * 0.95, gaps


def test_a_key_comes_from_the_environment_and_is_written_nowhere(ledger, monkeypatch):
    endpoint = replace(ENDPOINT, key_env="LOOK_AGAIN_TEST_KEY")
    monkeypatch.delenv("LOOK_AGAIN_TEST_KEY", raising=False)
    with pytest.raises(ValueError, match="LOOK_AGAIN_TEST_KEY, which is not set"):
        OpenAITransport(endpoint)
    monkeypatch.setenv("LOOK_AGAIN_TEST_KEY", "sk-very-secret")
    assert OpenAITransport(endpoint).client.api_key == "sk-very-secret"
    asked(ledger, Server(), endpoint=endpoint)
    assert b"sk-very-secret" not in ledger.path.read_bytes()
    assert "secret" not in repr(endpoint)
