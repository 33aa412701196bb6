"""Multiple choice: the instruction, the strict reading of a letter, the rules of the harnesses, accuracies by group.

The paper gives accuracies and no rule. Each benchmark is scored twice: by the rule of its own harness, reproduced
here with its quirks, and strictly, by `look_again.scoring.extraction`, where a reply that names no option, or two,
is wrong and
counted. The instruction is ours, so scores compare within this project rather than with published tables.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from string import ascii_uppercase

from look_again.data.fields import short
from look_again.data.sample import SampleError
from look_again.evaluation.benchmark import JSON, BenchmarkItem, ItemScore, ModelReply, Scores
from look_again.scoring.extraction import LETTERS, extract

LETTER_INSTRUCTION = "Which option is right? Give its letter as the final answer."

STRICT_RULE = (
    "strict: the one option that the final answer names by letter or text (look_again.scoring.extraction); "
    "none or several: wrong and unparsed"
)

Metrics = dict[str, float | int | None]

_MATCH_MARKS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_MATCH_LAST_WORDS = 5
_NO_REPLY = "Failed to obtain answer via API"
_VERBOSE_CUE = re.compile(r"(?i)answer\s+is\s+\**([ABCD])")
_REFUSALS = (  # phrases of known APIs, by which VLMEvalKit tells that no option was chosen
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)


def reference_letter(value: object, options: Sequence[str], row_id: str) -> str:
    """The answer's letter; SampleError unless it is the capital of one of `options`, and for more than ten of those."""
    if not 1 < len(options) <= len(LETTERS):
        raise SampleError(row_id, f"{len(options)} options: 2 to {len(LETTERS)} can be told apart by letters")
    known = LETTERS[: len(options)]
    if not isinstance(value, str) or len(value.strip()) != 1 or value.strip() not in known:
        raise SampleError(row_id, f"answer is {short(value)}: one of the letters {known[0]} to {known[-1]} is needed")
    return value.strip()


def strict_letter(text: str, options: Sequence[str]) -> str | None:
    r"""The letter of the one option that `text` names, None for none or several. No guess.

    The last `\boxed{…}` counts alone where there is one. Letters in full width, circled or mathematical type are
    letters; look-alikes of other scripts, such as a Cyrillic В, are not.
    """
    return extract(text, "letter", options)


def mmmu_letter(text: str, options: Sequence[str]) -> str | None:
    """The letter as MMMU's own parser reads it; None where it would guess.

    The first that is found: letters in brackets, letters between blanks, and, in more than five words, texts of
    options. Of several the last one in the text counts, so that in "B because A is wrong" it is A. "B. red" is a guess.
    (MMMU, mmmu/utils/eval_utils.py at bb0b95a.)
    """
    return _last_found(text, options, (("({})", "({})"), (" {} ", " {} ")))


def lmms_letter(text: str, options: Sequence[str]) -> str | None:
    """The letter as MMMU-Pro's parser and lmms-eval read it without an "Answer:"; None where they would guess.

    As `mmmu_letter`, but a letter counts before a blank or a full stop also at the end of a word, as in "DNA " or
    "B. red". (MMMU-Pro, mmmu-pro/evaluate.py at bb0b95a; lmms-eval 0.7.3, lmms_eval/tasks/mmmu/utils.py.)
    """
    return _last_found(text, options, (("({})", "({})"), ("{} ", " {} "), ("{}.", " {} ")))


def _last_found(text: str, options: Sequence[str], forms: Sequence[tuple[str, str]]) -> str | None:
    """forms: (what makes a letter a candidate, what places it in the text), in order of precedence."""
    for mark in ",.!?;:'":
        text = text.strip(mark)
    text = f" {text} "
    letters = ascii_uppercase[: len(options)]
    for form, place in forms:
        if found := [letter for letter in letters if form.format(letter) in text]:
            return max(found, key=lambda letter: text.rfind(place.format(letter)))
    if len(text.split()) <= 5:
        return None
    lower = text.lower()
    quoted = {
        letter: option.lower() for letter, option in zip(letters, options, strict=True) if option.lower() in lower
    }
    return max(quoted, key=lambda letter: lower.rfind(quoted[letter]), default=None)


