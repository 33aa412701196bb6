"""How a response is put on a page: its sections in colour, with their names, every word escaped.

The five sections of the response format (paper, "The response format") have a colour each (assets/pages/sections.css)
and a name beside it, so that nothing hangs on colour alone.
"""

from __future__ import annotations

import html
from importlib import resources


def escape(text: object) -> str:
    """Text as HTML, also where a page's templates look for braces and dollar signs."""
    return html.escape(str(text)).replace("{", "&#123;").replace("}", "&#125;").replace("$", "&#36;")


def section_html(tag: str | None, title: str, body: str, attributes: str = "") -> str:
    """A section as a card in its colour (tag None: text outside of any); title, body and attributes are HTML."""
    name = (tag or "outside").lower()
    return f'<section class="la-section la-{name}"{attributes}><h4>{title}</h4><div>{body}</div></section>'


def section_name(tag: str | None) -> str:
    """What a card is called."""
    return tag or "outside of all sections"


def sections_css() -> str:
    """The style sheet of the cards."""
    return (resources.files("look_again") / "assets" / "pages" / "sections.css").read_text(encoding="utf-8")
