"""The review page, made with Gradio: it passes keys and clicks on to the review session and shows its state.

Nothing is decided here. Gradio's analytics, its public links, its history and its interface for other programs are off,
and the page loads nothing from elsewhere.
"""

# No `from __future__ import annotations`: Gradio reads the annotation of `request`, a name inside of a function.
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from typing import Any

from look_again.extras import require
from look_again.pipeline.review import item_html as page
from look_again.pipeline.review.reviewers import ReviewAccess
from look_again.pipeline.review.session import PageState, ReviewSession
from look_again.web.guard import MAX_WAITING, PAGE_SERVER, PageGuard
from look_again.web.section_cards import sections_css

TITLE = "LookAgain review"
EDITING = (("save", "Save"), ("leave", "Leave"), ("reset", "Start over"))
ACTING = (
    ("accept", "Accept"),
    ("reject", "Reject"),
    ("edit", "Edit"),
    ("undo", "Undo"),
    ("earlier", "Earlier"),
    ("later", "Later"),
)


@dataclass
class PageParts:
    """The page's components; `who` and `seen` are hidden and go with every request."""

    who: Any
    seen: Any
    head: Any
    left: Any
    right: Any
    editing: Any
    editor: Any
    check: Any
    dock: Any
    saving: Any
    acting: Any
    note: Any

    def values(self, state: PageState, before: str) -> dict[Any, Any]:
        """The page's state as new values of the components; `before`: the row that was shown, "" for none.

        Of a row that stays, image and note are left alone, and after a refused edit the editor.
        """
        import gradio as gr

        updates = {
            self.who: state.reviewer,
            self.seen: state.seen,
            self.head: page.header_html(state),
            self.right: page.right_html(state),
            self.editing: gr.update(visible=state.editing),
            self.saving: gr.update(visible=state.editing),
            self.acting: gr.update(visible=not state.editing),
        }
        if state.seen != before or not before:
            updates |= {self.left: page.left_html(state), self.note: ""}
        if state.view is not None and state.editing and not state.refused:
            updates |= {self.editor: state.view.text, self.check: page.check_html(state)}
        return updates

    def checked(self, state: PageState) -> dict[Any, Any]:
        """What changes with every letter of an edit."""
        updates = {self.check: page.check_html(state)}
        return updates if state.refused else updates | {self.right: page.right_html(state)}


def make_page(session: ReviewSession, access: ReviewAccess) -> Any:
    """The page as Gradio blocks. MissingExtraError without gradio."""
    require("gradio", extra="ui")
    import gradio as gr

    with gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=True, delete_cache=(600, 3600)) as blocks:
        blocks.queue(max_size=MAX_WAITING)  # before the events, which a queue made later would not run side by side
        parts, buttons = _lay_out()
        _connect(blocks, parts, buttons, session, access)
    return blocks


def make_app(session: ReviewSession, access: ReviewAccess, port: int = 7860) -> Any:
    """The page as an ASGI application that answers whom `access` lets in."""
    blocks = make_page(session, access)
    import gradio as gr
    from fastapi import FastAPI

    asset = resources.files("look_again") / "assets" / "review"
    app = gr.mount_gradio_app(
        FastAPI(docs_url=None, redoc_url=None, openapi_url=None),
        blocks,
        path="",
        server_name=access.page.host,
        server_port=port,
        auth=access.login if access.page.closed else None,
        auth_message="Your name as a reviewer, and the password of this review.",
        footer_links=[],
        run_history=False,
        show_error=False,
        ssr_mode=False,
        enable_monitoring=False,
        mcp_server=False,
        pwa=False,
        theme=gr.themes.Default(font=gr.themes.Font("system-ui"), font_mono=gr.themes.Font("ui-monospace")),
        css=sections_css() + (asset / "page.css").read_text(encoding="utf-8") + page.badges_css(),
        head=f"<script>{(asset / 'keys.js').read_text(encoding='utf-8')}</script>",
    )
    return PageGuard(app, access.page)


def serve(app: Any, host: str, port: int) -> None:
    """Serve what `make_app` made until interrupted."""
    import uvicorn  # comes with gradio

    uvicorn.run(app, host=host, port=port, **PAGE_SERVER)


