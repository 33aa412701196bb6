"""Distilling with a checkpoint: batches, bad pictures among good ones, and the same answers after a kill."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from look_again.pipeline.engine import open_chat_client, run_stages
from look_again.pipeline.intake import add_rows
from look_again.pipeline.ledger.items import pending
from look_again.pipeline.ledger.ledger import Ledger
from look_again.pipeline.stages import distil
from look_again.pipeline.stages.distil import Distillation
from look_again.tabletop.loader import tabletop_samples
from look_again.tabletop.tiny import build_image_processor


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, model, tokenizer):
    path = tmp_path_factory.mktemp("checkpoint")
    for part in (model, tokenizer, build_image_processor()):
        part.save_pretrained(path)
    (path / "look_again.json").write_text('{"trained": true}')
    return str(path)


def run(ledger: Ledger, stage) -> None:
    async def go() -> None:
        async with open_chat_client(ledger, [], "test") as client:
            await run_stages(client, [stage], workers=1)

    asyncio.run(go())


def answers(ledger: Ledger) -> list[tuple]:
    return ledger.read("SELECT n, sample, status, output, reason FROM results ORDER BY n, sample")


def test_a_damaged_picture_costs_its_row_alone(checkpoint, tmp_path, encoded):
    good = list(tabletop_samples("test", 1, range(3)))
    cut = encoded(90, 90)
    rows = [*good[:2], replace(good[2], id="cut", images=(cut[: len(cut) // 2],)), good[2]]
    stage = distil.local_stage(Distillation(checkpoint=checkpoint, max_new_tokens=4, batch=4, device="cpu"))
    with Ledger(tmp_path) as ledger:
        add_rows(ledger, rows, "here")
        run(ledger, stage)
        found = answers(ledger)
    assert [status for _, _, status, _, _ in found] == ["ok", "ok", "bad", "ok"]
    assert "truncated" in found[2][4]


def test_sampled_answers_are_the_same_after_an_interruption(checkpoint, tmp_path):
    """Batches are formed from the front and committed whole, so their random numbers come again."""
    given = Distillation(checkpoint=checkpoint, max_new_tokens=6, batch=3, samples=2, temperature=1.0, device="cpu")
    found = []
    for name, stops in (("whole", False), ("cut", True)):
        with Ledger(tmp_path / name) as ledger:
            add_rows(ledger, tabletop_samples("test", 1, range(4)), "here")
            run(ledger, distil.local_stage(given))
            if stops:
                ledger.apply([("DELETE FROM results WHERE (n, sample) > (2, 0)", ())])
                assert next(pending(ledger, distil.local_stage(given).key)).sample == 1
                run(ledger, distil.local_stage(given))
            found.append(answers(ledger))
    assert found[0] == found[1]
    assert len(found[0]) == 8
    assert len({output for *_, output, _ in found[0]}) > 4
