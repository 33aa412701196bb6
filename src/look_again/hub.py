"""What a checkpoint's `custom_generate/generate.py` hands over to: `model.generate(...)` that looks again.

An exported folder's generation configuration holds the tags' ids and the mode that it was trained with.
"""

from __future__ import annotations

from typing import Any

from transformers import GenerationMixin

from look_again.core.generate import LookAgainDecoding
from look_again.core.reattention import Reattention
from look_again.core.trigger import Trigger
from look_again.text.grammar import close_tag, open_tag


def generate(*args: Any, model: Any, reattention: str | None = None, keep: int | None = None, **kwargs: Any) -> Any:
    """`model.generate(...)` with the library's own arguments, looking again at every `<REFLECTION>`.

    `reattention` and `keep` (percent) override what the checkpoint was trained with. ValueError for a checkpoint whose
    generation configuration does not name its tags, and for what re-attention cannot be combined with (beams, ...).
    """
    settings = model.generation_config
    facts = getattr(settings, "look_again", None) or getattr(settings, "lookagain", None)  # its name until 0.1
    if facts is None:
        raise ValueError("generation_config.json has no 'look_again' entry; export the checkpoint with this package")
    trigger = Trigger(facts["tags"][open_tag("REFLECTION")], facts["tags"][close_tag("REFLECTION")])
    policy = Reattention(
        mode=facts["mode"] if reattention is None else reattention, keep=facts["keep"] if keep is None else keep
    )
    stock: Any = GenerationMixin.generate
    return stock(model, *args, custom_generate=LookAgainDecoding(trigger, policy), **kwargs)
