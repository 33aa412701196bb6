"""Which of COCO's 80 object classes a caption mentions, by the rules of CHAIR (Rohrbach et al., EMNLP 2018).

Words are brought to the singular, common word pairs become one word ("hot dog" is no dog, "baby bear" no person), a
seat beside a toilet is no chair, and every word of the list stands for its class, each time it occurs.

The original singularises with a library whose rules are wrong now and then, later copies with WordNet and a tagger that
must be downloaded. Here the plurals of the listed words are built by rule, with a table of irregular ones, and looked
up; so nothing that is not a form of a listed noun can match. Known differences: verb forms are no objects ("seated" and
"skiing" are, to a lemmatiser of verbs), and marks of emphasis do not hide a word ("**dog**"). As in the original, a
colour is a fruit ("an orange cat"), a denied object is a mention, and a hyphenated word is none, nor is "couch/sofa".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

NORMALISER = "plurals of the 80 classes' words by rule and table (look_again.evaluation.benchmarks.chair_words)"

_TOKEN = re.compile(
    r"[^\W_]+(?:(?:[-/]|['’](?!s(?![^\W_])))[^\W_]+)*"  # a word, hyphens, slashes and inner apostrophes included
    r"|['’]s(?![^\W_])"  # a possessive, which keeps two words apart
    r"|[^\s\w*`]"  # any other mark, which does too; emphasis does not
)
_YOUNG = ("baby", "adult")  # as adjectives they name no person
_ANIMALS = ("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "animal", "cub")
_PAIRS_OF_NO_CLASS = ("home plate", "train track")
_PAIRS_OF_ONE_WORD = {"bow tie": "tie", "toilet seat": "toilet", "passenger jet": "jet", "passenger train": "train"}
_IRREGULAR = {
    "men": "man",
    "women": "woman",
    "policemen": "policeman",
    "gentlemen": "gentleman",
    "servicemen": "serviceman",
    "grandchildren": "grandchild",
    "thieves": "thief",
    "knives": "knife",
    "pocketknives": "pocketknife",
    "geese": "goose",
    "mice": "mouse",
    "calves": "calf",
}


@dataclass(frozen=True)
class Caption:
    """What a text mentions. words: its length. objects: the class of each mention, in order, with repeats."""

    words: int
    objects: tuple[str, ...]


@dataclass(frozen=True)
class Vocabulary:
    """class_of: word or pair -> class. singular: plural -> word. pairs: first word -> second word -> what they make."""

    class_of: Mapping[str, str]
    singular: Mapping[str, str]
    pairs: Mapping[str, Mapping[str, str]]


@cache
def vocabulary() -> Vocabulary:
    """The list of words that the package ships, with the plurals and pairs made from it."""
    text = (files("look_again") / "assets" / "coco_words.txt").read_text(encoding="utf-8")
    class_of: dict[str, str] = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            name, _, others = line.partition(":")
            class_of |= dict.fromkeys([name, *filter(None, others.strip().split(", "))], name)
    joined = {word: word for word in class_of if " " in word} | {pair: pair for pair in _PAIRS_OF_NO_CLASS}
    joined |= {f"{age} {animal}": animal for age in _YOUNG for animal in _ANIMALS} | _PAIRS_OF_ONE_WORD
    pairs: dict[str, dict[str, str]] = {}
    for pair, word in joined.items():
        first, second = pair.split(" ")
        pairs.setdefault(first, {})[second] = word
    seconds = {second for row in pairs.values() for second in row}
    return Vocabulary(class_of, _singulars({*class_of, *seconds}), pairs)


def _singulars(words: set[str]) -> dict[str, str]:
    """Plural -> singular for all the words; no listed word is taken for a plural ("skis" is a word of its own)."""
    regular = {plural: word for word in words if " " not in word for plural in _plurals(word)}
    return {plural: word for plural, word in (regular | _IRREGULAR).items() if plural not in words}


def _plurals(word: str) -> list[str]:
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return [f"{word}es"]
    if word.endswith("y") and word[-2] not in "aeiou":
        return [f"{word[:-1]}ies"]
    return [f"{word}s", f"{word}es"] if word.endswith("o") else [f"{word}s"]


def read_caption(text: str) -> Caption:
    """The objects that `text` mentions; time is linear in its length."""
    known = vocabulary()
    tokens = _TOKEN.findall(text.lower())
    words = _joined([known.singular.get(token, token) for token in tokens], known.pairs)
    if "toilet" in words:
        words = [word for word in words if word != "seat"]
    objects = tuple(known.class_of[word] for word in words if word in known.class_of)
    return Caption(sum(token[0].isalnum() for token in tokens), objects)


def _joined(words: list[str], pairs: Mapping[str, Mapping[str, str]]) -> list[str]:
    """The words with every known pair made one, from the left."""
    joined: list[str] = []
    waiting: Mapping[str, str] = {}  # what the last word can become, by the word that follows
    for word in words:
        if word in waiting:
            joined[-1] = waiting[word]
            waiting = {}
        else:
            joined.append(word)
            waiting = pairs.get(word, {})
    return joined
