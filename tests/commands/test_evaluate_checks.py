"""Arguments of `look-again eval` that would be ignored without a word are refused before anything is loaded."""

from __future__ import annotations

import pytest

from look_again.commands.main import main

ENDPOINT = ["--base-url", "http://h/v1", "--model", "m"]


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ([*ENDPOINT, "--reattention", "text"], "leave out --reattention"),
        ([*ENDPOINT, "--keep", "25", "--rule", "relative"], "leave out --keep, --rule"),
        ([*ENDPOINT, "--max-pixels", "9000"], "leave out --max-pixels"),
        (["--request", '{"seed": 1}'], "--request goes with --base-url"),
        (["--reattention", "text", "--control", "wrong-image"], "--control wrong-image would change nothing"),
        (["--reattention", "route", "--keep", "0", "--control", "random-place"], "would change nothing"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_would_be_ignored_is_refused(capsys, tmp_path, extra, message):
    """Would catch a run that is named after a policy, fields or a control that it never had."""
    out = tmp_path / "run"
    assert main(["eval", "tabletop", "--out", str(out), *extra]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()
