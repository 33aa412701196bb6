"""The words of a stage's command, however it starts this program."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from itertools import pairwise


def find_words(line: str) -> list[str] | None:
    """The words behind `look-again`, or behind the `-m look_again` of a launcher; None for other programs."""
    program, *words = shlex.split(line)
    if program == "look-again":
        return words
    places = [place for place, pair in enumerate(pairwise(words)) if pair == ("-m", "look_again")]
    return words[places[0] + 2 :] if places else None


def find_option(words: Sequence[str], name: str) -> list[str]:
    """Every value of an option, given as `--name value` or `--name=value`."""
    apart = [value for word, value in pairwise(words) if word == name]
    return apart + [word.partition("=")[2] for word in words if word.startswith(f"{name}=")]
