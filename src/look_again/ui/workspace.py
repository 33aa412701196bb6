"""The state behind the page: windows with their runs, images and answers that are kept, and measuring them."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from look_again.core.reattention import Reattention
from look_again.images.video import Video
from look_again.serving.admission import Admission
from look_again.serving.backend import Backend, RefusedError
from look_again.text.grammar import parse
from look_again.ui.answer_html import AnswerDisplay, answer_html, conclusions_html
from look_again.ui.attention_maps import measure, payload
from look_again.ui.kept_answers import KeptAnswer, LruCache, shown_png, trim_maps
from look_again.ui.opening import Opening
from look_again.ui.question import (
    MODES,
    UserQuestion,
    compute_grid,
    draw_shown,
    read_keep,
    read_modes,
    read_question,
)
from look_again.ui.runs import Runs
from look_again.ui.snippets import code_html
from look_again.ui.transcript import Transcript, build_policy

WINDOWS = 500
ADMITTED = (16, 64)  # answers of all windows that run at once, and that wait
IMAGES, ANSWERS = 500, 500
WINDOW_BYTES, ANSWER_BYTES = 2**30, 2**30  # of the images that were asked about
SHOWN_BYTES, MAPS_BYTES = 2**28, 2**28  # of images as they are shown, and of measurements
LAYOUTS = {"vllm": "strip"}  # of chosen rows, where a backend has no other; the page says so


@dataclass(frozen=True)
class FormFields:
    """What stands in the page's fields; untrusted, as a browser sent it. image, video: paths of uploaded files."""

    image: str | None
    question: str | None
    modes: Any
    keep: Any
    temperature: Any
    seed: Any
    tokens: Any
    video: str | None = None


