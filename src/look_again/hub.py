"""What a checkpoint's `custom_generate/generate.py` hands over to: `model.generate(...)` that looks again.

An exported folder's generation configuration holds the tags' ids and the mode that it was trained with.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from transformers import GenerationMixin
from transformers.generation.streamers import BaseStreamer

from look_again.core.generate import LookAgainDecoding
from look_again.core.reattention import Reattention
from look_again.core.trigger import Trigger
from look_again.text.grammar import close_tag, open_tag
from look_again.weights.checkpoint_record import build_policy, read_generation_entry


def generate(
    *args: Any,
    model: Any,
    reattention: Reattention | str | None = None,
    keep: int | None = None,
    streamer: BaseStreamer | None = None,
    **kwargs: Any,
) -> Any:
    """`model.generate(...)` with the library's own arguments, looking again at every `<REFLECTION>`.

    `reattention` ("copy", "route-25", a policy) and `keep` (percent) override what the checkpoint was trained with.
    `streamer` gets the tokens of one sequence as they come. ValueError for a checkpoint whose generation configuration
    does not name its tags, and for what re-attention cannot be combined with (beams, ...).
    """
    facts = read_generation_entry(model.generation_config)
    if facts is None:
        raise ValueError("generation_config.json has no 'look_again' entry; export the checkpoint with this package")
    trigger = Trigger(facts["tags"][open_tag("REFLECTION")], facts["tags"][close_tag("REFLECTION")])
    policy = Reattention.parse(reattention, build_policy(facts))
    if keep is not None:
        policy = replace(policy, keep=keep)
    stock: Any = GenerationMixin.generate
    return stock(model, *args, custom_generate=LookAgainDecoding(trigger, policy, streamer=streamer), **kwargs)
