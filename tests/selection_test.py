"""Choices within several budgets of joint costs, against brute force."""

import itertools
import sys

import numpy as np
import pytest

from fliqs_keras.cost_tables import CostTable, Limit
from fliqs_keras.reinforce import Reinforce, ReinforceController
from fliqs_keras.selection import (
    best_within_budget,
    cheapest_choice,
    dearest_choice,
    nearest_choice,
)
from fliqs_keras.sensitivity import SensitivityController

SIZES = (2, 3, 4, 2, 3)


def make_table(generator, joint=()):
    return CostTable(
        [generator.uniform(1, 9, size=n) for n in SIZES],
        {
            places: generator.uniform(0, 9, size=[SIZES[i] for i in places])
            for places in joint
        },
    )


def all_choices():
    return list(itertools.product(*(range(n) for n in SIZES)))


@pytest.fixture(params=range(8), ids="seed_{}".format)
def problem(request):
    """Scores, and two limits that share one pair; half of them feasible."""
    generator = np.random.default_rng(request.param)
    scores = make_table(generator)
    first = make_table(generator, [(0, 1), (2, 4)])
    second = make_table(generator, [(0, 1), (1, 3), (0, 2, 3, 4)])
    budgets = [
        np.quantile([t.of(c) for c in all_choices()], generator.uniform(0, 0.4))
        for t in (first, second)
    ]
    return scores, Limit(first, budgets[0]), Limit(second, budgets[1])


def feasible(limits):
    return [c for c in all_choices() if all(x.is_kept_by(c) for x in limits)]


def test_best_choice_is_that_of_brute_force(problem):
    scores, *limits = problem
    found = best_within_budget(scores, *limits[0], others=limits[1:])
    choices = feasible(limits)
    if not choices:
        assert found is None
    else:
        best = max(scores.of(c) for c in choices)
        assert tuple(found) in choices
        assert scores.of(found) == pytest.approx(best, rel=1e-3)


def test_both_outcomes_are_tried():
    generator = np.random.default_rng(0)
    table = make_table(generator, [(0, 1)])
    costs = [table.of(c) for c in all_choices()]
    for share, is_met in ((0.999, False), (1.001, True)):
        found = best_within_budget(table, table, share * min(costs))
        assert (found is not None) is is_met


@pytest.mark.parametrize("unit", [1e-9, 1.0, 1e9])
def test_choice_does_not_depend_on_the_unit(unit):
    # 1 + 2 + 4 options of cost: within 5 of 7, the first and the last.
    costs = [unit * np.array([0.0, n]) for n in (1.0, 2.0, 4.0)]
    assert list(best_within_budget(costs, costs, 5 * unit)) == [1, 0, 1]


@pytest.mark.parametrize("worst", [1.0, 1e3, 1e6, 1e12])
def test_an_option_that_is_very_bad_hides_no_others(worst):
    generator = np.random.default_rng(0)
    # Fourteen decisions of three options, by dynamic programming.
    harm = generator.uniform(0, 1e-3, size=(14, 3))
    harm[:, 0] += worst
    costs = generator.integers(1, 9, size=(14, 3))
    best = {0: 0.0}
    for harms, taken in zip(harm, costs, strict=True):
        reached = {}
        for cost, total in best.items():
            for h, c in zip(harms, taken, strict=True):
                total_then = min(total + h, reached.get(cost + c, np.inf))
                reached[cost + c] = total_then
        best = reached
    budget = int(costs.min(axis=1).sum() * 1.5)
    expected = min(total for cost, total in best.items() if cost <= budget)
    found = best_within_budget(-harm, costs.astype("f8"), float(budget))
    total = harm[np.arange(14), found].sum()
    assert costs[np.arange(14), found].sum() <= budget
    assert total == pytest.approx(expected, rel=2e-4)


def test_extremes_are_those_of_brute_force(problem):
    _, first, _ = problem
    costs = [first.costs.of(c) for c in all_choices()]
    assert first.costs.of(cheapest_choice(first.costs)) == min(costs)
    assert first.costs.of(dearest_choice(first.costs)) == max(costs)


def test_nearest_choice_exceeds_its_budgets_least(problem):
    _, *limits = problem
    shares = [max(x.share(c) for x in limits) for c in all_choices()]
    found = nearest_choice(limits)
    assert max(x.share(found) for x in limits) == pytest.approx(
        min(shares), rel=1e-3
    )


