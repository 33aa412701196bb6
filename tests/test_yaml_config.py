"""One reader of configurations: what is read, what is refused, and that grouping its keys changes neither."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from look_again.yaml_config import ConfigError, as_keys, build, check_types, group, read_yaml, with_keys


@dataclass(frozen=True, kw_only=True)
class Rates:
    peak: float = 0.5
    warmup: float = 1.0

    def __post_init__(self) -> None:
        if self.peak <= 0:
            raise ValueError(f"peak must be above 0, not {self.peak}")


@dataclass(frozen=True, kw_only=True)
class Circle:
    radius: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Square:
    side: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Numbers:
    rate: float = 1.0
    count: int | None = None
    exact: bool = False
    weights: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_types(self)


@dataclass(frozen=True, kw_only=True)
class Part:
    name: str


def shape(values: Mapping[str, object]) -> type:
    return Square if values.get("kind") == "square" else Circle


@dataclass(frozen=True, kw_only=True)
class Config:
    kind: str = "circle"
    shape: Circle | Square = group(Circle, shape)
    rates: Rates = group(Rates)
    parts: tuple[Part, ...] = ()
    first: Part | None = None
    names: tuple[str, ...] = ()
    body: Mapping[str, object] = field(default_factory=dict)


def test_keys_of_groups_stand_beside_the_others():
    made = build(Config, {"peak": 2.0, "kind": "square", "side": 3.0, "names": ["a"], "first": {"name": "b"}}, "file")
    expected = Config(kind="square", shape=Square(side=3.0), rates=Rates(peak=2.0), names=("a",), first=Part(name="b"))
    assert made == expected
    assert build(Config, {}, "file") == Config()


def test_what_is_written_out_reads_back_equal():
    made = build(Config, {"peak": 2.0, "kind": "square", "side": 3.0, "parts": [{"name": "b"}]}, "file")
    assert as_keys(made)["peak"] == 2.0
    assert "rates" not in as_keys(made)
    assert build(Config, as_keys(made), "file") == made


def test_changed_keys_reach_their_groups():
    made = with_keys(Config(), peak=3.0, names=("x",), radius=2.0)
    assert (made.rates, made.names, made.shape) == (Rates(peak=3.0), ("x",), Circle(radius=2.0))
    with pytest.raises(TypeError, match="side"):
        with_keys(Config(), side=1.0)
    with pytest.raises(ValueError, match="above 0"):
        with_keys(Config(), peak=0)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"size": 1}, r"^file: unknown keys \['size'\]; known: body, first, kind, names, parts, peak, radius, warmup$"),
        ({"side": 1}, r"unknown keys \['side'\]"),
        ({3: 1}, r"unknown keys \[3\]"),
        ({"peak": -1}, "^file: peak must be above 0, not -1$"),
        ({"parts": 3}, "^file: parts is a list, not 3$"),
        ({"names": "abc"}, "^file: names is a list, not 'abc'$"),
        ({"parts": [3]}, "^file: parts: a mapping of keys to values is needed, not 3$"),
        ({"parts": [{}]}, "^file: parts: .*name"),
        ({"parts": [{"name": "x", "size": 1}]}, "^file: parts 'x': unknown keys"),
        ({"first": {"nome": 1}}, r"^file: first: unknown keys \['nome'\]; known: name$"),
        ([1], r"^file: a mapping of keys to values is needed, not \[1\]$"),
    ],
)
def test_what_cannot_be_is_refused_and_named(values, named):
    with pytest.raises(ConfigError, match=named):
        build(Config, values, "file")


@pytest.mark.parametrize(
    ("text", "named"), [(None, "cannot read the recipe .*file.yaml"), ("a: [", "is not YAML"), ("- a", "a recipe is a")]
)
def test_files_that_hold_no_configuration(tmp_path, text, named):
    path = tmp_path / "file.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=named):
        read_yaml(path, "recipe")


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"rate": "1e-3"}, "^rate is a number \\(1.0e-3\\), not '1e-3'$"),
        ({"rate": None}, "rate is a number"),
        ({"rate": True}, "rate is a number"),
        ({"count": 1.5}, "^count is a whole number, not 1.5$"),
        ({"exact": "no"}, "^exact is true or false, not 'no'$"),
    ],
)
def test_numbers_are_numbers(values, named):
    """Would catch YAML's `1e-3`, which is a text, and comes to light hours later or as a comparison of types."""
    assert Numbers(rate=3, count=None).rate == 3
    with pytest.raises(ValueError, match=named):
        Numbers(**values)
