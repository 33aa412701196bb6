"""`look-again families`: every family of the table, and nothing that is not there."""

from __future__ import annotations

import json

from look_again.commands.main import main
from look_again.core.families import FAMILIES, REFUSED
from tests.tiny_families import TINY_FAMILIES


def test_the_table_lists_every_family_with_its_reasons(capsys):
    """Would catch a family left out, or one that is refused without its reason."""
    assert main(["families"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in (*FAMILIES, *REFUSED))


def test_json_says_the_same(capsys):
    """Would catch a family that is offered with tests of its own that do not exist."""
    assert main(["families", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    rows = {row["family"]: row for row in report["families"]}
    assert list(rows) == list(FAMILIES)
    assert set(rows) <= set(TINY_FAMILIES)
    assert {name for name, row in rows.items() if row["video"]} == {
        name for name, family in FAMILIES.items() if family.video is not None
    }
    assert rows["smolvlm"]["transformers"] == ">=5.21"
    assert report["refused"] == REFUSED
