"""What a checkpoint's `custom_generate/generate.py` hands over to: `model.generate(...)` that looks again.

An exported folder's generation configuration holds the tags' ids and the mode that it was trained with.
"""

from __future__ import annotations

from typing import Any

from transformers import GenerationMixin

from lookagain.decoding import LookAgainDecoding
from lookagain.grammar import close_tag, open_tag
from lookagain.reattention import Reattention
from lookagain.trigger import Trigger


def generate(*args: Any, model: Any, reattention: str | None = None, keep: int | None = None, **kwargs: Any) -> Any:
    """`model.generate(...)` with the library's own arguments, looking again at every `<REFLECTION>`.

    `reattention` and `keep` (percent) override what the checkpoint was trained with. ValueError for a checkpoint whose
    generation configuration does not name its tags, and for what re-attention cannot be combined with (beams, ...).
    """
    facts = getattr(model.generation_config, "lookagain", None)
    if facts is None:
        raise ValueError("generation_config.json has no 'lookagain' entry; export the checkpoint with this package")
    trigger = Trigger(facts["tags"][open_tag("REFLECTION")], facts["tags"][close_tag("REFLECTION")])
    policy = Reattention(
        mode=facts["mode"] if reattention is None else reattention, keep=facts["keep"] if keep is None else keep
    )
    stock: Any = GenerationMixin.generate
    return stock(model, *args, custom_generate=LookAgainDecoding(trigger, policy), **kwargs)
