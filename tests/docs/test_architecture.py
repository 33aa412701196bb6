"""docs/architecture.md names what there is: its layers are the import contracts', its walks lead through real code."""

from __future__ import annotations

import importlib
import re
import tomllib

import pytest

from tests.docs.snippets import ROOT

TEXT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
ROOMS = {path.stem for path in (ROOT / "src" / "look_again").iterdir() if not path.name.startswith("_")}
NAMES = sorted(
    {name for name in re.findall(r"`([a-z]\w*(?:\.\w+)+)`", TEXT) if name.split(".")[0] in ROOMS and ".py" not in name}
)
WALKS = re.findall(r"^### (.*?)\n\n(.*?)(?=^#|\Z)", TEXT[TEXT.index("## Four walks") :], re.M | re.S)
MOST_STAYS = 8


@pytest.mark.parametrize("name", NAMES)
def test_every_dotted_name_can_be_imported(name: str) -> None:
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(["look_again", *parts[:length]]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[length:]:
            found = getattr(found, attribute)
        return
    pytest.fail(f"there is no {name}")


@pytest.mark.parametrize(("title", "walk"), WALKS[:4], ids=[title for title, _ in WALKS[:4]])
def test_a_walk_has_at_most_eight_stays(title: str, walk: str) -> None:
    stays = re.findall(r"^\| (\d+) \| `", walk, re.M)
    assert [int(number) for number in stays] == list(range(1, len(stays) + 1))
    assert 0 < len(stays) <= MOST_STAYS


def test_there_are_four_walks() -> None:
    assert len(WALKS) >= 4


def test_the_layers_are_those_of_the_import_contracts() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    shown = re.search(r"^## Rooms\n.*?```\n(.*?)```", TEXT, re.M | re.S)
    assert shown is not None
    assert shown[1].splitlines() == layers
