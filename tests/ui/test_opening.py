"""The answers on arrival: asked once, of models of a small world alone, and never in the way of who asks."""

from __future__ import annotations

import asyncio

import pytest

from look_again.serving.backend import BackendError
from look_again.tabletop.people.tabletop_scope import TABLETOP_SCOPE
from look_again.ui.examples import load_example
from look_again.ui.kept_answers import LruCache
from look_again.ui.opening import FIRST, first_question
from look_again.ui.workspace import FormFields
from tests.ui.ui_answers import build_played_workspace

MODES = ("text", "copy", "route")


def fields(modes=MODES) -> FormFields:
    return FormFields(None, "How many?", list(modes), 50, 0, 0, 64)


def test_the_first_question_is_the_one_in_the_form():
    image, text = load_example(FIRST)
    question = first_question()
    assert question.text == text
    assert question.image.tobytes() == image.tobytes()


def test_every_window_finds_the_same_answers_asked_once(measured):
    async def go() -> None:
        workspace = build_played_workspace(scope=TABLETOP_SCOPE)
        workspace.start_opening()
        early, late = await asyncio.gather(workspace.arrive("early"), workspace.arrive("late"))
        assert list(early) == list(MODES)
        assert early == late
        assert [job.policy.mode for job in workspace.backend.jobs] == list(MODES)
        assert workspace.backend.borrows == 3  # measured before anybody came
        assert all("la-done" in html and "data-key" in html for html in early.values())
        assert workspace.conclusions("early").count("<span>1</span>") == 3
        assert not workspace.running("early")

    asyncio.run(go())


def test_an_answer_on_arrival_is_the_windows_own(measured):
    """Modes can be changed and ROUTE asked again, in one window without the other."""

    async def go() -> None:
        workspace = build_played_workspace(scope=TABLETOP_SCOPE)
        workspace.start_opening()
        await workspace.arrive("one")
        before = await workspace.arrive("two")
        shown, missing = workspace.compare("one", ["route"])
        assert (shown["text"], missing) == ("", [])
        async for _ in workspace.answers("one", ["route"], fields()):
            pass
        assert workspace.backend.jobs[-1].messages == workspace.backend.jobs[0].messages
        shown, missing = workspace.compare("two", MODES)
        assert (shown, missing) == (before, [])

    asyncio.run(go())


def test_whoever_has_asked_already_is_left_alone(measured):
    async def go() -> None:
        workspace = build_played_workspace(scope=TABLETOP_SCOPE)
        workspace.backend.pause_s = 0.001
        workspace.start_opening()
        await workspace.begin("w", fields(["copy"]))
        assert await workspace.arrive("w") == {}
        assert workspace._runs("w").question.text == "How many?"

    asyncio.run(go())


def test_a_model_of_anything_is_asked_nothing_unbidden():
    """It may take minutes on a processor."""

    async def go() -> None:
        workspace = build_played_workspace()
        workspace.start_opening()
        assert await workspace.arrive("w") == {}
        assert workspace.backend.jobs == []
        await workspace.opening.close()

    asyncio.run(go())


@pytest.mark.parametrize("error", [BackendError("the server is gone"), RuntimeError("something else")])
def test_a_page_without_first_answers_is_whole(error):
    async def go() -> None:
        workspace = build_played_workspace(scope=TABLETOP_SCOPE)
        workspace.backend.script = lambda job: [error]
        workspace.start_opening()
        assert await workspace.arrive("w") == {}
        assert not workspace.has_question("w")

    asyncio.run(go())


def test_answers_that_were_dropped_are_kept_anew(measured):
    """Whoever comes after 500 other answers sees the heat all the same."""

    async def go() -> None:
        workspace = build_played_workspace(scope=TABLETOP_SCOPE)
        workspace.start_opening()
        await workspace.arrive("early")
        workspace.kept = LruCache(5, 2**20, lambda kept: 0)
        workspace.images = LruCache(5, 2**20, lambda shown: 0)
        await workspace.arrive("late")
        runs = workspace._runs("late")
        assert workspace.images.get(runs.image) is not None
        for mode in MODES:
            assert await workspace.attention_maps(runs.transcripts[mode].key, None) is not None

    asyncio.run(go())


def test_closing_the_page_ends_what_was_not_finished():
    async def go() -> None:
        workspace = build_played_workspace(scope=TABLETOP_SCOPE)
        workspace.backend.pause_s = 60
        workspace.start_opening()
        await asyncio.sleep(0.5)
        await asyncio.wait_for(workspace.opening.close(), 30)
        assert workspace.backend.closed == len(workspace.backend.jobs)

    asyncio.run(go())
