"""A response on the page: its sections in colour, what is wrong with it, and the live check of an edit.

A text that breaks the grammar is shown all the same. A row's words are escaped.
"""

from __future__ import annotations

from dataclasses import dataclass

from look_again.text.grammar import Problem, StreamParser, open_tag, parse, split_at_tags
from look_again.web.section_cards import escape, section_html, section_name

__all__ = ["blocks", "escape", "explain", "grammar_html", "problems_html", "sections_html"]

PROBLEMS_NAMED = 4
ORDER = "SUMMARY, CAPTION, REASONING, any number of REFLECTIONs, CONCLUSION"


@dataclass
class Block:
    """A piece of a response as it is shown: a section's text (tag None: text outside of any)."""

    tag: str | None
    text: str = ""
    closed: bool = False


def blocks(text: str) -> list[Block]:
    """A response as pieces, in order; blank text between sections is left out."""
    parser, pieces = StreamParser(), list[Block]()
    for event in (*parser.feed(text), *parser.flush()):
        if event.kind == "open":
            pieces.append(Block(event.tag))
        elif event.kind == "close":
            pieces[-1].closed = True
        elif pieces and pieces[-1].tag == event.tag and not pieces[-1].closed:
            pieces[-1].text += event.text
        else:
            pieces.append(Block(event.tag, event.text))
    return [block for block in pieces if block.tag or block.text.strip()]


def sections_html(text: str | None) -> str:
    """A response with its sections in colour."""
    if not (text or "").strip():
        return '<p class="la-none">no response</p>'
    return f'<div class="la-sections">{"".join(_block_html(block) for block in blocks(text or ""))}</div>'


def _block_html(block: Block) -> str:
    unclosed = ' <span class="la-bad">never closed</span>' if block.tag and not block.closed else ""
    body = escape(block.text.strip()) or '<i class="la-none">empty</i>'
    return section_html(block.tag, f"{escape(section_name(block.tag))}{unclosed}", body)


def explain(problem: Problem, text: str) -> str:
    """A breach of the grammar as a sentence, with the line that it is on (lines count from 1)."""
    tag = problem.tag or ""
    if problem.kind == "missing":
        return f"There is no {open_tag(tag)} section{'; one at least is needed' if tag == 'REFLECTION' else ''}."
    sentence = {
        "repeated": f"<{tag}> comes a second time",
        "out-of-order": f"<{tag}> stands in the wrong place; the order is {ORDER}",
        "nested": f"<{tag}> is opened inside of another section",
        "unclosed": f"<{tag}> is never closed by </{tag}>",
        "unopened": f"</{tag}> closes nothing",
        "text-outside": f"there is text outside of the sections: {_start(text[problem.at :])}",
        "empty": f"<{tag}> is empty",
    }[problem.kind]
    return f"Line {text.count(chr(10), 0, problem.at) + 1}: {sentence}."


def _start(text: str, characters: int = 40) -> str:
    line = split_at_tags(text)[0].strip().partition("\n")[0]
    return f"“{line[:characters]}{'…' if len(line) > characters else ''}”"


def problems_html(text: str) -> str:
    """What is wrong with a response, one sentence a line; "" for one in the grammar.

    The first few, and none after a section that is not closed: all that comes then seems wrong because of it.
    """
    problems = parse(text).problems
    unclosed = next((at for at, problem in enumerate(problems, start=1) if problem.kind == "unclosed"), PROBLEMS_NAMED)
    named = problems[: min(unclosed, PROBLEMS_NAMED)]
    lines = [escape(explain(problem, text)) for problem in named]
    if more := len(problems) - len(named):
        lines.append(f"And {more} more, which may follow from {'this' if len(named) == 1 else 'these'}.")
    return f"<ul>{''.join(f'<li>{line}</li>' for line in lines)}</ul>" if lines else ""


def grammar_html(text: str, changed: bool = True) -> str:
    """The live check of an edit; changed: whether the text differs from what stood there."""
    if wrong := problems_html(text):
        return f'<div class="la-check la-refused" role="status"><b>✗ The grammar is broken.</b>{wrong}</div>'
    then = "Ctrl+Enter saves." if changed else "Nothing is changed yet."
    return f'<div class="la-check la-fine" role="status"><b>✓ The grammar holds.</b> {then}</div>'
