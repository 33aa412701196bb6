"""What a model of Tabletop knows, said to people: its world, when an image is none of it, and what to ask."""

from __future__ import annotations

import numpy as np
from PIL import Image

from look_again.tabletop.render import SIDE_PIXELS, table_pixels
from look_again.text.grammar import Response

LAPTOP_MODEL = "Qwen/Qwen3-VL-2B-Instruct"
LAPTOP_MODEL_SIZE = "4.3 GB"
NEAR_LEVELS = 24
"""A pixel of the table is this near to its colour; noise is 8 levels, a JPEG adds some."""
LEAST_TABLE = 0.4
"""Of the pixels: eight large objects that touch nowhere leave three quarters of the table."""


class TabletopScope:
    """Drawn scenes of Tabletop and the questions that it asks."""

    about = (
        "the tiny model knows Tabletop alone: drawn scenes of balls, cubes, cones, stars and rings on a 6 x 6 table, "
        "whose places are called a1 (top left) to f6 (bottom right)"
    )
    questions = (
        "How many red objects are there?",
        "What colour is the object at a3?",
        "Are there more balls than cubes?",
    )

    def note_on_image(self, image: Image.Image) -> str | None:
        """What to say of an image that shows none of Tabletop's tables."""
        if shows_table(image):
            return None
        return (
            f"this image is none of Tabletop's drawn scenes, and the tiny model knows nothing else: ask a photo with a "
            f"real model, such as {LAPTOP_MODEL} ({LAPTOP_MODEL_SIZE} to download)"
        )

    def note_on_answer(self, response: Response) -> str | None:
        """What to ask instead, where a response has no answer."""
        answer = response.conclusion
        if answer and not answer.lower().startswith("i do not know"):
            return None
        shown = "; ".join(self.questions)
        return f"{self.about}. Questions that it knows: {shown}"


def shows_table(image: Image.Image) -> bool:
    """Whether an image, scaled to a scene's size, is in large part the lit table of Tabletop."""
    width, height = image.size
    if not 0.9 <= width / height <= 1.1:
        return False
    scaled = image.convert("RGB").resize((SIDE_PIXELS, SIDE_PIXELS), Image.Resampling.BILINEAR)
    distance = np.abs(np.asarray(scaled, dtype=np.int16) - table_pixels()).max(axis=2)
    return float((distance <= NEAR_LEVELS).mean()) >= LEAST_TABLE


TABLETOP_SCOPE = TabletopScope()
