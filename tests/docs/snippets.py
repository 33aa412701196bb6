"""Reads the code blocks and the command lines of the documentation."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from look_again.commands.main import COMMANDS, build_parser

ROOT = Path(__file__).parents[2]
FENCE = re.compile(
    r"(?:<!-- (?P<mark>[^\n]*?) -->\n)?^(?P<indent> *)```(?P<language>[\w+-]*)\n(?P<text>.*?)^ *```$", re.M | re.S
)
ASSIGNMENT = re.compile(r"[A-Z_][A-Z0-9_]*=")
SEPARATORS = {"&&", "||", ";", "|", "&"}
ELLIPSIS = "…"


@dataclass(frozen=True)
class Snippet:
    """A fenced block: where it stands, its language, its text, and the HTML comment on the line above it."""

    document: Path
    line: int
    language: str
    text: str
    mark: str

    def __str__(self) -> str:
        return f"{self.document.relative_to(ROOT)}:{self.line}"


def find_documents() -> list[Path]:
    """Returns every Markdown file that a reader is led to."""
    patterns = ("*.md", "docs/**/*.md", "benchmarks/*.md", "recipes/**/*.md", "src/look_again/assets/tiny/*.md")
    return sorted(path for pattern in patterns for path in ROOT.glob(pattern))


def find_snippets(*languages: str) -> list[Snippet]:
    """Returns the fenced blocks in these languages, in the order of the documents."""
    return [snippet for path in find_documents() for snippet in read_snippets(path) if snippet.language in languages]


def read_snippets(path: Path) -> Iterator[Snippet]:
    text = path.read_text(encoding="utf-8")
    for match in FENCE.finditer(text):
        line = text.count("\n", 0, match.start("language")) + 1
        yield Snippet(path, line, match["language"], match["text"], match["mark"] or "")


def find_commands() -> list[tuple[str, list[str]]]:
    """Returns the place and the arguments of every `look-again` command line in a block of shell commands."""
    return [
        (f"{snippet} {shlex.join(arguments)}", arguments)
        for snippet in find_snippets("sh")
        for line in snippet.text.replace("\\\n", " ").splitlines()
        for arguments in split_commands(line)
    ]


def split_commands(line: str) -> Iterator[list[str]]:
    """Yields the arguments of each `look-again …` or `… -m look_again …` in one line of shell."""
    try:
        words = shlex.split(line, comments=True)
    except ValueError:  # a quotation over several lines holds data, no command
        return
    command: list[str] = []
    for word in [*words, ";"]:
        if word not in SEPARATORS:
            command.append(word)
            continue
        while command and ASSIGNMENT.match(command[0]):
            del command[0]
        if command and Path(command[0]).name == "look-again":
            yield command[1:]
        elif "look_again" in command and command[command.index("look_again") - 1] == "-m":
            yield command[command.index("look_again") + 1 :]
        command = []


def find_mentions() -> list[tuple[str, list[str]]]:
    """Returns the place and the words of every `look-again …` in running text; `a|b` counts once for each."""
    return [
        (f"{path.relative_to(ROOT)} {' '.join(words)}", words)
        for path in find_documents()
        for code in re.findall(r"`look-again ([^`]+)`", FENCE.sub("", path.read_text(encoding="utf-8")))
        for words in expand(code.replace("\\|", "|").split())
    ]


def expand(words: list[str]) -> list[list[str]]:
    readings: list[list[str]] = [[]]
    for word in words:
        readings = [[*reading, choice] for reading in readings for choice in word.split("|")]
    return readings


def check_mention(words: list[str]) -> None:
    """Descends through the parsers as far as the words name commands; then every option has to be known there.

    Raises AssertionError for a command or an option that does not exist. What is left out ("…", required arguments) is
    not missed.
    """
    assert words[0] in COMMANDS, f"there is no command {words[0]!r}"
    parser = choose(build_parser(words[0]), words[0])
    for word in words[1:]:
        if word.startswith("--"):
            option = word.split("=")[0]
            assert option in parser._option_string_actions, f"{parser.prog} has no option {option}"
        elif has_parts(parser) and word != ELLIPSIS and not word.isupper():
            parser = choose(parser, word)


def find_options() -> set[str]:
    """Returns the options of all commands."""
    options: set[str] = set()
    for name in COMMANDS:
        waiting = [choose(build_parser(name), name)]
        while waiting:
            parser = waiting.pop()
            options |= set(parser._option_string_actions)
            waiting += [part for action in find_parts(parser) for part in action.choices.values()]
    return options


def find_parts(parser: argparse.ArgumentParser) -> list[argparse._SubParsersAction]:
    return [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]


def has_parts(parser: argparse.ArgumentParser) -> bool:
    return bool(find_parts(parser))


def choose(parser: argparse.ArgumentParser, name: str) -> argparse.ArgumentParser:
    choices = {key: part for action in find_parts(parser) for key, part in action.choices.items()}
    assert name in choices, f"{parser.prog} has no part {name!r}"
    return choices[name]