class Workspace:
    """One page. model: as `load` knows it, for the snippets; None is the shipped one."""

    def __init__(self, backend: Backend, model: str | None = None) -> None:
        self.backend = backend
        self.model = model
        self.images: LruCache[tuple[bytes, tuple[int, int]]] = LruCache(
            IMAGES, SHOWN_BYTES, lambda shown: len(shown[0])
        )
        self.kept: LruCache[KeptAnswer] = LruCache(ANSWERS, ANSWER_BYTES, lambda kept: kept.size_bytes)
        self.admission = Admission(*ADMITTED, noun="answers")
        self.opening = Opening(self._answer_opening)
        self._windows: OrderedDict[str, Runs] = OrderedDict()

    @property
    def model_name(self) -> str:
        return self.backend.checkpoint.name

    @property
    def scope(self) -> Any:
        """The small world that is all the model knows; None for a model of anything."""
        return getattr(self.backend.checkpoint, "scope", None)

    async def begin(self, window: str, fields: FormFields) -> list[str]:
        """Take a question; the modes that it is asked in. ValueError that says what is wrong with it."""
        runs = self._runs(window)
        modes, _ = read_modes(fields.modes), read_keep(fields.keep)
        question = await asyncio.to_thread(
            read_question,
            fields.image,
            fields.question,
            fields.temperature,
            fields.seed,
            fields.tokens,
            runs.conversation,
            fields.video,
        )
        await self._take(runs, question, modes)
        return modes

    async def _take(self, runs: Runs, question: UserQuestion, modes: Sequence[str]) -> None:
        """Make a question that of a window."""
        checkpoint, is_video = self.backend.checkpoint, isinstance(question.image, Video)
        processor = checkpoint.image_processor
        config = None if hasattr(processor, "merge_size") and not is_video else self.backend.model_config
        grid = await asyncio.to_thread(compute_grid, processor, question.image, config)
        key, images = "", [] if question.image is None else [question.image]
        if question.image is not None:
            drawn = await asyncio.to_thread(draw_shown, question.image, grid)
            key = self.images.put((await asyncio.to_thread(shown_png, drawn), drawn.size))
        if grid is not None and is_video:  # frames lie one below the other, as they are drawn
            grid = 1, grid[0] * grid[1], grid[2]
        notes = await asyncio.to_thread(checkpoint.notes_on_images, images)
        runs.begin(question, grid, key, modes)
        runs.notes = notes
        self._make_room()

    def start_opening(self) -> None:
        """Answer the page's first example in the background, where that costs little (see ui.opening)."""
        if self.scope is not None:
            self.opening.start()

    async def arrive(self, window: str) -> dict[str, str]:
        """HTML of the opening's answers by mode, for a window that has asked nothing; empty without any."""
        opened, runs = await self.opening.wait(), self._runs(window)
        if opened is None or opened.question is None or runs.question is not None:
            return {}
        if self.images.get(opened.image) is None and opened.question.image is not None:
            drawn = draw_shown(opened.question.image, opened.grid)
            opened.image = self.images.put((shown_png(drawn), drawn.size))
        for transcript in opened.transcripts.values():
            transcript.key = transcript.key if self.kept.get(transcript.key) else ""
        runs.adopt(opened)
        return {mode: self._html(runs, mode) for mode in runs.modes}

    async def _answer_opening(self, question: UserQuestion) -> Runs:
        """Answer in all modes and measure, so that arriving costs nothing."""
        runs = Runs(self.backend, self.admission)
        await self._take(runs, question, MODES)
        async for _ in runs.ask(self._policies(MODES, self.backend.checkpoint.reattention.keep)):
            pass
        for transcript in runs.transcripts.values():
            transcript.key = self._keep(runs, transcript)
            with suppress(RefusedError):  # a backend without a model
                await self.attention_maps(transcript.key, None)
        return runs

    async def answers(self, window: str, modes: Sequence[str], fields: FormFields) -> AsyncIterator[dict[str, str]]:
        """Ask the window's question in these modes; HTML of the answers that have news."""
        runs = self._runs(window)
        async for changed in runs.ask(self._policies(modes, read_keep(fields.keep))):
            yield {mode: self._html(runs, mode) for mode in changed if mode in runs.modes}

    def _policies(self, modes: Sequence[str], keep: int) -> dict[str, Reattention]:
        layout, trained = LAYOUTS.get(self.backend.name), self.backend.checkpoint.reattention
        return {mode: build_policy(mode, keep, layout, trained) for mode in modes}

    def conclusions(self, window: str) -> str:
        """HTML of what the answers that are compared conclude, "" without any."""
        runs = self._runs(window)
        there = [runs.transcripts[mode] for mode in runs.modes if mode in runs.transcripts]
        return conclusions_html(there)

    def compare(self, window: str, modes: Sequence[str]) -> tuple[dict[str, str], list[str]]:
        """Compare these modes from now on: HTML of all modes, "" for those left out, and the modes still to be asked.

        Answers that are left out are stopped.
        """
        runs = self._runs(window)
        runs.modes = list(modes)
        runs.stop([mode for mode in runs.transcripts if mode not in modes])
        there = [mode for mode in modes if mode in runs.transcripts and runs.transcripts[mode].status != "stopped"]
        shown = {mode: self._html(runs, mode) if mode in there else "" for mode in MODES}
        return shown, [mode for mode in modes if mode not in there]

    def has_question(self, window: str) -> bool:
        """Whether the window has a question."""
        return self._runs(window).question is not None

    def running(self, window: str) -> bool:
        return self._runs(window).running

    def stop(self, window: str) -> None:
        """Stop everything that the window runs."""
        self._runs(window).stop()

    def leave(self, window: str) -> None:
        """The window was closed."""
        if window in self._windows:
            self._windows.pop(window).stop()

    async def attention_maps(self, key: str, layer: int | None) -> dict[str, Any] | None:
        """What the viewer draws of a kept answer; None for one that is gone. ValueError, RefusedError, BackendError."""
        kept = self.kept.get(key)
        if kept is None:
            return None
        async with kept.measuring:
            if kept.maps is None:
                job, decoded = kept.job, kept.decoded
                kept.maps = await self.backend.borrow(lambda checkpoint: measure(checkpoint, job, decoded))
            maps = kept.maps
            trim_maps(self.kept, MAPS_BYTES)
        return await asyncio.to_thread(payload, maps, kept.text, kept.ends, kept.decoded, layer)

    def _runs(self, window: str) -> Runs:
        if window not in self._windows:
            self._windows[window] = Runs(self.backend, self.admission)
        self._windows.move_to_end(window)
        self._make_room()
        return self._windows[window]

    def _make_room(self) -> None:
        """Forget the windows that were used longest ago, beyond a number of them and of their images' bytes."""
        held = sum(runs.size_bytes for runs in self._windows.values())
        while len(self._windows) > 1 and (len(self._windows) > WINDOWS or held > WINDOW_BYTES):
            runs = self._windows.popitem(last=False)[1]
            held -= runs.size_bytes
            runs.stop()

    def _keep(self, runs: Runs, transcript: Transcript) -> str:
        """Keep an answer that can be measured; its key, "" for others."""
        decoded = transcript.decoded()
        if decoded is None or runs.question is None or runs.question.image is None:
            return ""
        texts = transcript.texts
        return self.kept.put(KeptAnswer(runs.question.job(transcript.policy), decoded, texts.text, tuple(texts.ends)))

    def _html(self, runs: Runs, mode: str) -> str:
        assert runs.question is not None
        transcript = runs.transcripts[mode]
        transcript.key = transcript.key or self._keep(runs, transcript)
        image = self.images.get(runs.image) if runs.image else None
        code = "" if transcript.running else code_html(runs.question, transcript.policy, self.model)
        address = f"images/{runs.image}" if image else ""
        size, alone = image[1] if image else (1, 1), len(runs.modes) == 1
        return answer_html(transcript, AnswerDisplay(address, size, code, alone, self._notes(runs, transcript)))

    def _notes(self, runs: Runs, transcript: Transcript) -> Sequence[str]:
        """What has to be said of a finished answer: its image is none that the model knows, or it answers nothing."""
        if transcript.status != "done" or runs.notes:
            return runs.notes
        return self.backend.checkpoint.notes_on_answer(parse(transcript.texts.text))
