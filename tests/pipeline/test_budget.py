"""A budget that several spend from."""

from __future__ import annotations

import asyncio

from look_again.pipeline import budget as module
from look_again.pipeline.budget import Budget, BudgetLimits
from look_again.pipeline.ledger.ledger import Spent


def test_one_may_go_before_any_price_is_known():
    async def go() -> list[str]:
        budget = Budget(BudgetLimits(tokens=25), Spent(0, 0, 0, 0.0))
        said = [await budget.take("a", 1.0)]
        waiting = asyncio.create_task(budget.take("b", 1.0))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        budget.settle("a", (8, 2), 0.5)
        said.append(await waiting)
        third = asyncio.create_task(budget.take("c", 1.0))
        await asyncio.sleep(0.01)
        assert not third.done() or third.result() == ""
        budget.settle("b", (8, 2), 0.5)
        said.append(await third)
        assert budget.spent == Spent(2, 16, 4, 1.0)
        return said

    assert asyncio.run(go()) == ["", "", "the budget of 25 (tokens) is spent: 20, and the next reply costs some 10"]


def test_who_is_gone_holds_nothing(monkeypatch):
    """A killed worker's reservation would keep the others waiting for ever."""
    monkeypatch.setattr(module, "SLACK_S", 0.0)
    monkeypatch.setattr(module, "LOOK_S", 0.01)

    async def go() -> str:
        budget = Budget(BudgetLimits(money=1.0), Spent(0, 0, 0, 0.0))
        await budget.take("of one that is killed", 0.05)
        return await asyncio.wait_for(budget.take("b", 1.0), 60)

    assert asyncio.run(go()) == ""


def test_a_request_that_goes_out_again_is_counted_once():
    async def go() -> str:
        budget = Budget(BudgetLimits(money=1.0), Spent(1, 1, 1, 0.4))
        await budget.take("a", 60.0)
        return await budget.take("a", 60.0)

    assert asyncio.run(go()) == ""
