"""The three rewards of BRPO (paper, "BRPO"), in TRL's signature `f(completions, **columns) -> list[float]`.

Each comes as a function, for a dotted path such as `look_again.rl.rewards.format_reward`, and as a callable class that
takes settings and pickles. `columns` are the data set's columns and whatever else the trainer passes, one entry per
completion; what a reward does not know it ignores. Completions are strings or TRL's lists of messages. The paper gives
the rewards no weights.

Where the paper is silent, this file decides: the balance of a completion without a reflection or with one that never
closes, and a lower bound of the balance. All rewards take time linear in the completion.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from look_again.rl.completions import (
    ReflectionCount,
    check_column,
    completion_text,
    count_in_ids,
    count_in_text,
    ids_of_tags,
    parsed,
)
from look_again.scoring.grading import grade

LENGTH_TOKENS = 100  # lambda, the paper's length of a reflection
FLOOR = -1.0  # paper gives none
UNDEFINED = -1.0  # paper gives none
REFERENCE_COLUMNS = ("reference", "answer", "solution")


def format_reward(completions: Sequence[Any], **columns: Any) -> list[float]:
    """`FormatReward()` as a function."""
    return FormatReward()(completions, **columns)


def accuracy_reward(completions: Sequence[Any], **columns: Any) -> list[float]:
    """`AccuracyReward()` as a function."""
    return AccuracyReward()(completions, **columns)


def balance_reward(completions: Sequence[Any], **columns: Any) -> list[float]:
    """`BalanceReward(tokenizer)` as a function, with a `processing_class` or `tokenizer` if the caller passes one.

    TRL passes none: lengths are then estimated as in `look_again.rl.completions.count_in_text`, from the reflections'
    share of the completion's characters. `BalanceReward(tokenizer)` counts exactly.
    """
    tokenizer = columns.get("processing_class", columns.get("tokenizer"))
    return BalanceReward(tokenizer)(completions, **columns)


class FormatReward:
    """1.0 where the grammar of `look_again.text.grammar` holds with at least `min_reflections` (paper: 1), else 0.0.

    Raises ValueError for a negative `min_reflections`.
    """

    __name__ = "format_reward"

    def __init__(self, min_reflections: int = 1) -> None:
        if min_reflections < 0:
            raise ValueError(f"min_reflections is {min_reflections}: use 0 or more")
        self.min_reflections = min_reflections

    def __call__(self, completions: Sequence[Any], **columns: Any) -> list[float]:
        texts = map(completion_text, completions)
        return [float(parsed(text, self.min_reflections).well_formed) for text in texts]


class AccuracyReward:
    """1.0 where the CONCLUSION agrees with the reference by the scorer that evaluation uses, else 0.0.

    reference: the column that holds it; None: the first of "reference", "answer", "solution" that is there.
    options: the column with the texts of the choices, used if it is there (rows without choices: None or empty). An
    "id" column, if there is one, names rows in errors.
    A completion without a closed CONCLUSION has no answer and gets 0.0, whatever else it says. Raises ValueError where
    there is no such column or one is of another length, and what `look_again.scoring.grading.grade` raises.
    Example: CONCLUSION "The answer is 3.0 cm." with reference "3" gives 1.0.
    """

    __name__ = "accuracy_reward"

    def __init__(self, reference: str | None = None, options: str = "options") -> None:
        self.reference = reference
        self.options = options

    def __call__(self, completions: Sequence[Any], **columns: Any) -> list[float]:
        answers = [parsed(completion_text(completion)).conclusion for completion in completions]
        optional = [
            None if columns.get(name) is None else check_column(name, columns[name], len(answers))
            for name in (self.options, "id")
        ]
        references = check_column(*self._references(columns), len(answers))
        return [float(right) for right in grade(answers, references, *optional)]

    def _references(self, columns: Mapping[str, Any]) -> tuple[str, Any]:
        wanted = REFERENCE_COLUMNS if self.reference is None else (self.reference,)
        name = next((name for name in wanted if columns.get(name) is not None), None)
        if name is None:
            raise ValueError(f"no column {' or '.join(map(repr, wanted))} among {sorted(columns)}: name the reference")
        return name, columns[name]


class BalanceReward:
    """The paper's reflection balance, 1 - |L / N - length| / length: N reflections with L tokens in all of them.

    tags: a prepared tokenizer, a processor that holds one, or tag -> id as `look_again.text.tags.tag_ids` gives it;
    only the ids are kept. Tokens are then counted on `completion_ids`, strictly between the tag tokens; a tag spelled
    in ordinary pieces is no tag. None: estimated as in `balance_reward`. length: lambda in tokens. floor: lower bound,
    None for none. undefined: the value of a completion without a closed reflection or with one that never closes.

    The formula is 1 at a mean of `length` tokens, 0 at none and at twice, -1 at three times, and has no lower bound: in
    a group of eight, one runaway reflection of 1,024 tokens (-8.24) would stretch the group's standard deviation until
    the other answers hardly differ. So it is cut at -1 by default: as far below an empty reflection as a perfect one is
    above. A completion that never looks again gets that value too, so that dropping all reflections is never better
    than any, and so does one that leaves a reflection open, as its length is not known.
    Raises ValueError for a length that is not positive, a bound that is not finite, and missing `completion_ids`.
    """

    __name__ = "balance_reward"

    def __init__(
        self,
        tags: Any = None,
        *,
        length: float = LENGTH_TOKENS,
        floor: float | None = FLOOR,
        undefined: float = UNDEFINED,
    ) -> None:
        if not 0 < length < math.inf:
            raise ValueError(f"length is {length}: use a positive number of tokens")
        if not all(math.isfinite(bound) for bound in (floor or 0.0, undefined)):
            raise ValueError(f"floor is {floor} and undefined is {undefined}: use finite numbers (floor: or None)")
        self.tag_ids = None if tags is None else ids_of_tags(tags)
        self.length, self.floor, self.undefined = length, floor, undefined

    def __call__(self, completions: Sequence[Any], completion_ids: Any = None, **columns: Any) -> list[float]:
        if completion_ids is not None:
            check_column("completion_ids", completion_ids, len(completions))
        id_lists = [None] * len(completions) if completion_ids is None else completion_ids
        counts = [_count(text, ids, self.tag_ids) for text, ids in zip(completions, id_lists, strict=True)]
        return [
            reflection_balance(count, length=self.length, floor=self.floor, undefined=self.undefined)
            for count in counts
        ]


def reflection_balance(
    count: ReflectionCount,
    *,
    length: float = LENGTH_TOKENS,
    floor: float | None = FLOOR,
    undefined: float = UNDEFINED,
) -> float:
    """The balance of one completion, as in `BalanceReward`. Example: lengths (60, 90) give 1 - |75 - 100| / 100."""
    if count.unclosed or not count.lengths:
        return undefined
    mean = sum(count.lengths) / len(count.lengths)
    balance = 1 - abs(mean - length) / length
    return balance if floor is None else max(balance, floor)


@dataclass(frozen=True)
class RewardStatistics:
    """What to log beside the rewards, for one completion.

    reflections: closed top-level ones, and how many of those are blank (the model "just looks"), both read in the text.
    reflection_tokens: length of each as the balance reward counts it. correct: None where no reference was given.
    """

    reflections: int
    empty_reflections: int
    reflection_tokens: tuple[float, ...]
    well_formed: bool
    correct: bool | None

    @property
    def tokens_per_reflection(self) -> float | None:
        """Mean length in tokens, None without reflections."""
        return sum(self.reflection_tokens) / len(self.reflection_tokens) if self.reflection_tokens else None


def reward_statistics(
    completion: Any,
    *,
    completion_ids: Sequence[Any] | None = None,
    tags: Any = None,
    reference: Any = None,
    options: Sequence[str] | None = None,
    min_reflections: int = 1,
) -> RewardStatistics:
    """Statistics of one completion; `tags` and `completion_ids` as in `BalanceReward`, the rest as in the others.

    Raises what the rewards raise.
    """
    response = parsed(completion_text(completion), min_reflections)
    count = _count(response.text, completion_ids, None if tags is None else ids_of_tags(tags))
    graded = [None] if reference is None else grade([response.conclusion], [reference], [options])
    blank = sum(not section.text for section in response.reflections)
    return RewardStatistics(len(response.reflections), blank, count.lengths, response.well_formed, graded[0])


def _count(completion: Any, completion_ids: Any, tag_ids: Mapping[str, int] | None) -> ReflectionCount:
    if tag_ids is None:
        return count_in_text(completion_text(completion), None if completion_ids is None else len(completion_ids))
    if completion_ids is None:
        raise ValueError("tokens are counted on completion_ids, and there are none: pass them, or no tags")
    return count_in_ids(completion_ids, tag_ids)
