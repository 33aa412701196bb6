"""The style of figures: readable on its ground, told apart without colour vision, legends beside the curves."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest
from PIL import Image

from look_again.style import DARK, LIGHT, THEMES, Theme, legend_below, styled
from look_again.text.grammar import TAGS
from look_again.web.section_cards import sections_css

# Severe forms of colour blindness in linear RGB, after Machado, Oliveira and Fernandes (2009), table 1.
WITHOUT_GREEN = [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
WITHOUT_RED = [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]


def linear(colour: str) -> np.ndarray:
    values = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def contrast(first: str, second: str) -> float:
    """The ratio of WCAG 2."""
    a, b = (float(linear(colour) @ [0.2126, 0.7152, 0.0722]) for colour in (first, second))
    return (max(a, b) + 0.05) / (min(a, b) + 0.05)


@pytest.mark.parametrize("theme", THEMES.values(), ids=list(THEMES))
def test_lines_and_text_stand_out_from_the_ground(theme: Theme) -> None:
    assert contrast(theme.ink, theme.surface) >= 7
    assert contrast(theme.muted, theme.surface) >= 4.5
    for colour in (*theme.series, *theme.sections.values()):
        assert contrast(colour, theme.surface) >= 3, colour


@pytest.mark.parametrize("theme", THEMES.values(), ids=list(THEMES))
@pytest.mark.parametrize("sight", [np.eye(3), WITHOUT_GREEN, WITHOUT_RED], ids=["full", "no green", "no red"])
def test_series_are_told_apart_without_colour_vision(theme: Theme, sight) -> None:
    for first, second in itertools.combinations(theme.series[:3], 2):
        a, b = (np.clip(np.array(sight) @ linear(colour), 0, 1) for colour in (first, second))
        assert np.linalg.norm(a ** (1 / 2.2) - b ** (1 / 2.2)) >= 0.2, (first, second)


def test_sections_have_the_colours_of_the_pages() -> None:
    css = sections_css()
    assert set(LIGHT.sections) == set(DARK.sections) == set(TAGS)
    for tag, colour in LIGHT.sections.items():
        red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
        assert f"--la-{tag.lower()}: {red} {green} {blue}" in css


@pytest.mark.parametrize("theme", THEMES.values(), ids=list(THEMES))
def test_a_legend_covers_no_curve_and_no_label(theme: Theme) -> None:
    """By the boxes that are drawn: a legend that starts inside an axis covers whatever the data put there."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with styled(theme):
        figure = Figure(figsize=(6, 4), layout="constrained")
        canvas = FigureCanvasAgg(figure)
        axis = figure.add_subplot()
        axis.plot([0, 1], [0, 1], label="a line with a long name that needs room")
        axis.set(xlabel="tokens generated", title="What is seen")
        legend_below(axis)
        canvas.draw()
        legend = axis.get_legend().get_window_extent()
        assert legend.y1 <= axis.get_window_extent().y0
        assert legend.y1 <= axis.xaxis.label.get_window_extent().y0
        assert legend.y0 >= 0
        file = io.BytesIO()
        figure.savefig(file)
    ground = Image.open(file).convert("RGB").getpixel((0, 0))
    assert "#{:02x}{:02x}{:02x}".format(*ground) == theme.surface


def test_nothing_stays_set() -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    with styled(DARK):
        assert matplotlib.rcParams["figure.facecolor"] == DARK.surface
    assert dict(matplotlib.rcParams) == before


def test_no_legend_without_names() -> None:
    from matplotlib.figure import Figure

    axis = Figure().add_subplot()
    legend_below(axis)
    assert axis.get_legend() is None
