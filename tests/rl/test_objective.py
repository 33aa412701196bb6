"""Advantages and objective on one group of three answers, worked out by hand.

Rewards 13, 2, 15: mean 10, deviations 3, -8, 5, squares 9 + 64 + 25 = 98, over 2 is 49, so std 7 and, with eps 0,
A = (3/7, -8/7, 5/7). The policies' ratios per token (a dot is no sampled token):

    answer 1   3/2  1    .      answer level 3/2    sequence level sqrt(3/2)   = 1.2247449
    answer 2   1/2  1    1      answer level 1/2    sequence level cbrt(1/2)   = 0.7937005
    answer 3   .    .    11/10  answer level 11/10  sequence level 11/10

Reference over new policy: 2, 1 | 1/2, 1, 1 | 1, so k3 is 2 - ln 2 - 1 = 0.3068528 once and 1/2 + ln 2 - 1 = 0.1931472
once, else 0.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from look_again.rl.objective import (
    aggregate,
    brpo_loss,
    clipped_surrogate,
    group_advantages,
    k3_kl,
    kl_penalty,
    log_ratio,
)

INF = math.inf
MASK = torch.tensor([[1, 1, 0], [1, 1, 1], [0, 0, 1]])
A = torch.tensor([3 / 7, -8 / 7, 5 / 7])
NEW = torch.tensor([[0.3, 0.2, 7.0], [0.2, 0.4, 0.5], [9.0, 9.0, 0.55]]).log()
OLD = torch.tensor([[0.2, 0.2, 0.1], [0.4, 0.4, 0.5], [0.1, 0.1, 0.5]]).log()
REF = torch.tensor([[0.6, 0.2, 0.4], [0.1, 0.4, 0.5], [0.4, 0.4, 0.55]]).log()
WIDE = 10.0  # a clip range that nothing leaves


def near(value: Any) -> Any:
    return pytest.approx(value, abs=1e-6)


def test_advantages() -> None:
    """The population's std (sqrt(98/3) = 5.715), the batch's in place of the group's, groups interleaved."""
    rewards = torch.tensor([13.0, 2.0, 15.0, 1.3, 0.2, 1.5])
    assert group_advantages(rewards, 3, eps=0.0).tolist() == near([3 / 7, -8 / 7, 5 / 7] * 2)
    # with the default eps of 1e-4: 3/7.0001 = 0.428565, and 0.3/0.7001 = 0.428510
    advantages = group_advantages(rewards, 3)
    assert advantages[0].item() == near(0.428565)
    assert advantages[3].item() == near(0.428510)


