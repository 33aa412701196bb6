"""Draws docs/images/look-again.png from a real answer of the shipped model: python docs/make_pictures.py"""

from __future__ import annotations

import textwrap
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

import look_again

ROOT = Path(__file__).parents[1]
QUESTION = "Subtract all balls. How many objects are left? Answer briefly."
INK = {
    "SUMMARY": "#666666",
    "CAPTION": "#0b7285",
    "REASONING": "#1c4fa1",
    "REFLECTION": "#a0168b",
    "CONCLUSION": "#1b7a2f",
}
WIDTH, MARGIN, LINE = 1180, 24, 22


def main() -> None:
    scene = Image.open(ROOT / "examples" / "table.png")
    answer = look_again.load(device="cpu").ask(scene, QUESTION)
    page = Image.new("RGB", (WIDTH, 2000), "white")
    draw = ImageDraw.Draw(page)
    big = scene.resize((336, 336), Image.Resampling.NEAREST)
    page.paste(big, (MARGIN, MARGIN))
    draw.multiline_text((MARGIN, MARGIN + 348), textwrap.fill(QUESTION, 42), fill="black", font=font(17), spacing=6)
    x, y = MARGIN + 336 + 28, MARGIN
    looks = iter(answer.reflections)
    for section in answer.parsed.sections:
        if section.tag == "REFLECTION":
            y = draw_look(page, draw, scene, next(looks).reinserted_tokens, x, y)
        draw.text((x, y), section.tag, fill=INK[section.tag], font=font(13))
        lines = textwrap.wrap(section.text, 84) or ["(just looks)"]
        draw.multiline_text((x, y + 17), "\n".join(lines), fill=INK[section.tag], font=font(17), spacing=LINE - 17)
        y += 17 + LINE * len(lines) + 12
    page.crop((0, 0, WIDTH, max(y, MARGIN + 348 + 3 * LINE) + MARGIN)).save(ROOT / "docs" / "images" / "look-again.png")


def draw_look(page: Image.Image, draw: ImageDraw.ImageDraw, scene: Image.Image, count: int, x: int, y: int) -> int:
    """A band that shows the image going back into the sequence."""
    draw.rounded_rectangle((x, y, WIDTH - MARGIN, y + 64), 8, fill="#fff3c4", outline="#e0a800")
    page.paste(scene.resize((52, 52)), (x + 8, y + 6))
    draw.text((x + 74, y + 20), f"looks again: {count} visual tokens put back", fill="#7a5b00", font=font(18))
    return y + 64 + 10


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


if __name__ == "__main__":
    main()
