"""The page of `look-again ui` as Gradio blocks: fields on the left, an answer per mode beside each other on the right.

Gradio passes on what was typed and shows what comes back; its analytics, public links, history and interface for other
programs are off. Heat maps do not go through it: the viewer (assets/ui/viewer.js) fetches them from `app`.
"""

# No `from __future__ import annotations`: Gradio reads the annotation of `request`, a name inside of a function.
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from look_again.extras import require
from look_again.images.video_file import SUFFIXES
from look_again.ui.answer_html import NAMES
from look_again.ui.examples import examples_html, load_example, next_set, read_click
from look_again.ui.opening import FIRST
from look_again.ui.question import MODES, MOST_TOKENS, read_modes
from look_again.ui.workspace import FormFields, Workspace
from look_again.web.guard import MAX_WAITING
from look_again.web.section_cards import escape

TITLE = "LookAgain"
STOP = "Stop"
WHAT = (
    "This model answers questions about a picture and looks at the picture again before it concludes; here you see "
    "what each of its words looked at."
)
INTRO = '<div class="la-intro{wide}">{scope}<p>{now}</p></div>'
READY = "Choose a scene or a picture of your own, ask about it, and press Ask."
COMING = "Its answers to the question in the form are on the way."
SHOWN = (
    "Here are its answers to the question in the form, three ways. Point at a word, or move along the bars, to see "
    "what it looked at."
)
TOGGLE = '<button type="button" class="la-theme" aria-label="light or dark" title="light or dark">◐</button>'
LIVE = '<p class="la-live la-hidden" role="status" aria-live="polite"></p>'


@dataclass
class PageComponents:
    """The page's components; `answers` by mode. intro: what is said beside them before anything was asked."""

    image: Any
    scenes: Any
    question: Any
    modes: Any
    ask: Any
    stop: Any
    keep: Any
    temperature: Any
    seed: Any
    tokens: Any
    video: Any
    message: Any
    intro: Any
    answers: dict[str, Any]
    conclusions: Any

    @property
    def fields(self) -> list[Any]:
        """What is asked, in the order of `FormFields`."""
        sampling = [self.temperature, self.seed, self.tokens]
        return [self.image, self.question, self.modes, self.keep, *sampling, self.video]

    @property
    def shown(self) -> list[Any]:
        """What an answer may change."""
        return [self.stop, self.message, self.intro, *self.answers.values(), self.conclusions]

    def busy(self, running: bool) -> dict[Any, Any]:
        import gradio as gr

        return {self.stop: gr.update(value=STOP, interactive=running)}  # an update without it takes the label away

    def refused(self, error: ValueError) -> dict[Any, Any]:
        return {self.message: f'<p class="la-refused" role="alert">✗ {escape(error)}</p>'}


def make_page(workspace: Workspace) -> Any:
    """The page as Gradio blocks. MissingExtraError without gradio."""
    require("gradio", extra="ui")
    import gradio as gr

    with gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=True, delete_cache=(600, 3600)) as blocks:
        blocks.queue(max_size=MAX_WAITING)  # before the events, which a queue made later would not run side by side
        components = _lay_out(workspace)
        _connect(blocks, components, workspace)
    return blocks


def _lay_out(workspace: Workspace) -> PageComponents:
    import gradio as gr

    gr.HTML(
        f'<div class="la-top"><h1>Look<b>Again</b></h1><p class="la-what">{WHAT}</p><span class="la-model">'
        f"{escape(workspace.model_name)} · {escape(workspace.backend.name)}</span>{TOGGLE}{LIVE}</div>",
        elem_id="la-top",
        apply_default_css=False,
    )
    with gr.Row(elem_id="la-main", equal_height=False):
        with gr.Column(elem_id="la-ask-side", min_width=280, scale=0):
            asking = _lay_out_question()
        with gr.Column(elem_id="la-answer-side", min_width=280, scale=1):
            first = COMING if workspace.scope else READY
            intro = gr.HTML(_intro(workspace.scope, first), elem_id="la-intro", apply_default_css=False)
            answers, keep = _lay_out_answers(workspace.backend.checkpoint.reattention.keep)
    conclusions = gr.HTML(elem_id="la-conclusions", apply_default_css=False)
    return PageComponents(**asking, keep=keep, intro=intro, answers=answers, conclusions=conclusions)


