"""What stands behind the page: windows apart from each other, answers that can be measured, a bounded memory."""

from __future__ import annotations

import asyncio

import pytest
import torch
from PIL import Image

import look_again.ui.workspace as workspace_module
from look_again.serving.backend import RefusedError
from look_again.tabletop.people.tabletop_scope import TABLETOP_SCOPE
from look_again.ui.attention_maps import AttentionMaps
from look_again.ui.examples import load_example
from look_again.ui.kept_answers import KeptAnswer, LruCache, shown_png, trim_maps
from look_again.ui.workspace import FormFields, Workspace
from tests.ui.ui_answers import build_events, build_played_workspace


@pytest.fixture
def image(tmp_path):
    Image.new("RGB", (168, 168), "white").save(tmp_path / "a.png")
    return str(tmp_path / "a.png")


def fields(image: str | None, modes=("text", "copy", "route"), keep: object = 50) -> FormFields:
    return FormFields(image, "How many <b>?", list(modes), keep, 0, 0, 64)


async def asked(workspace: Workspace, window: str, given: FormFields) -> dict[str, str]:
    """Ask, and the last HTML of every mode."""
    found: dict[str, str] = {}
    modes = await workspace.begin(window, given)
    async for changed in workspace.answers(window, modes, given):
        found |= changed
    return found


def test_an_answer_is_kept_and_measured_once(image, measured):
    async def go() -> None:
        workspace = build_played_workspace()
        found = await asked(workspace, "w", fields(image, ["copy"]))
        key = workspace._runs("w").transcripts["copy"].key
        assert f'data-key="{key}"' in found["copy"]
        assert 'src="images/' in found["copy"]
        assert "la-alone" in found["copy"]
        first, second = await asyncio.gather(workspace.attention_maps(key, None), workspace.attention_maps(key, 1))
        assert (first["layers"], second["layer"]) == (2, 1)
        assert workspace.backend.borrows == 1
        with pytest.raises(ValueError, match="layer is mean"):
            await workspace.attention_maps(key, 2)
        assert await workspace.attention_maps("another", None) is None

    asyncio.run(go())


def test_without_a_picture_nothing_is_kept():
    found = asyncio.run(asked(build_played_workspace(), "w", fields(None)))
    assert all("data-key" not in html for html in found.values())
    assert all("nothing to look at again" in html for html in found.values())


def test_the_page_says_what_an_answer_is_worth(tmp_path):
    """A photo is none of the tiny model's scenes: before, its page showed a guess and said nothing."""
    Image.new("RGB", (168, 168), "white").save(tmp_path / "photo.png")
    load_example("0/0")[0].save(tmp_path / "scene.png")
    workspace = build_played_workspace(scope=TABLETOP_SCOPE)
    photo = asyncio.run(asked(workspace, "w", fields(str(tmp_path / "photo.png"), ["copy"])))
    scene = asyncio.run(asked(workspace, "v", fields(str(tmp_path / "scene.png"), ["copy"])))
    assert "note: this image is none of Tabletop&#x27;s drawn scenes" in photo["copy"]
    assert "note:" not in scene["copy"]


def test_an_answer_without_a_conclusion_says_what_can_be_asked():
    workspace = build_played_workspace(scope=TABLETOP_SCOPE)
    workspace.backend.script = lambda job: build_events("<SUMMARY> a a a", mode=job.policy.mode)
    found = asyncio.run(asked(workspace, "w", fields(None, ["copy"])))
    assert "Questions that it knows: How many red objects are there?" in found["copy"]
    assert "no conclusion" in found["copy"]


def test_windows_do_not_see_each_other(image):
    async def go() -> None:
        workspace = build_played_workspace()
        await asked(workspace, "one", fields(image))
        assert workspace.has_question("one")
        assert not workspace.has_question("two")
        workspace.leave("one")
        workspace.leave("one")
        assert not workspace.has_question("one")

    asyncio.run(go())


def test_modes_that_are_compared_later(image):
    async def go() -> None:
        workspace = build_played_workspace()
        await asked(workspace, "w", fields(image, ["copy"]))
        shown, missing = workspace.compare("w", ["copy", "route"])
        assert missing == ["route"]
        assert "la-alone" not in shown["copy"]
        assert (shown["text"], shown["route"]) == ("", "")
        async for _ in workspace.answers("w", missing, fields(image, ["copy", "route"])):
            pass
        shown, missing = workspace.compare("w", ["route"])
        assert missing == []
        assert shown["copy"] == ""
        assert "la-alone" in shown["route"]
        assert len(workspace.backend.jobs) == 2

    asyncio.run(go())


