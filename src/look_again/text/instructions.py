"""What a model is told: the question, and for models that were not trained on it, the response format.

The paper prompts GPT-4o and Qwen2.5-VL into its format with prompts it does not print; these words are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

FORMAT_INSTRUCTIONS = """\
Answer in tagged sections, in this order and with nothing outside the tags:
<SUMMARY>what is asked and how you will find out</SUMMARY>
<CAPTION>what the image shows, as far as it matters</CAPTION>
<REASONING>your reasoning, step by step</REASONING>
<REFLECTION>look at the image again: check every claim made so far against it and correct what was wrong</REFLECTION>
<CONCLUSION>the answer alone</CONCLUSION>
You may add further REFLECTION sections between the others whenever you doubt what you said about the image."""

LOOK_AGAIN_TEXT = "Look at the image again."
"""What a user turn says in the comparison modes that open one at each reflection."""


def question_messages(question: str, images: int | Sequence[str]) -> list[dict[str, Any]]:
    """A conversation that shows images, or "image" and "video" in this order, and then asks `question`."""
    kinds = ["image"] * images if isinstance(images, int) else images
    content: list[dict[str, str]] = [{"type": kind} for kind in kinds]
    content.append({"type": "text", "text": question})
    return [{"role": "user", "content": content}]
