"""Options of loading: what is refused, in one line, before anything is read."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from look_again.commands.common import add_compile_argument, add_model_arguments, build_load_options
from look_again.weights.options import LoadError, LoadOptions, parse_device_map, parse_max_memory


def parse(*words: str) -> LoadOptions:
    parser = argparse.ArgumentParser()
    add_model_arguments(parser)
    add_compile_argument(parser)
    return build_load_options(parser.parse_args(list(words)))


def test_a_command_line_without_options_is_the_defaults() -> None:
    """Would catch a default that the command line and Python do not share."""
    assert parse() == LoadOptions()


def test_every_option_of_python_is_one_of_the_command_line(tmp_path: Path) -> None:
    """Would catch an option that `load` has and `ask` lacks."""
    options = parse(
        *("--dtype", "float16", "--attention", "eager", "--max-pixels", "9000", "--min-pixels", "900", "--prompted"),
        *("--processor-option", "do_pad=true", "--processor-option", "resample=bicubic", "--adapter", "somewhere"),
        *("--device-map", '{"model.visual": 0, "": "disk"}', "--max-memory", '{"0": "2GiB", "cpu": 9}'),
        *("--offload-folder", str(tmp_path), "--quantization", "int8", "--no-merge", "--compile"),
    )
    given = {name: value for name, value in vars(options).items() if value != getattr(LoadOptions(), name)}
    assert set(given) == set(LoadOptions.__dataclass_fields__) - {"device"}
    assert options.device_map == {"model.visual": 0, "": "disk"}
    assert options.max_memory == {0: "2GiB", "cpu": 9}
    assert options.processor_options == {"do_pad": True, "resample": "bicubic"}
    assert options.trained is False
    assert parse("--device", "cpu").device == "cpu"


def test_a_device_map_may_be_a_file(tmp_path: Path) -> None:
    (tmp_path / "map.json").write_text('{"": "cpu"}')
    assert parse_device_map(str(tmp_path / "map.json")) == {"": "cpu"}
    assert parse_device_map("balanced") == "balanced"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nowhere", "none of auto, balanced, balanced_low_0, sequential, no JSON object and no file of one"),
        ("{", "the device map is not JSON"),
        ("{}", "a JSON object with an entry or more"),
        ('{"": true}', "puts '' on True: a device is a name or a number"),
        ('{"": [0]}', "a device is a name or a number"),
    ],
)
def test_what_is_no_device_map_is_told(text: str, said: str) -> None:
    with pytest.raises(LoadError, match=said):
        parse_device_map(text)


def test_memory_is_told_where_it_is_no_object() -> None:
    with pytest.raises(LoadError, match="the memory per device is a JSON object"):
        parse_max_memory("[1]")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"quantization": "int3"}, "unknown quantization 'int3'; known: int8, int4, bnb-8bit, bnb-4bit"),
        ({"device_map": "everywhere"}, "unknown device map 'everywhere'"),
        ({"device_map": "auto", "device": "cpu"}, "a device map places every module"),
        ({"max_memory": {"cpu": "1GB"}}, "belong to a device map"),
        ({"offload_folder": "x"}, "belong to a device map"),
        ({"trained": "no"}, "trained is True, False or left out, not 'no'"),
        ({"compile": 1}, "compile is True, False or left out, not 1"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(LoadError, match=said):
        LoadOptions(**options)  # type: ignore[arg-type]


def test_a_processor_option_is_a_name_and_a_value() -> None:
    with pytest.raises(LoadError, match="NAME=VALUE, not 'tiles'"):
        parse("--processor-option", "tiles")