@pytest.mark.parametrize("reward", [0.1, 1 / 3, 1e6, -8.24])
def test_equal_rewards_give_exact_zeros(reward: float) -> None:
    """Rounding in the mean of equal rewards, which a tiny std blows up."""
    rewards = torch.tensor([reward] * 7 + [0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    advantages = group_advantages(rewards, 7, eps=0.0)
    assert advantages[:7].tolist() == [0.0] * 7
    assert advantages[8] > 2


def test_whole_number_and_half_rewards() -> None:
    """Integer rewards, which have no std; half precision, where 0.1 more is lost beside 1000."""
    assert group_advantages(torch.tensor([13, 2, 15]), 3, eps=0.0).tolist() == near([3 / 7, -8 / 7, 5 / 7])
    assert group_advantages(torch.tensor([1.0, 0.0], dtype=torch.bfloat16), 2).dtype == torch.float32


@pytest.mark.parametrize(
    ("rewards", "group", "match"),
    [
        ([1.0, 2.0], 1, "group is 1"),
        ([1.0, 2.0], 0, "group is 0"),
        ([1.0, 2.0, 3.0], 2, r"\(3,\)"),
        ([[1.0, 2.0]], 2, r"\(1, 2\)"),
        ([], 2, r"\(0,\)"),
        ([1.0, math.nan], 2, "reward 1 is nan"),
        ([-INF, 1.0], 2, "reward 0 is -inf"),
    ],
)
def test_bad_groups(rewards: list[Any], group: int, match: str) -> None:
    """A group of one has no std, and one NaN reward would silence or spoil its whole group."""
    with pytest.raises(ValueError, match=match):
        group_advantages(torch.tensor(rewards), group)


@pytest.mark.parametrize(
    ("level", "ratios"),
    [
        ("answer", [[1.5], [0.5], [1.1]]),
        ("sequence", [[1.2247449], [0.7937005], [1.1]]),
        ("token", [[1.5, 1.0, 1.0], [0.5, 1.0, 1.0], [1.0, 1.0, 1.1]]),
    ],
)
def test_ratio_levels(level: Any, ratios: list[list[float]]) -> None:
    """The paper's ratio length-normalised, TRL's not, or tokens outside the mask in either."""
    got = log_ratio(NEW, OLD, MASK, level).exp()
    assert got.tolist() == [near(row) for row in ratios]


def test_clipping_by_hand() -> None:
    """max for min, or clipping where the objective must stay pessimistic.

    Ratios 1.5 and 0.5, clip range 0.2. A = 2: min(3, 2.4) and min(1, 1.6). A = -2: min(-3, -2.4) and min(-1, -1.6).
    """
    log_ratios = torch.tensor([[1.5, 0.5], [1.5, 0.5]]).log()
    surrogate = clipped_surrogate(log_ratios, torch.tensor([2.0, -2.0]), 0.2)
    assert surrogate.tolist() == [near([2.4, 1.0]), near([-3.0, -1.6])]


def test_kl_by_hand() -> None:
    """k1 in place of k3 (it is negative for some tokens), the ratio upside down, tokens outside the mask."""
    assert k3_kl(NEW, REF, MASK).tolist() == [near([0.3068528, 0, 0]), near([0.1931472, 0, 0]), near([0, 0, 0])]


# Seven times the mean surrogate, with 7A = (3, -8, 5). The clip range is 0.2 where it says so.
#   answer, clipped    3 * 1.2 = 3.6 (not 4.5), -8 * 0.8 = -6.4 (not -4), 5 * 1.1 = 5.5: sum 2.7, over 3
#   answer, wide       4.5 - 4 + 5.5 = 6, over 3
#   token, clipped     answer 1 (3.6 + 3)/2 = 3.3, answer 2 (-6.4 - 8 - 8)/3 = -7.4666667, answer 3 5.5: sum 1.3333333
#   token, wide        (4.5 + 3)/2 = 3.75, (-4 - 8 - 8)/3 = -6.6666667, 5.5: sum 2.5833333
#   sequence, clipped  1.2247449 and 0.7937005 are both outside: 3.6 - 6.4 + 5.5 = 2.7
#   sequence, 0.25     both inside: 3 * 1.2247449 - 8 * 0.7937005 + 5.5 = 3.6742346 - 6.3496042 + 5.5 = 2.8246304
# Over all six tokens, the answer's value standing for each of its tokens:
#   token, clipped     3.6 + 3 - 6.4 - 8 - 8 + 5.5 = -10.3
#   answer, clipped    2 * 3.6 - 3 * 6.4 + 5.5 = -6.5
# KL, levels token and sequence: mean per answer 0.3068528/2, 0.1931472/3, 0, their mean (0.1534264 + 0.0643824)/3 =
# 0.0726029; over tokens 0.5/6. Level answer sums each answer's tokens: (0.3068528 + 0.1931472 + 0)/3 = 0.5/3; over
# tokens (2 * 0.3068528 + 3 * 0.1931472)/6 = 0.1988579.
# Mean ratios: 3.1/3; 6.1/6; (1.2247449 + 0.7937005 + 1.1)/3 = 1.0394818.
@pytest.mark.parametrize(
    ("level", "epsilon", "aggregation", "surrogate", "kl", "clipped", "ratio"),
    [
        ("answer", 0.2, "answer", 2.7 / 21, 0.5 / 3, 2 / 3, 3.1 / 3),
        ("answer", WIDE, "answer", 6 / 21, 0.5 / 3, 0.0, 3.1 / 3),
        ("token", 0.2, "answer", 1.3333333 / 21, 0.0726029, 2 / 6, 6.1 / 6),
        ("token", WIDE, "answer", 2.5833333 / 21, 0.0726029, 0.0, 6.1 / 6),
        ("sequence", 0.2, "answer", 2.7 / 21, 0.0726029, 2 / 3, 1.0394818),
        ("sequence", 0.25, "answer", 2.8246304 / 21, 0.0726029, 0.0, 1.0394818),
        ("token", 0.2, "token", -10.3 / 42, 0.5 / 6, 2 / 6, 6.1 / 6),
        ("answer", 0.2, "token", -6.5 / 42, 0.1988579, 2 / 3, 3.1 / 3),
    ],
)
def test_loss_by_hand(
    level: Any, epsilon: float, aggregation: Any, surrogate: float, kl: float, clipped: float, ratio: float
) -> None:
    """A sign, a level, a clip or a mean that is another than its name says; beta left out."""
    loss, metrics = brpo_loss(NEW, OLD, REF, A, MASK, level=level, aggregation=aggregation, epsilon=epsilon, beta=0.1)
    assert loss.item() == near(-surrogate + 0.1 * kl)
    assert {name: value.item() for name, value in metrics.items()} == near(
        {"kl": 0.5 / 6, "clipped": clipped, "ratio": ratio}
    )


def test_defaults_are_the_papers() -> None:
    """A changed default: whole-answer ratio, beta 0.1, mean over answers; epsilon 0.2 where the paper is silent."""
    assert brpo_loss(NEW, OLD, REF, A, MASK)[0].item() == near(-2.7 / 21 + 0.1 * 0.5 / 3)


@pytest.mark.parametrize("level", ["answer", "sequence", "token"])
@pytest.mark.parametrize("junk", [INF, -INF, math.nan])
def test_what_is_outside_the_mask_changes_nothing(level: Any, junk: float) -> None:
    """Prompt, re-inserted or padded places leaking into loss or gradient, most often as NaN."""
    clean = NEW.masked_fill(MASK == 0, 0.0).requires_grad_()
    dirty = NEW.masked_fill(MASK == 0, junk).requires_grad_()
    for new, fill in ((clean, 0.0), (dirty, junk)):
        others = [other.masked_fill(MASK == 0, fill) for other in (OLD, REF)]
        loss, metrics = brpo_loss(new, *others, A, MASK, level=level)
        assert loss.isfinite()
        assert all(metric.isfinite() for metric in metrics.values())
        loss.backward()
    assert dirty.grad.equal(clean.grad)
    assert not dirty.grad[MASK == 0].any()


def test_gradient_by_hand() -> None:
    """A clipped answer that still learns, or an unclipped one whose tokens do not all learn.

    No KL, answer level, 0.2: answers 1 and 2 are clipped. Answer 3 has one token: d loss / d logp = -A * ratio / 3.
    Wide: each token of answer 1 gets -(3/7) * 1.5 / 3 and each of answer 2 gets (8/7) * 0.5 / 3.
    """
    expected = {
        0.2: [[0, 0, 0], [0, 0, 0], [0, 0, -5.5 / 21]],
        WIDE: [[-4.5 / 21, -4.5 / 21, 0], [4 / 21] * 3, [0, 0, -5.5 / 21]],
    }
    for epsilon, rows in expected.items():
        new, old = NEW.clone().requires_grad_(), OLD.clone().requires_grad_()
        brpo_loss(new, old, None, A, MASK, beta=0.0, epsilon=epsilon)[0].backward()
        assert new.grad.tolist() == [near(row) for row in rows]
        assert old.grad is None


def test_kl_gradient_pulls_towards_the_reference() -> None:
    """A KL whose sign or direction is turned: 1 - ref/new, so -1 where the reference is twice as likely."""
    new = NEW.clone().requires_grad_()
    k3_kl(new, REF, MASK).sum().backward()
    assert new.grad.tolist() == [near([-1, 0, 0]), near([0.5, 0, 0]), near([0, 0, 0])]


@pytest.mark.parametrize("level", ["answer", "sequence", "token"])
def test_kl_weighs_as_much_as_the_policy_at_every_length_and_level(level: Any) -> None:
    """|grad KL| / |grad policy|: a KL that is a mean where the ratio's gradient is a sum weighs 1/length of it."""
    shares = []
    for length in (50, 300, 1000):
        generator = torch.Generator().manual_seed(length)
        policy = -torch.rand(8, length, generator=generator)
        ref = policy + 0.1 * torch.randn(8, length, generator=generator)
        rewards, mask = torch.rand(8, generator=generator), torch.ones(8, length)
        norms = []
        for beta, advantages in ((0.0, group_advantages(rewards, 8)), (0.1, torch.zeros(8))):
            new = policy.clone().requires_grad_()
            brpo_loss(new, policy, ref, advantages, mask, level=level, beta=beta)[0].backward()
            norms.append(new.grad.norm())
        shares.append(float(norms[1] / norms[0]))
    assert max(shares) < 2 * min(shares), shares
    assert min(shares) > 0.005, shares
    assert max(shares) < 0.02, shares


def test_kl_of_whole_answers_by_hand() -> None:
    """Two tokens at ref/new 2 and 1/4: per token 2 - ln 2 - 1 and 1/4 + ln 4 - 1, of the answer 1/2 + ln 2 - 1."""
    new, ref = torch.tensor([[0.3, 0.4]]).log(), torch.tensor([[0.6, 0.1]]).log()
    mask = torch.ones(1, 2)
    per_token = 1 - math.log(2) + math.log(4) - 0.75
    assert kl_penalty(new, ref, mask, "answer").item() == near(per_token)
    assert kl_penalty(new, ref, mask, "answer", "answer").item() == near(math.log(2) - 0.5)
    assert kl_penalty(new, ref, mask, "sequence").sum().item() == near(per_token)


@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_a_runaway_answer_ratio_stays_finite(advantage: float) -> None:
    """exp of a sum over a long answer overflows, and 0 * inf makes the clipped gradient NaN."""
    new = torch.zeros(1, 2000, requires_grad=True)
    old = torch.full((1, 2000), -1.0)
    loss, metrics = brpo_loss(new, old, None, torch.tensor([advantage]), torch.ones(1, 2000), beta=0.0)
    loss.backward()
    assert loss.isfinite()
    assert metrics["ratio"].isfinite()
    assert new.grad.isfinite().all()


@pytest.mark.parametrize("level", ["answer", "sequence", "token"])
def test_an_answer_without_tokens_adds_nothing(level: Any) -> None:
    """0/0 for an empty answer, or its advantage counted at ratio 1: the sum over answers stays, over one more."""
    nothing = torch.zeros(1, 3)
    grown = [torch.cat([tensor, nothing]) for tensor in (NEW, OLD, REF)]
    mask, advantages = torch.cat([MASK, nothing]), torch.cat([A, torch.ones(1)])
    loss, metrics = brpo_loss(NEW, OLD, REF, A, MASK, level=level)
    more, more_metrics = brpo_loss(*grown, advantages, mask, level=level)
    assert more.item() == near(loss.item() * 3 / 4)
    assert more_metrics["ratio"].item() == near(metrics["ratio"].item())
    empty, empty_metrics = brpo_loss(*[nothing] * 3, torch.ones(1), nothing, level=level)
    assert [empty.item(), *(m.item() for m in empty_metrics.values())] == [0.0] * 4


def test_aggregation_by_hand() -> None:
    """The two means swapped: answers (1 + 3)/2 = 2 and 8, mean 5; tokens (1 + 3 + 8)/3 = 4."""
    values, mask = torch.tensor([[1.0, 3.0], [8.0, 99.0]]), torch.tensor([[1, 1], [1, 0]])
    assert aggregate(values, mask, "answer").item() == 5.0
    assert aggregate(values, mask, "token").item() == 4.0


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"level": "sentence"}, "ratio level 'sentence'"),
        ({"aggregation": "sum"}, "aggregation 'sum'"),
        ({"kl_estimate": "k1"}, "kl_estimate 'k1'"),
        ({"kl_estimate": "answer", "level": "token"}, "level 'answer', not 'token'"),
        ({"epsilon": 0.0}, "epsilon is 0.0"),
        ({"ref": None}, "beta is 0.1"),
        ({"old": OLD[:, :2]}, r"\(3, 3\), \(3, 2\), \(3, 3\)"),
        ({"mask": MASK[:2]}, r"\(2, 3\)"),
        ({"advantages": A[:, None]}, r"\(3, 1\)"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], match: str) -> None:
    """Shapes that would broadcast into a wrong loss, and options that do not exist."""
    given = {"new": NEW, "old": OLD, "ref": REF, "advantages": A, "mask": MASK} | arguments
    with pytest.raises(ValueError, match=match):
        brpo_loss(**given)
