"""An answer: what came out, what was put back into the sequence, and how many tokens of each kind it took."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from look_again.core.generate import Reflection
from look_again.core.slots import Provenance, Slots
from look_again.text.grammar import Response, shorten


@dataclass(frozen=True)
class Answer:
    """One answer.

    response: the tagged text. slots: the sequence as the model read it. seconds: wall time of the call (of the whole
    batch where it was batched). finish_reason: "stop", "length" or "context".
    """

    parsed: Response
    reflections: Sequence[Reflection]
    slots: Slots
    model: str
    seconds: float
    finish_reason: str
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        tokens = self.tokens
        said = "no CONCLUSION" if self.answer is None else shorten(self.answer)
        return (
            f"Answer({said}, {tokens['sampled']} tokens sampled, {tokens['reinserted']} visual tokens re-inserted, "
            f"{self.finish_reason}, {self.model})"
        )

    @property
    def response(self) -> str:
        return self.parsed.text

    @property
    def answer(self) -> str | None:
        """The CONCLUSION, or None when there is none."""
        return self.parsed.conclusion

    @property
    def tokens(self) -> dict[str, int]:
        """Slots by kind: prompt text, the prompt's visual tokens, sampled, re-inserted, forced."""
        visual = self.slots.visual_indices >= 0
        prompt = self.slots.provenance == Provenance.PROMPT
        return {
            "prompt": int((prompt & ~visual).sum()),
            "visual": int((prompt & visual).sum()),
            "sampled": self.slots.count(Provenance.SAMPLED),
            "reinserted": self.slots.count(Provenance.REINSERTED),
            "forced": self.slots.count(Provenance.FORCED),
        }

    def as_dict(self) -> dict[str, Any]:
        """The JSON of `look-again ask --json`."""
        return {
            "answer": self.answer,
            "response": self.response,
            "well_formed": self.parsed.well_formed,
            "problems": [{"kind": p.kind, "tag": p.tag, "at": p.at} for p in self.parsed.problems],
            "sections": [{"tag": s.tag, "text": s.text} for s in self.parsed.sections],
            "reflections": [
                {
                    "mode": r.mode,
                    "reinserted_tokens": r.reinserted_tokens,
                    "rows": list(r.visual_indices),
                    "skipped": r.skipped,
                }
                for r in self.reflections
            ],
            "tokens": self.tokens,
            "finish_reason": self.finish_reason,
            "model": self.model,
            "notes": list(self.notes),
            "seconds": round(self.seconds, 4),
        }
