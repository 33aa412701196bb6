"""What the analyses ask of a finished sequence: shares, blocks of visual tokens, the same text without its insertions.

All of it is read from the slots that decoding left behind, so an analysis counts what the model read and not what a
formula supposes. The formulas of theorems 3.1 and 3.2 are here too, to be drawn beside the counts; they know nothing of
the vision delimiters around an insertion, which the counts include as text.

Legend: N slots, n sampled tokens, K visual slots (of the prompt and re-inserted).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from look_again.core.families import Family, VisionTokens
from look_again.core.slots import Provenance, SlotBuilder, Slots, VisualSpan


def rebuild_slots(family: Family, tokens: VisionTokens, slots: Slots) -> SlotBuilder:
    """A builder that holds a finished sequence, for a Runner to feed; nothing can be appended to it."""
    builder = SlotBuilder(family, tokens)
    builder.token_ids = slots.token_ids.tolist()
    builder.visual_indices = slots.visual_indices.tolist()
    builder.provenance = slots.provenance.tolist()
    builder.positions = [tuple(place) for place in slots.positions.T.tolist()]
    builder.sampled_from = slots.sampled_from.tolist()
    builder.inserted = slots.inserted.tolist()
    return builder


def sampled_slots(slots: Slots) -> torch.Tensor:
    """(n,) slots of the tokens that the model sampled."""
    return (slots.provenance == Provenance.SAMPLED).nonzero()[:, 0]


def response_slots(slots: Slots) -> torch.Tensor:
    """Slots of the response's tokens: sampled ones, and closing tags that the decoding loop wrote."""
    written = (slots.provenance == Provenance.FORCED) & ~slots.inserted
    return (written | (slots.provenance == Provenance.SAMPLED)).nonzero()[:, 0]


def prompt_text_slots(slots: Slots) -> torch.Tensor:
    """Slots of the prompt's text after its last visual token: what reads the image before any answer."""
    prompt = slots.provenance == Provenance.PROMPT
    visual = (prompt & (slots.visual_indices >= 0)).nonzero()[:, 0]
    text = prompt.clone()
    text[: int(visual[-1]) + 1 if len(visual) else 0] = False
    return text.nonzero()[:, 0]


def visual_blocks(slots: Slots) -> tuple[torch.Tensor, torch.Tensor]:
    """(K,) slots of all visual tokens, ascending, and (K,) their block: 0 the prompt's, then 1 for the first insertion.

    Two insertions always have a sampled `<REFLECTION>` between them; the images of one insertion have none.
    """
    visual = (slots.visual_indices >= 0).nonzero()[:, 0]
    before = (slots.provenance == Provenance.SAMPLED).cumsum(0)[visual]
    before[slots.provenance[visual] == Provenance.PROMPT] = -1
    numbers = torch.unique(torch.cat([torch.tensor([-1]), before]), return_inverse=True)[1]
    return visual, numbers[1:]


def visual_share(slots: Slots) -> torch.Tensor:
    """(N,) r up to and including each slot: visual slots so far / slots so far (theorem 3.1's L_c / L_total)."""
    counted = torch.arange(1, len(slots) + 1)
    return (slots.visual_indices >= 0).cumsum(0) / counted


def bound_share(slots: Slots) -> torch.Tensor:
    """(n,) r by formula at each sampled token: (L_c + k) / (L_x + L_c + L_y + k), k visual tokens re-inserted so far.

    Theorem 3.2; without insertions (k = 0) theorem 3.1. L_y counts sampled tokens, this one included.
    """
    sampled = sampled_slots(slots)
    prompt, visual = slots.provenance == Provenance.PROMPT, slots.visual_indices >= 0
    text, shown = int((prompt & ~visual).sum()), int((prompt & visual).sum())
    inserted = (slots.provenance == Provenance.REINSERTED).cumsum(0)[sampled]
    generated = torch.arange(1, len(sampled) + 1)
    return (shown + inserted) / (text + shown + generated + inserted)


def insertion_gains(slots: Slots) -> list[tuple[float, float]]:
    """Per insertion the visual share right before it and right after it (theorem 3.2 says that it grows)."""
    share, (visual, block) = visual_share(slots), visual_blocks(slots)
    gains = []
    for number in range(1, int(block.max()) + 1 if len(block) else 1):
        first, last = (int(visual[block == number][i]) for i in (0, -1))
        while slots.inserted[first - 1]:
            first -= 1
        gains.append((float(share[first - 1]), float(share[last])))
    return gains


def first_look(slots: Slots) -> int | None:
    """Index, among the sampled tokens, of the first one after an insertion (its `<REFLECTION>`); None without one."""
    inserted = (slots.provenance == Provenance.REINSERTED).nonzero()[:, 0]
    return int((sampled_slots(slots) < inserted[0]).sum()) if len(inserted) else None


def without_insertions(family: Family, tokens: VisionTokens, slots: Slots, spans: Sequence[VisualSpan]) -> Slots:
    """The same prompt and response as text-only reflection would have read them: nothing put back, no delimiters."""
    builder = SlotBuilder(family, tokens)
    prompt = slots.provenance == Provenance.PROMPT
    builder.add_prompt(slots.token_ids[prompt].tolist(), spans)
    for slot in response_slots(slots).tolist():
        builder.add_token(int(slots.token_ids[slot]), Provenance(int(slots.provenance[slot])))
    return builder.build()