def guess(item_id: str, options: Sequence[str]) -> str:
    """The letter that stands for a reply without one in MMMU's official score: random, and always the same per item."""
    return random.Random(item_id).choice(ascii_uppercase[: len(options)])


def matched_letter(text: str, options: Sequence[str], *, verbose: bool = False) -> str | None:
    """The letter as VLMEvalKit's matching without a judge reads it; None, which it counts as wrong.

    The only letter that is a word of its own, if it is among the last five words; else, with `verbose`, the one of A
    to D behind the first "answer is", also in bold; else the only option whose text occurs in a reply no longer than
    twice all options. "Z" for a refusal. (VLMEvalKit, vlmeval/utils/matching_util.py at 590f052, February 2026;
    `verbose`: since a67ace5, June 2026.)
    """
    if _NO_REPLY in text:
        return _matched_option(text, options)
    if any(refusal in text for refusal in _REFUSALS):
        return "Z"
    letters = ascii_uppercase[: len(options)]
    words = text.translate(_MATCH_MARKS).split()
    named = [letter for letter in letters if letter in words]
    if len(named) == 1 and words.index(named[0]) > len(words) - _MATCH_LAST_WORDS:
        return named[0]
    if not named and "Z" in words:
        return "Z"
    cued = _VERBOSE_CUE.search(text) if verbose else None
    if cued and cued[1].upper() in letters:
        return cued[1].upper()
    return _matched_option(text, options)


def _matched_option(text: str, options: Sequence[str]) -> str | None:
    lower = text.lower()
    if len(lower) > 2 * sum(map(len, options)):
        return None
    pairs = zip(ascii_uppercase, options, strict=False)
    quoted = [letter for letter, option in pairs if option.lower() in lower]
    return quoted[0] if len(quoted) == 1 else None


def score_choice(item: BenchmarkItem, reply: ModelReply, official: str | None, **facts: JSON) -> ItemScore:
    """Points for the official reading, and for the strict one of the final answer against `item.facts["options"]`."""
    found = strict_letter(reply.final, item.facts["options"])
    return ItemScore(
        official=float(official == item.reference),
        strict=float(found == item.reference),
        extracted=found,
        unparsed=found is None,
        facts={"official_answer": official} | facts,
    )


def accuracies(scores: Sequence[ItemScore]) -> Metrics:
    """accuracy by the official rule, strict_accuracy (shares; None of no items), items and unparsed (counts)."""
    return {
        "accuracy": mean([score.official or 0.0 for score in scores]),
        "strict_accuracy": mean([score.strict or 0.0 for score in scores]),
        "items": len(scores),
        "unparsed": sum(score.unparsed for score in scores),
    }


def mean(values: Sequence[float]) -> float | None:
    """None of nothing."""
    return sum(values) / len(values) if values else None


def by_group(
    items: Sequence[BenchmarkItem],
    scores: Sequence[ItemScore],
    facts: Sequence[str],
    measure: Callable[[Sequence[ItemScore]], Metrics] = accuracies,
) -> dict[str, Metrics]:
    """`measure` of the items that share a fact, as "fact/value", sorted by value within each fact."""
    groups: dict[str, list[ItemScore]] = {}
    for fact in facts:
        pairs = [(str(item.facts[fact]), score) for item, score in zip(items, scores, strict=True)]
        for value, score in sorted(pairs, key=lambda pair: pair[0]):
            groups.setdefault(f"{fact}/{value}", []).append(score)
    return {name: measure(group) for name, group in groups.items()}


def summarise_choices(
    items: Sequence[BenchmarkItem],
    scores: Sequence[ItemScore],
    facts: Sequence[str],
    notes: Mapping[str, str],
    **more: float | int | None,
) -> Scores:
    """Accuracies of the whole and by each of `facts`; `more` are further metrics of the whole."""
    metrics = accuracies(scores) | more
    return Scores(items=scores, metrics=metrics, subsets=by_group(items, scores, facts), notes=notes)
