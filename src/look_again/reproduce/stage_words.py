"""The words of a stage's command, however it starts this program."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from itertools import pairwise


def find_words(line: str) -> list[str]:
    """The words behind `look-again`, or behind the `-m look_again` of a launcher; none for other programs."""
    program, *words = shlex.split(line)
    if program == "look-again":
        return words
    places = [place for place, pair in enumerate(pairwise(words)) if pair == ("-m", "look_again")]
    return words[places[0] + 2 :] if places else []


def starts_program(line: str) -> bool:
    """Whether a command starts `look-again`, itself or by a launcher."""
    program, *words = shlex.split(line)
    return program == "look-again" or ("-m", "look_again") in pairwise(words)


def find_option(words: Sequence[str], name: str) -> list[str]:
    """Every value of an option, given as `--name value` or `--name=value`."""
    apart = [value for word, value in pairwise(words) if word == name]
    return apart + [word.partition("=")[2] for word in words if word.startswith(f"{name}=")]