def _lay_out() -> tuple[PageParts, dict[str, Any]]:
    """All components, in the order in which they stand on the page."""
    import gradio as gr

    who, seen = (gr.Textbox(visible="hidden", elem_id=f"la-{name}", show_label=False) for name in ("who", "seen"))
    head = gr.HTML(elem_id="la-top")
    with gr.Row(elem_id="la-columns", equal_height=False):
        with gr.Column(scale=4, min_width=300, elem_id="la-left"):
            left = gr.HTML()
        with gr.Column(scale=7, min_width=400):
            with gr.Column(visible=False, elem_id="la-editing") as editing:
                editor = gr.Textbox(label="Edit the response", lines=9, max_lines=20, elem_id="la-editor")
                check = gr.HTML()
            right = gr.HTML()
    with gr.Column(elem_id="la-dock") as dock:
        with gr.Row(elem_id="la-saving", visible=False) as saving:
            buttons = _buttons(EDITING)
        with gr.Row(elem_id="la-actions") as acting:
            buttons |= _buttons(ACTING)
            note = gr.Textbox(
                label="Note",
                placeholder="note (optional)",
                show_label=False,
                container=False,
                elem_id="la-note",
                scale=2,
                min_width=120,
            )
        gr.HTML(page.keys_html())
    return PageParts(who, seen, head, left, right, editing, editor, check, dock, saving, acting, note), buttons


def _buttons(named: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    import gradio as gr

    return {name: gr.Button(label, elem_id=f"la-{name}", min_width=60) for name, label in named}


def _connect(
    blocks: Any, parts: PageParts, buttons: dict[str, Any], session: ReviewSession, access: ReviewAccess
) -> None:
    """Connect the page's events with the session's steps."""
    import gradio as gr

    shown = list(vars(parts).values())
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}

    def reviewer(request: gr.Request, who: str) -> str | None:
        requested = who or request.query_params.get("reviewer")
        return access.reviewer(getattr(request, "username", None), requested)

    def on(name: str, step: Callable[..., PageState], *given: Any) -> None:
        def answer(request: gr.Request, who: str, seen: str, *values: Any) -> dict[Any, Any]:
            name = reviewer(request, who)
            return _strangers(parts, session, access) if name is None else parts.values(step(name, seen, *values), seen)

        buttons[name].click(answer, [parts.who, parts.seen, *given], shown, **quiet)

    def opened(request: gr.Request) -> dict[Any, Any]:
        name = reviewer(request, "")
        return _strangers(parts, session, access) if name is None else parts.values(session.next(name), "")

    def typed(request: gr.Request, who: str, seen: str, edited: str) -> dict[Any, Any]:
        name = reviewer(request, who)
        return _strangers(parts, session, access) if name is None else parts.checked(session.keep(name, seen, edited))

    blocks.load(opened, None, shown, **quiet)
    # Not `input`: that event leaves out the first change after a text has come from here.
    parts.editor.change(typed, [parts.who, parts.seen, parts.editor], shown, trigger_mode="always_last", **quiet)
    on("accept", lambda who, seen, note: session.act(who, seen, "accept", note=note), parts.note)
    on("reject", lambda who, seen, note: session.act(who, seen, "reject", note=note), parts.note)
    on("undo", session.undo)
    on("earlier", lambda who, seen: session.browse(who, seen, -1))
    on("later", lambda who, seen: session.browse(who, seen, 1))
    on("edit", session.edit)
    on("leave", session.leave)
    on("reset", session.reset)
    on("save", lambda *given: _save(session, *given), parts.editor, parts.note)


def _save(session: ReviewSession, who: str, seen: str, edited: str, note: str) -> PageState:
    return session.act(who, seen, "edit", response=edited, note=note)


def _strangers(parts: PageParts, session: ReviewSession, access: ReviewAccess) -> dict[Any, Any]:
    """The page before anybody is known."""
    import gradio as gr

    progress = {name: session.progress(name) for name in access.reviewers}
    shown_progress = {name: f"{share.decided} of {share.share} decided" for name, share in progress.items()}
    hidden = gr.update(visible=False)
    updates = {
        parts.head: page.chooser_html(access.reviewers, shown_progress),
        parts.editing: hidden,
        parts.dock: hidden,
    }
    return updates | dict.fromkeys((parts.who, parts.seen, parts.left, parts.right), "")
