"""What both figures share: a canvas without a window system, and small PNG files. Needs matplotlib (extra `eval`)."""

from __future__ import annotations

import io
from pathlib import PurePath
from typing import Any

from PIL import Image

from look_again.extras import require

DOTS_PER_INCH = 100
IMAGE_COLOURS = 96
NEARLY_SURFACE = 7  # levels: what is this near to the ground is the ground


def require_plots() -> None:
    """MissingExtraError, naming the extra, where matplotlib is not installed."""
    require("matplotlib", extra="eval")


def new_figure(rows: int, columns: int, inches: tuple[float, float]) -> tuple[Any, Any]:
    """A figure with its own canvas: no window system, no global state of pyplot."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=inches, dpi=DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def encode_png(figure: Any, picture: Image.Image | None = None) -> bytes:
    """The figure in a palette of its own, a third of the size; an image in it keeps colours of its own."""
    drawn, file = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png")
    whole = Image.open(drawn).convert("RGB")
    ground = whole.getpixel((0, 0))
    colours = _pick_colours(whole, ground, 256 if picture is None else 256 - IMAGE_COLOURS)
    if picture is not None:
        colours += _pick_colours(picture.convert("RGB"), ground, IMAGE_COLOURS)
    palette = Image.new("P", (1, 1))
    palette.putpalette(colours)
    whole.quantize(palette=palette, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
    return file.getvalue()


def _pick_colours(image: Image.Image, ground: Any, count: int) -> list[int]:
    """At most `count` colours for an image's own, as red, green, blue, red, …; what is nearly the ground is it."""
    palette = image.quantize(count, kmeans=2).getpalette()
    assert palette is not None
    colours = [palette[i : i + 3] for i in range(0, min(len(palette), 3 * count), 3)]
    near = [max(abs(a - b) for a, b in zip(colour, ground, strict=True)) <= NEARLY_SURFACE for colour in colours]
    return [
        value for colour, is_ground in zip(colours, near, strict=True) for value in (ground if is_ground else colour)
    ]


def name_model(model: str) -> str:
    """A model's name for a figure that others see: a hub name, or the last two parts of a path."""
    return "/".join(PurePath(model).parts[-2:])