def _intro(scope: Any, now: str) -> str:
    """What is said before anything was asked: what the model knows. now: what to do."""
    about = ""
    if scope is not None:
        questions = "; ".join(f"<i>{escape(question)}</i>" for question in scope.questions)
        about = f"<p>{escape(scope.about[0].upper() + scope.about[1:])}. It can be asked, for example: {questions}</p>"
    return INTRO.format(scope=about, now=escape(now), wide="" if now is READY else " la-wide")


def _lay_out_question() -> dict[str, Any]:
    """Everything that is asked with, but for ROUTE's slider."""
    import gradio as gr

    components: dict[str, Any] = {"image": _image_field()}
    components["scenes"] = gr.HTML(
        examples_html(0),
        elem_id="la-examples",
        apply_default_css=False,
        js_on_load="element.addEventListener('click', event => {"
        "const chosen = event.target.closest('[data-scene], [data-set]');"
        "if (chosen) trigger(chosen.dataset.set ? 'select' : 'click', {...chosen.dataset}); });",
    )
    components["question"] = gr.Textbox(
        label="Question", lines=2, max_lines=8, elem_id="la-question", placeholder="Ask about the picture"
    )
    components["modes"] = gr.CheckboxGroup(
        [(NAMES[mode], mode) for mode in MODES], value=list(MODES), label="At a reflection", elem_id="la-modes"
    )
    with gr.Row(elem_id="la-buttons"):
        components["ask"] = gr.Button("Ask", variant="primary", elem_id="la-ask", min_width=80, scale=1)
        components["stop"] = gr.Button(STOP, elem_id="la-stop", interactive=False, min_width=60, scale=0)
    components["message"] = gr.HTML(elem_id="la-message", apply_default_css=False)
    with gr.Accordion("More", open=False, elem_id="la-more"):
        components["video"] = _video_field()
        components["temperature"] = gr.Slider(0, 2, value=0, step=0.1, label="Temperature (0: greedy)")
        components["seed"] = gr.Number(value=0, precision=0, minimum=0, label="Seed")
        components["tokens"] = gr.Number(
            value=1024, precision=0, minimum=1, maximum=MOST_TOKENS, label="Tokens at most"
        )
    return components


def _image_field() -> Any:
    """An image field that hands over the uploaded file unread: `load_image` checks it before anything is decoded."""
    import gradio as gr

    field: Any = gr.Image(
        type="filepath",
        image_mode=None,
        format="png",
        sources=["upload", "webcam", "clipboard"],
        show_label=False,
        height=210,
        buttons=[],
        elem_id="la-picture",
    )
    # Not a subclass: Gradio writes a stub file beside the source of every subclass of a component.
    field.preprocess = lambda upload: None if upload is None else upload.path
    return field


def _video_field() -> Any:
    """A field that hands over an uploaded video unread, to be asked about instead of a picture."""
    import gradio as gr

    field: Any = gr.File(label="A video instead of the picture", file_types=list(SUFFIXES), elem_id="la-video")
    field.preprocess = lambda upload: None if upload is None else upload.path
    return field


def _lay_out_answers(percent: int) -> tuple[dict[str, Any], Any]:
    """A column per mode, out of sight while it has no answer; all are put together at once, so that none is late."""
    import gradio as gr

    answers, keep = {}, None
    gr.HTML('<h2 class="la-hidden">Answers</h2>', elem_id="la-answers-title", apply_default_css=False)
    with gr.Row(elem_id="la-answers", equal_height=False):
        for mode in MODES:
            with gr.Column(elem_id=f"la-column-{mode}", min_width=270):
                answers[mode] = gr.HTML(elem_id=f"la-{mode}", apply_default_css=False)
                if mode == "route":
                    keep = gr.Slider(
                        0, 100, value=percent, step=1, label="ROUTE keeps, in percent", show_label=False,
                        container=False, buttons=[], elem_id="la-keep",
                    )  # fmt: skip
    return answers, keep


