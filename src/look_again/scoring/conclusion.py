"""What part of a reply is its answer: inline reasoning, boxes, cues such as "The answer is", explanations.

The paper scores the content of CONCLUSION, which may be a sentence, and says no more; these rules are ours. They are
the same for every kind of answer, so that wrapping an answer in words changes no reading. Time is linear in the text.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from look_again.scoring.normalisation import plain_characters, plain_text
from look_again.text.grammar import TAG_TOKENS

_REASONING = re.compile(r"(?i)<(/?)(?:think|thinking|thought)>|◁(/?)think▷")
_SECTION_TAGS = re.compile("|".join(re.escape(tag) for tag in TAG_TOKENS))
_BOX = re.compile(r"\\f?boxed ?\{|<\|begin_of_box\|>|<answer>")
_ANSWER_TAGS = re.compile(
    r"(?s)(?:<answer>|<\|begin_of_box\|>)((?:(?!<answer>|<\|begin_of_box\|>).)*?)(?:</answer>|<\|end_of_box\|>)"
)
_LINKS_BOXES = re.compile(r"(?i)(?:[\s$,;.&/|()\\]|\b(?:or|and)\b|或|和)*")
MAX_LINK = 20  # characters between two boxes that are named side by side

_NOUN = r"(?:answers?|option|choice|solution|result|conclusion)"
_ABOUT = (
    r"(?: (?:to|for|of|here|then|thus|therefore|clearly|the|this|that|your|my|question|problem|puzzle|exercise)){0,5}"
)
_COPULA = r"(?:is|are|was|would be|should be|must be|will be|has to be)"
_ADVERB = r"(?: (?:therefore|thus|then|indeed|simply|clearly)\b,?)?"
_CUE = re.compile(
    rf"(?i)\b{_NOUN}{_ABOUT}(?: ?[:=]| {_COPULA}\b{_ADVERB}(?: ?:)?)[ \n]*"
    r"|答案(?: ?(?:应该|应当|应))?(?: ?[是为:])*[ \n]*"
    r"|(?<![不别未])(?:故|应|该)*(?:选择|选项|选)(?: ?[是为:])*[ \n]*(?=[(\[]?[A-J])"
)
_AMENDED = r"(?:(?:or|wait|actually|alternatively|maybe|perhaps|possibly|rather|sorry)\b|no,|或)"
_LONE = r"(?:[-+$(]*[0-9][0-9.,/]*[)%]*|\(?[A-J]\)?)(?=\s*(?:[.,;:)\n!?]|\Z|because|since))"  # an answer by itself
_CLAUSE_END = re.compile(
    rf"(?i)(?:[;\n]|[.!?](?: |\n|\Z))(?! ?\(?(?:{_AMENDED}|(?-i:{_LONE})))"
    r"|[,(]? ?\b(?:because|since|as can be seen|explanation ?:|reason(?:ing)? ?:)|,? ?(?:因为|由于|解析|理由|解释)"
)
_EXPLANATION = re.compile(
    r"(?i)(?:\n|(?<=[.;)!] ))[#>*_ -]{0,6}"
    r"(?:(?:brief )?(?:explanations?|reason(?:ing|s)?|rationale|justification|analysis)\b(?= ?[:.\n-])|"
    r"because\b|since\b|解析|分析|理由|解释|说明|原因|因为)"
)
_REASON = re.compile(r"(?i)[,;.]? ?\b(?:because|since)\b|,? ?(?:因为|由于)|\.\s+(?-i:[A-Z][a-z])")
MAX_SHORT = 80  # characters of an answer that stands before its explanation


class Conclusion(NamedTuple):
    """What a reply concludes.

    text: all of it, without inline reasoning, dressing and box. part: what follows the last cue ("The answer is"), else
    the text up to an explanation. clause: the first clause of that part where there is a cue, else the part.
    """

    text: str
    part: str
    clause: str
    cued: bool


def conclude(reply: str) -> Conclusion:
    r"""The conclusion of a reply, in plain characters.

    The last `\boxed{…}` or `<answer>…</answer>` counts alone where there is one, unless another one is named beside it.
    """
    text = plain_text(without_markup(reply))
    explained = _EXPLANATION.search(text)
    before = text[: explained.start()].strip() if explained else ""
    short = 0 < len(before) <= MAX_SHORT
    cue = last_cue(before) if short else last_cue(text)
    if not cue:
        part = before or text
        return Conclusion(text, part, part, False)
    part = (before if short else text)[cue:]
    end = _CLAUSE_END.search(part)
    return Conclusion(text, part, part[: end.start()] if end else part, True)


def concluding_part(reply: str) -> str:
    r"""What a reply concludes, with its LaTeX left as it is: behind the last cue, without reasons and explanations."""
    text = plain_characters(without_markup(reply)).strip()
    explained = _EXPLANATION.search(text)
    text = (text[: explained.start()].strip() if explained else "") or text
    text = text[last_cue(text) :]
    reason = _REASON.search(text)
    return (text[: reason.start()].strip() if reason else "") or text


def last_cue(text: str) -> int:
    """Where the last "The answer is" of a plain text ends; 0 where there is none."""
    end = 0
    for cue in _CUE.finditer(text):
        end = cue.end()
    return end


def without_markup(reply: str) -> str:
    """A reply without inline reasoning and section tags, and of that the last box alone where there is one."""
    if "<" in reply or "◁" in reply:
        reply = _SECTION_TAGS.sub(" ", without_reasoning(reply))
    return _boxed_alone(reply) if "oxed" in reply or "<" in reply else reply


def without_reasoning(reply: str) -> str:
    """A reply without what stands between `<think>` and `</think>`, in any case, and their like.

    Reasoning that never ends is all reasoning; of an end without a start, all before it is. Where there is no such tag
    the reply is returned unchanged.
    """
    kept: list[str] = []
    depth = at = 0
    for tag in _REASONING.finditer(reply):
        closing = bool(tag[1] or tag[2])
        if not closing and depth == 0:
            kept.append(reply[at : tag.start()])
        elif closing and depth == 0:
            kept = []
        depth = max(0, depth - 1) if closing else depth + 1
        at = tag.end()
    if at == 0:
        return reply
    if depth == 0:
        kept.append(reply[at:])
    return "".join(kept).strip()


def _boxed_alone(text: str) -> str:
    content = boxed(text)
    if content is None:
        tags = _ANSWER_TAGS.findall(text)
        return tags[-1] if tags else text
    boxes = list(_BOX.finditer(text))
    if len(boxes) > 1:
        before, last = boxes[-2], boxes[-1]
        inner = boxed(text[: last.start()])
        between = text[before.end() + len(inner) + 1 : last.start()] if inner is not None else None
        if inner is not None and inner.strip() != content.strip() and _side_by_side(between or ""):
            return f"{inner}, {content}"
    return content


def _side_by_side(between: str) -> bool:
    return len(between) <= MAX_LINK and _LINKS_BOXES.fullmatch(between) is not None


def boxed(text: str) -> str | None:
    r"""The content of the last `\boxed{…}` of a worked solution; None where there is none or it never closes."""
    _, found, rest = text.rpartition(r"\boxed{")
    depth = 1
    for at, character in enumerate(rest if found else ""):
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return rest[:at]
    return None
