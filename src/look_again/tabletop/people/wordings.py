"""How people ask: many wordings of every kind of question, in any case, with or without a request for a length.

The rows of `samples` keep one wording a kind; these are drawn beside them, from streams of their own, for training and
for measuring a model that has to bear people. Some wordings are kept from training (`UNSEEN`), so that it can be
measured whether others than those learned are understood.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping

from look_again.tabletop.oracle import REQUESTS
from look_again.tabletop.questions import Question
from look_again.tabletop.world import COLOURS, PLACES, SHAPES

_CANONICAL = {
    "count": re.compile(r"How many (?P<plural>.+) are there\?"),
    "subtract": re.compile(r"Subtract all (?P<plural>.+)\. How many objects are left\?"),
    "exist": re.compile(r"Is there a (?P<singular>.+)\?"),
    "compare": re.compile(r"Are there more (?P<plural>.+) than (?P<others>.+)\?"),
    "attribute": re.compile(r"What (?P<attribute>colour|shape) is the object at (?P<place>[a-f][1-6])\?"),
    "odd": re.compile(r"All objects but one have the same (?P<attribute>colour|shape)\. Which .+"),
    "total": re.compile(r"How many objects are there\?"),
    "object": re.compile(r"What is at (?P<place>[a-f][1-6])\?"),
    "list": re.compile(r"What is in this picture\?"),
}

WORDINGS: Mapping[str, tuple[str, ...]] = {
    "count": (
        "How many {plural} are there?",
        "How many {plural} do you see?",
        "How many {plural} can you see?",
        "How many {plural} are on the table?",
        "How many {plural} does the picture show?",
        "How many {plural}?",
        "Count the {plural}.",
        "Count all {plural}.",
        "Count every {singular}.",
        "What is the number of {plural}?",
        "Give the number of {plural}.",
        "Tell me how many {plural} there are.",
        "I want to know how many {plural} there are.",
        "Number of {plural}?",
        "{plural}: how many?",
        "What number of {plural} is there?",
        "Say how many {plural} you find.",
        "How often does a {singular} appear?",
        "What is the count of {plural}?",
        "How many of the objects are {plural}?",
    ),
    "subtract": (
        "Subtract all {plural}. How many objects are left?",
        "Remove all {plural}. How many objects remain?",
        "Take away all {plural}. How many are left?",
        "Take away every {singular}. What number remains?",
        "If you remove the {plural}, how many objects are left?",
        "How many objects are left without the {plural}?",
        "How many objects are left if all {plural} are taken away?",
        "How many objects remain after removing all {plural}?",
        "How many objects are not {plural}?",
        "Count everything except the {plural}.",
        "Count the objects that are not {plural}.",
        "Without the {plural}, how many objects are there?",
        "Ignore the {plural}. How many others are there?",
        "Leave out all {plural} and count the rest.",
        "Not counting the {plural}, how many objects are there?",
        "What remains when the {plural} are gone? Give the number.",
        "Delete every {singular}: how many objects stay?",
        "How many other objects are there besides the {plural}?",
    ),
    "exist": (
        "Is there a {singular}?",
        "Is there any {singular}?",
        "Are there any {plural}?",
        "Do you see a {singular}?",
        "Do you see any {plural}?",
        "Can you see a {singular}?",
        "Does the picture show a {singular}?",
        "Is a {singular} on the table?",
        "Is there a {singular} on the table?",
        "Is a {singular} present?",
        "Does a {singular} exist?",
        "Is there at least one {singular}?",
        "Tell me whether there is a {singular}.",
        "Can you find a {singular}?",
        "Any {plural}?",
        "Check if there is a {singular}.",
        "Look for a {singular}: is it there?",
        "Is one of the objects a {singular}?",
        "Yes or no: is there a {singular}?",
    ),
    "compare": (
        "Are there more {plural} than {others}?",
        "Do you see more {plural} than {others}?",
        "Can you see more {plural} than {others}?",
        "Is the number of {plural} larger than the number of {others}?",
        "Is the number of {plural} greater than that of {others}?",
        "Do {plural} outnumber {others}?",
        "Are the {plural} more than the {others}?",
        "Are {plural} more numerous than {others}?",
        "Are there fewer {others} than {plural}?",
        "Do you see fewer {others} than {plural}?",
        "Are there less {others} than {plural}?",
        "Does the picture show more {plural} than {others}?",
        "Tell me whether there are more {plural} than {others}.",
        "More {plural} than {others}?",
        "Compare {plural} and {others}: are there more {plural}?",
        "Count {plural} and {others}. Are there more {plural}?",
        "Is it true that there are more {plural} than {others}?",
        "Yes or no: more {plural} than {others}?",
    ),
    "attribute": (
        "What {attribute} is the object at {place}?",
        "Which {attribute} is the object at {place}?",
        "What {attribute} does the object at {place} have?",
        "What is the {attribute} of the object at {place}?",
        "What is the {attribute} at {place}?",
        "Tell me the {attribute} of the object at {place}.",
        "Name the {attribute} at {place}.",
        "Which {attribute} do you see at {place}?",
        "At {place}, what {attribute} is the object?",
        "{place}: what {attribute}?",
        "What {attribute} is {place}?",
        "Look at {place}. What {attribute} is the object there?",
        "There is an object at {place}. What is its {attribute}?",
        "Give the {attribute} of what is at {place}.",
        "The object at {place} has which {attribute}?",
        "{attribute} of {place}?",
        "What is the {attribute} of {place}?",
        "Say the {attribute} of the object in place {place}.",
    ),
    "odd": (
        "All objects but one have the same {attribute}. Which {attribute} is the odd one out?",
        "Which {attribute} is the odd one out?",
        "What is the odd {attribute}?",
        "Which {attribute} is different from all others?",
        "One object has another {attribute} than the rest. Which {attribute}?",
        "All objects share one {attribute} except one. What {attribute} does it have?",
        "Find the odd one out by {attribute}.",
        "Find the odd {attribute}.",
        "Which {attribute} does not fit?",
        "What {attribute} does the object have that differs from the others?",
        "Name the {attribute} that only one object has.",
        "Which {attribute} occurs only once?",
        "Everything but one object has the same {attribute}. What is the other {attribute}?",
        "One object does not belong because of its {attribute}. Which {attribute} is it?",
        "Tell me the {attribute} of the odd object.",
        "What {attribute} is the odd one?",
        "Which {attribute} stands out?",
        "The {attribute} of one object differs. Which one?",
    ),
    "total": (
        "How many objects are there?",
        "How many objects do you see?",
        "How many objects are on the table?",
        "How many objects does the picture show?",
        "Count the objects.",
        "Count all objects.",
        "Count everything.",
        "What is the number of objects?",
        "How many are there in total?",
        "How many objects are there altogether?",
        "Tell me how many objects there are.",
    ),
    "object": (
        "What is at {place}?",
        "What do you see at {place}?",
        "Which object is at {place}?",
        "What object is at {place}?",
        "Name the object at {place}.",
        "What lies at {place}?",
        "Describe the object at {place}.",
        "Tell me what is at {place}.",
        "{place}?",
        "What is in place {place}?",
    ),
    "list": (
        "What is in this picture?",
        "What is in the image?",
        "What do you see?",
        "What can you see?",
        "What can you see in this image?",
        "Describe the image.",
        "Describe this picture.",
        "Describe what you see.",
        "What does the picture show?",
        "List all objects.",
        "List the objects.",
        "Name all objects.",
        "Which objects are there?",
        "What is on the table?",
        "What objects are on the table?",
        "Tell me what is there.",
        "What's in this picture?",
        "Caption this image.",
        "What is this?",
    ),
}

UNSEEN: Mapping[str, tuple[str, ...]] = {
    "count": (
        "Please count how many {plural} there are.",
        "What is the total number of {plural}?",
        "How many {plural} are visible?",
        "Could you count the {plural} here?",
        "How many {plural} have you got?",
        "How many {plural} are shown?",
    ),
    "subtract": (
        "If I take all {plural} away, how many objects are still there?",
        "How many objects are there apart from the {plural}?",
        "Throw out the {plural}. How many are left?",
        "How many objects are left once the {plural} are removed?",
        "Drop every {singular}. How many objects remain?",
        "How many things are not {plural}?",
    ),
    "exist": (
        "Can a {singular} be seen?",
        "Is there a {singular} anywhere?",
        "Are there {plural}?",
        "Does this scene have a {singular}?",
        "Do you find any {plural} here?",
        "Is there even one {singular}?",
    ),
    "compare": (
        "Would you say there are more {plural} than {others}?",
        "Are more {plural} than {others} visible?",
        "Is there a larger number of {plural} than {others}?",
        "Is it right that {plural} outnumber {others}?",
        "Are there really more {plural} than {others} here?",
        "Does the table hold more {plural} than {others}?",
    ),
    "attribute": (
        "Which {attribute} has the object at {place}?",
        "Can you name the {attribute} of the object at {place}?",
        "What's the {attribute} of the thing at {place}?",
        "I look at {place}: which {attribute} is there?",
        "The thing at {place}, what {attribute} is it?",
        "Please give me the {attribute} at {place}.",
    ),
    "odd": (
        "Which {attribute} is unlike all the others?",
        "What {attribute} is the one that stands out?",
        "One object differs in {attribute}. Which {attribute} does it have?",
        "Which {attribute} appears just once?",
        "By {attribute}, which is the odd one out?",
        "What {attribute} is the object that does not match the rest?",
    ),
}

SHORTER = {
    "brief": ("Be brief.", "In short.", "Short answer please.", "Just the answer."),
    "normal": ("Explain.", "Show your steps.", "Think first."),
    "long": ("Think carefully.", "Take your time.", "In detail."),
}
OPENINGS = ("Please: ", "Please tell me: ", "Hi, ", "Hello! ", "Can you tell me: ", "Look at the image. ", "Question: ")
TAILS = (" in the picture", " in this image", " here", ", please", " in the photo", " in the scene")
KEY_WORDS = {
    *COLOURS,
    *SHAPES,
    *PLACES,
    *(f"{shape}s" for shape in SHAPES),
    "colour",
    "color",
    "shape",
    "more",
    "fewer",
}


def reword(rng: random.Random, question: Question, *, unseen: bool = False) -> str:
    """The question as somebody else would put it, with capitals and full stops as in print.

    unseen: in one of the wordings that training never shows. ValueError for a question of another kind.
    """
    pattern = _CANONICAL.get(question.kind)
    found = pattern.fullmatch(question.text) if pattern else None
    if found is None:
        raise ValueError(f"{question.text!r} is no question of {', '.join(WORDINGS)}")
    wordings = UNSEEN if unseen else WORDINGS
    text = rng.choice(wordings[question.kind]).format(**_slots(found.groupdict()))
    return text[0].upper() + text[1:] if text.split()[0].lower().strip(":?,") not in PLACES else text


def _slots(found: Mapping[str, str]) -> dict[str, str]:
    """What a wording may name: plural and singular follow from one another."""
    slots = dict(found)
    if "plural" in slots:
        slots["singular"] = slots["plural"].removesuffix("s")
    elif "singular" in slots:
        slots["plural"] = f"{slots['singular']}s"
    return slots


def as_typed(rng: random.Random, text: str) -> str:
    """The text as it is typed: another spelling, an opening or a tail, any case, without its last mark, or a slip."""
    if rng.random() < 0.4:
        text = text.replace("colour", "color").replace("Colour", "Color")
    if rng.random() < 0.25:
        text = _replace_objects(rng, text)
    if rng.random() < 0.12 and text[-1] in "?.":
        text = text[:-1] + rng.choice(TAILS) + text[-1]
    if rng.random() < 0.12:
        text = rng.choice(OPENINGS) + text
    if rng.random() < 0.06:
        text = _slip(rng, text)
    if rng.random() < 0.2:
        text = text.rstrip("?.")
    return change_case(rng, text)


def change_case(rng: random.Random, text: str) -> str:
    """The text as it stands, in lower case, in capitals, or with every word capitalised."""
    change = rng.choices(("none", "lower", "upper", "title"), weights=(46, 40, 8, 6))[0]
    return text if change == "none" else getattr(text, change)()


def request_length(rng: random.Random, length: str, text: str) -> str:
    """The text behind a request for a length, in the words of the rows or in others."""
    request = REQUESTS[length] if rng.random() < 0.7 else rng.choice(SHORTER[length])
    return f"{text} {request.lower() if text == text.lower() else request}"


def _replace_objects(rng: random.Random, text: str) -> str:
    word = rng.choice(("thing", "item"))
    return re.sub(r"\bobject(s?)\b", rf"{word}\1", text)


def _slip(rng: random.Random, text: str) -> str:
    """One letter of a word that says little is missing, or two are swapped."""
    words = text.split(" ")
    plain = [i for i, word in enumerate(words) if len(word) > 3 and word.strip("?.:,").lower() not in KEY_WORDS]
    if not plain:
        return text
    i = rng.choice(plain)
    at = rng.randrange(1, len(words[i]) - 1)
    left, right = words[i][:at], words[i][at:]
    words[i] = left + right[1:] if rng.random() < 0.5 else left[:-1] + right[0] + left[-1] + right[1:]
    return " ".join(words)