def _connect(blocks: Any, components: PageComponents, workspace: Workspace) -> None:
    """Who does what when something is pressed."""
    import gradio as gr

    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    streaming: dict[str, Any] = {**quiet, "concurrency_limit": None}
    ask, compare, again = _asking(components, workspace)

    async def stop(request: gr.Request) -> dict[Any, Any]:
        workspace.stop(_window(request))
        return components.busy(False)

    async def left(request: gr.Request) -> None:
        workspace.leave(_window(request))

    # Apart: an image field that is skipped (gr.skip) is made anew by Gradio and loses its own way to read uploads.
    def choose(event: gr.EventData) -> tuple[Any, str]:
        try:
            return load_example(read_click(event._data, "scene"))
        except ValueError as error:
            raise gr.Error(str(error), print_exception=False) from None

    def others(event: gr.EventData) -> str:
        return examples_html(next_set(read_click(event._data, "set")))

    components.ask.click(ask, components.fields, components.shown, **streaming)
    components.question.submit(ask, components.fields, components.shown, **streaming)
    components.modes.input(compare, components.fields, components.shown, **streaming)
    components.keep.release(again, components.fields, components.shown, trigger_mode="multiple", **streaming)
    components.stop.click(stop, None, [components.stop], **streaming)
    components.scenes.click(choose, None, [components.image, components.question], **quiet)
    components.scenes.select(others, None, [components.scenes], **quiet)
    blocks.load(lambda: load_example(FIRST), None, [components.image, components.question], **quiet)
    blocks.load(_arriving(components, workspace), None, components.shown, **streaming)
    blocks.unload(left)


def _arriving(components: PageComponents, workspace: Workspace) -> Callable[..., Any]:
    """What a window shows unasked, once that is there."""
    import gradio as gr

    async def arrive(request: gr.Request) -> dict[Any, Any]:
        window = _window(request)
        answers = await workspace.arrive(window)
        html = {components.answers[mode]: html for mode, html in answers.items()}
        if answers or not workspace.has_question(window):
            html[components.intro] = _intro(workspace.scope, SHOWN if answers else READY)
        return html | {components.conclusions: workspace.conclusions(window)}

    return arrive


def _asking(components: PageComponents, workspace: Workspace) -> tuple[Callable[..., Any], ...]:
    """The three ways to ask: a new question, other modes for it, ROUTE with another share."""
    import gradio as gr

    async def follow(request: gr.Request, modes: Sequence[str], fields: FormFields) -> AsyncIterator[dict[Any, Any]]:
        yield components.busy(True)
        async for changed in workspace.answers(_window(request), modes, fields):
            html = {components.answers[mode]: html for mode, html in changed.items()}
            yield html | {components.conclusions: workspace.conclusions(_window(request))}
        yield components.busy(workspace.running(_window(request)))

    async def ask(request: gr.Request, *values: Any) -> AsyncIterator[dict[Any, Any]]:
        fields = FormFields(*values)
        try:
            modes = await workspace.begin(_window(request), fields)
        except ValueError as error:
            yield components.refused(error)
            return
        yield {components.message: "", components.intro: "", components.conclusions: ""} | {
            components.answers[mode]: "" for mode in MODES if mode not in modes
        }
        async for update in follow(request, modes, fields):
            yield update

    async def compare(request: gr.Request, *values: Any) -> AsyncIterator[dict[Any, Any]]:
        """Other modes were chosen: those without an answer to this question are asked."""
        fields = FormFields(*values)
        if not workspace.has_question(_window(request)) or not fields.modes:
            return
        shown, missing = workspace.compare(_window(request), read_modes(fields.modes))
        html = {components.answers[mode]: html for mode, html in shown.items()}
        yield html | {components.conclusions: workspace.conclusions(_window(request))}
        if missing:
            async for update in follow(request, missing, fields):
                yield update

    async def again(request: gr.Request, *values: Any) -> AsyncIterator[dict[Any, Any]]:
        """ROUTE's slider was let go."""
        if workspace.has_question(_window(request)):
            async for update in follow(request, ["route"], FormFields(*values)):
                yield update

    return ask, compare, again


def _window(request: Any) -> str:
    """What tells a browser's window from others."""
    return request.session_hash or ""