@pytest.mark.parametrize("largest", [0.0, 1e-6, 1e6])
def test_a_budget_of_nothing_can_be_met(largest, problem):
    scores, other, _ = problem
    # The first option of each decision costs nothing.
    rows = [largest * np.arange(n) / max(SIZES) for n in SIZES]
    none = Limit(CostTable.from_rows(rows), 0.0)
    best = max(scores.of(c) for c in feasible([none]))
    found = best_within_budget(scores, *none)
    assert none.is_kept_by(found)
    assert scores.of(found) == pytest.approx(best, rel=1e-3)
    assert none.is_kept_by(nearest_choice([none]))
    unit = largest * (max(SIZES) - 1) / max(SIZES) or 1.0
    unmet = Limit(other.costs, 0.0)
    most = max(
        np.abs(v).max()
        for v in [*other.costs.rows, *other.costs.joint.values()]
    )

    def worst(choice):
        return max(none.costs.of(choice) / unit, other.costs.of(choice) / most)

    found = nearest_choice([none, unmet])
    assert worst(found) == pytest.approx(
        min(map(worst, all_choices())), rel=1e-3
    )


def test_terms_add_up_whatever_their_order():
    sizes = {"a": 2, "b": 3, "fixed": 1}
    values = np.arange(6.0).reshape(2, 3)
    table = CostTable.from_terms(
        [
            (("a", "b"), values),
            (("b", "a"), 10 * values.T),
            (("b",), np.array([100.0, 200.0, 300.0])),
            (("a", "a"), np.array([[1000.0, -1.0], [-1.0, 2000.0]])),
            (("fixed", "a"), np.array([[1e4, 2e4]])),
            ((), np.array(1e5)),
        ],
        sizes,
    )
    assert table.of([1, 2, 0]) == 11 * 5 + 300 + 2000 + 2e4 + 1e5
    assert set(table.joint) == {(0, 1)}


def test_term_of_three_takes_one_option_of_a_decision_named_twice():
    sizes = {f"other_{i}": 2 for i in range(60)} | {"a": 2, "b": 3}
    values = np.arange(12.0).reshape(2, 3, 2)
    table = CostTable.from_terms([(("a", "b", "a"), values)], sizes)
    assert set(table.joint) == {(60, 61)}
    assert table.of([0] * 60 + [1, 2]) == values[1, 2, 1]


def test_fixed_decisions_keep_their_share_of_the_cost():
    rng = np.random.default_rng(0)
    table = CostTable(
        [rng.uniform(size=n) for n in (2, 3, 4)],
        {(0, 2): rng.uniform(size=(2, 4)), (1, 2): rng.uniform(size=(3, 4))},
    )
    fixed = table.fix([1], [0, 2, 0])
    assert fixed.sizes == [2, 1, 4]
    for a, c in itertools.product(range(2), range(4)):
        assert fixed.of([a, 0, c]) == table.of([a, 2, c])


@pytest.mark.parametrize(
    "term",
    [
        (("c",), np.zeros(2)),
        (("a",), np.zeros(3)),
        (("a", "b"), np.zeros((3, 2))),
        ((), np.zeros(2)),
    ],
    ids=["stranger", "size", "turned", "none"],
)
def test_wrong_term_is_refused(term):
    with pytest.raises(ValueError, match="decisions of the model"):
        CostTable.from_terms([term], {"a": 2, "b": 3})


ROWS = [np.array([1.0, 2.0, 3.0])] * 4
# The dearer an option is by one cost, the cheaper by the other.
TURNED = [np.array([3.0, 2.0, 1.0])] * 4


def test_budgets_that_exclude_each_other_are_refused():
    # Their sum is 16 for every choice: the nearest costs 8 by both.
    with pytest.raises(ValueError, match=r"\[7.0, 7.0\].*\[8.0, 8.0\]"):
        SensitivityController(
            ROWS, 7.0, 10, others=[Limit(CostTable(TURNED), 7.0)]
        )


def test_first_budget_is_used_where_pairs_cost():
    # Both dear: 1 + 1 + 4 = 6. One of them: 1 + 2.
    table = CostTable(
        [np.array([0.0, 1.0])] * 2, {(0, 1): np.array([[0.0, 2.0], [2.0, 4.0]])}
    )
    controller = SensitivityController(table, 3.0, 10)
    choice = controller.best_choice()
    assert sorted(choice) == [0, 1]
    assert table.of(choice) == 3.0


def test_reward_counts_the_budget_that_is_used_most():
    controller = ReinforceController(
        ROWS, 8.0, 10, Reinforce(), 0, [Limit(CostTable(TURNED), 8.0)]
    )
    controller.choice = np.array([0, 0, 0, 1])
    # 5 of 8 by one cost and 11 of 8 by the other.
    controller.step(quality=0.0, cost=controller.cost)
    assert controller.reward == pytest.approx(-(11 / 8 - 1))


@pytest.mark.parametrize("seed", range(3))
def test_policy_ends_within_both_budgets(seed):
    limit = Limit(CostTable(TURNED), 9.0)
    controller = ReinforceController(ROWS, 8.0, 60, None, seed, [limit])
    for _ in range(60):
        controller.step(quality=float(controller.choice[0]), cost=1.0)
    choice = controller.best_choice()
    assert controller.costs.of(choice) <= 8
    assert limit.costs.of(choice) <= 9
    assert choice[0] == 2


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