def test_bad_fields_change_nothing(image):
    async def go() -> None:
        workspace = build_played_workspace()
        for given in (fields(image, []), fields(image, keep=500), fields(image + "x")):
            with pytest.raises(ValueError, match=r"Choose|keep|no such file"):
                await workspace.begin("w", given)
        assert not workspace.has_question("w")

    asyncio.run(go())


def test_beside_vllm_rows_stand_in_a_strip_and_the_page_says_so(image):
    """vLLM gives chosen rows the positions of a strip; asked for a grid it refuses."""
    workspace = build_played_workspace("vllm")
    found = asyncio.run(asked(workspace, "w", fields(image, ["route"], 30)))
    (job,) = workspace.backend.jobs
    assert (job.policy.layout, job.policy.keep) == ("strip", 30)
    assert "visual tokens put back, in a strip" in found["route"]


def test_a_backend_without_a_model_cannot_measure(image, measured):
    async def go() -> None:
        workspace = build_played_workspace()

        async def borrow(work):
            raise RefusedError("there is no model")

        workspace.backend.borrow = borrow
        await asked(workspace, "w", fields(image, ["copy"]))
        with pytest.raises(RefusedError, match="no model"):
            await workspace.attention_maps(workspace._runs("w").transcripts["copy"].key, None)

    asyncio.run(go())


def test_a_shelf_drops_the_oldest():
    cache: LruCache[str] = LruCache(2, 100, len)
    first, second = cache.put("first"), cache.put("second")
    assert cache.get(first) == "first"
    cache.put("third")
    assert (cache.get(second), cache.get(first)) == (None, "first")
    assert cache.get("") is None
    with pytest.raises(ValueError, match="room"):
        LruCache(0, 100, len)


def test_a_shelf_drops_the_oldest_beyond_its_bytes():
    """By number alone, 500 pictures of 12 megapixels take 24 GB."""
    cache: LruCache[str] = LruCache(5, 10, len)
    first, second, third = cache.put("1234"), cache.put("1234"), cache.put("12")
    assert [cache.get(key) for key in (second, third, first)] == ["1234", "12", "1234"]
    fourth = cache.put("1234")  # 14 bytes; the second is the oldest now
    assert [cache.get(key) for key in (first, second, third, fourth)] == ["1234", None, "12", "1234"]
    large = cache.put("12345678901")
    assert [cache.get(key) for key in (third, fourth, large)] == [None, None, "12345678901"]


def test_pictures_are_bounded_by_bytes_on_the_desk(tmp_path, monkeypatch):
    """168 x 168 pixels are 112,896 bytes: there is room for two answers and for two windows."""
    Image.new("RGB", (168, 168), "white").save(tmp_path / "a.png")
    monkeypatch.setattr(workspace_module, "ANSWER_BYTES", 250_000)
    monkeypatch.setattr(workspace_module, "WINDOW_BYTES", 250_000)

    async def go() -> None:
        workspace, keys = build_played_workspace(), []
        for window in ("one", "two", "three"):
            await asked(workspace, window, fields(str(tmp_path / "a.png"), ["copy"]))
            keys.append(workspace._runs(window).transcripts["copy"].key)
        assert [workspace.kept.get(key) is None for key in keys] == [True, False, False]
        assert [workspace.has_question(window) for window in ("two", "three", "one")] == [True, True, False]

    asyncio.run(go())


def test_measurements_are_forgotten_before_answers():
    cache: LruCache[KeptAnswer] = LruCache(5, 0, lambda kept: 0)
    tokens = torch.zeros(1, 10, 4)
    maps = AttentionMaps(tokens[:, 0], tokens, tokens[..., 0], tokens[..., 0], (2, 2))
    keys = [cache.put(KeptAnswer(None, None, "", (), maps)) for _ in range(3)]  # type: ignore[arg-type]
    trim_maps(cache, 2 * maps.size_bytes)
    assert [cache.get(key).maps is None for key in keys] == [True, False, False]


def test_large_pictures_are_shown_smaller():
    assert len(shown_png(Image.new("RGB", (4000, 100)))) < 5000
