"""Several modes at once: news of each, stopping that reaches the backend, and errors as sentences."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from look_again.model import Sampling
from look_again.serving.admission import Admission
from look_again.serving.backend import BackendError, BusyError, RefusedError
from look_again.ui.question import UserQuestion
from look_again.ui.runs import Runs
from look_again.ui.transcript import build_policy
from tests.ui.ui_answers import ANSWER, PlayedBackend, build_events

POLICIES = {mode: build_policy(mode, 50) for mode in ("text", "copy", "route")}


def find_row_runs(backend: PlayedBackend) -> Runs:
    runs = Runs(backend, Admission(4, 4, noun="answers"))
    runs.begin(UserQuestion(None, "How many?", Sampling()), (1, 2, 3), "", list(POLICIES))
    return runs


async def news_of(runs: Runs, policies: dict = POLICIES) -> list[list[str]]:
    return [list(modes) async for modes in runs.ask(policies)]


def test_all_modes_are_answered_side_by_side():
    backend = PlayedBackend(lambda job: build_events(ANSWER, mode=job.policy.mode), pause_s=0.005)
    runs = find_row_runs(backend)
    news = asyncio.run(news_of(runs))
    assert news[0] == list(POLICIES)
    assert len(news) > 3  # it grows in steps
    assert {runs.transcripts[mode].status for mode in POLICIES} == {"done"}
    assert {runs.transcripts[mode].texts.text for mode in POLICIES} == {ANSWER}
    assert len({job.conversation for job in backend.jobs}) == 1


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (BusyError("no room", 3), "no room. Ask again in 3 s."),
        (RefusedError("vLLM cannot do that"), "vLLM cannot do that"),
        (ValueError("too long"), "too long"),
        (BackendError("the server died"), "the server died"),
        (KeyError("the question's own text"), "something went wrong on this side (KeyError)"),
    ],
)
def test_what_goes_wrong_is_said_and_the_rest_goes_on(error, said, caplog):
    backend = PlayedBackend(lambda job: [error] if job.policy.mode == "copy" else build_events(ANSWER))
    runs = find_row_runs(backend)
    asyncio.run(news_of(runs))
    assert (runs.transcripts["copy"].status, runs.transcripts["copy"].message) == ("failed", said)
    assert runs.transcripts["route"].status == "done"
    assert "own text" not in caplog.text


def test_an_answer_that_just_ends_has_failed():
    runs = find_row_runs(PlayedBackend(lambda job: build_events(ANSWER)[:-1]))
    asyncio.run(news_of(runs))
    assert runs.transcripts["copy"].message == "the answer broke off"


async def _until_written(runs: Runs) -> None:
    while not all(len(one.texts.ids) > 2 for one in runs.transcripts.values()):
        await asyncio.sleep(0.01)


def test_stop_ends_the_generation():
    """A stop button that only stopped showing would leave the model busy."""

    async def go() -> None:
        backend = PlayedBackend(lambda job: build_events(ANSWER), pause_s=0.02)
        runs = find_row_runs(backend)
        asking = asyncio.create_task(news_of(runs))
        await asyncio.sleep(0.02)
        await _until_written(runs)
        runs.stop()
        news = await asyncio.wait_for(asking, 30)
        assert backend.closed == 3
        assert not runs.running
        assert sorted(news[-1]) == sorted(POLICIES)
        assert {one.status for one in runs.transcripts.values()} == {"stopped"}

    asyncio.run(go())


def test_stopped_before_it_began():
    async def go() -> None:
        runs = find_row_runs(PlayedBackend(lambda job: build_events(ANSWER)))
        asking = runs.ask(POLICIES)
        await anext(asking)
        runs.stop()
        assert [modes async for modes in asking][-1] == list(POLICIES)
        assert {one.status for one in runs.transcripts.values()} == {"stopped"}

    asyncio.run(go())


def test_a_window_that_leaves_stops_its_answers():
    async def go() -> None:
        backend = PlayedBackend(lambda job: build_events(ANSWER), pause_s=0.02)
        runs = find_row_runs(backend)
        async with aclosing(runs.ask(POLICIES)) as news:
            async for _ in news:
                if backend.jobs:
                    break
        assert backend.closed == len(backend.jobs) > 0
        assert not runs.running

    asyncio.run(go())


def test_asking_again_replaces_one_mode_only():
    """ROUTE's slider while the other modes still write: theirs go on, and the old answer says nothing more."""

    async def go() -> None:
        backend = PlayedBackend(lambda job: build_events(ANSWER), pause_s=0.02)
        runs = find_row_runs(backend)
        first = asyncio.create_task(news_of(runs))
        await asyncio.sleep(0.02)
        await _until_written(runs)
        again = build_policy("route", 80)
        second = await news_of(runs, {"route": again})
        await first
        assert all(modes == ["route"] for modes in second)
        assert runs.transcripts["route"].policy == again
        assert {one.status for one in runs.transcripts.values()} == {"done"}

    asyncio.run(go())


def test_another_question_stops_the_first():
    async def go() -> None:
        backend = PlayedBackend(lambda job: build_events(ANSWER), pause_s=0.02)
        runs = find_row_runs(backend)
        first = asyncio.create_task(news_of(runs))
        await asyncio.sleep(0.02)
        await _until_written(runs)
        runs.begin(UserQuestion(None, "And now?", Sampling()), None, "", ["copy"])
        await asyncio.gather(first, news_of(runs, {"copy": POLICIES["copy"]}))
        assert list(runs.transcripts) == ["copy"]
        assert runs.transcripts["copy"].status == "done"
        assert backend.closed == 4

    asyncio.run(go())


def test_a_full_page_says_when_to_ask_again():
    """Would catch answers without bound: every window may ask in three modes."""
    backend = PlayedBackend(lambda job: build_events(ANSWER, mode=job.policy.mode), pause_s=0.005)
    runs = Runs(backend, Admission(1, 1, noun="answers"))
    runs.begin(UserQuestion(None, "How many?", Sampling()), (1, 2, 3), "", list(POLICIES))
    asyncio.run(news_of(runs))
    assert [runs.transcripts[mode].status for mode in POLICIES] == ["done", "done", "failed"]
    assert runs.transcripts["route"].message.startswith("2 answers are under way or waiting. Ask again in ")
