"""Choosing one option for each decision, exactly, within a budget."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import optimize, sparse

# Costs are compared as sums of floats: what a rounding error can add up to.
_TOLERANCE = 1e-9
_TINY = 1e-300


def cost_of(choice: np.ndarray, costs: Sequence[np.ndarray]) -> float:
    """Returns the cost of a choice, a position for each decision."""
    return float(sum(row[i] for row, i in zip(costs, choice, strict=True)))


class Limit(NamedTuple):
    """A budget.

    Attributes:
        costs: Cost of each option of each decision; they add up.
        budget: Highest total cost allowed.
    """

    costs: Sequence[np.ndarray]
    budget: float

    def is_kept_by(self, choice: np.ndarray) -> bool:
        """Whether a choice, a position for each decision, is within it."""
        slack = _TOLERANCE * abs(self.budget)
        return cost_of(choice, self.costs) <= self.budget + slack


def best_within_budget(
    scores: Sequence[np.ndarray],
    costs: Sequence[np.ndarray],
    budget: float,
    floor: float = 0.0,
    others: Sequence[Limit] = (),
) -> np.ndarray | None:
    """Finds the choice of the highest total score within a budget.

    A multiple-choice knapsack problem, solved as an integer program.

    Args:
        scores: Score of each option of each decision.
        costs: Cost of each option of each decision.
        budget: Highest total cost allowed.
        floor: Lowest total cost allowed.
        others: Budgets of other costs, to keep besides.

    Returns:
        An integer array, a position for each decision, or `None` if no
        choice costs between `floor` and `budget` and keeps the others.

    Example:

    >>> scores = [np.array([0.0, 1.0]), np.array([0.0, 3.0])]
    >>> costs = [np.array([1.0, 2.0]), np.array([1.0, 2.0])]
    >>> best_within_budget(scores, costs, budget=3.0)
    array([0, 1])
    """
    unit = max(abs(budget), _TINY)
    constraints = [
        _one_each(scores),
        optimize.LinearConstraint(
            np.concatenate(costs)[None, :] / unit,
            floor / unit - _TOLERANCE,
            budget / unit + _TOLERANCE,
        ),
    ]
    for limit in others:
        row = np.concatenate(limit.costs)[None, :]
        unit = max(abs(limit.budget), _TINY)
        constraints.append(
            optimize.LinearConstraint(
                row / unit, -np.inf, limit.budget / unit + _TOLERANCE
            )
        )
    flat_scores = np.concatenate(scores)
    result = optimize.milp(
        -flat_scores,
        integrality=np.ones(flat_scores.size),
        bounds=optimize.Bounds(0, 1),
        constraints=constraints,
    )
    return None if result.x is None else _positions(result.x, scores)


def nearest_choice(limits: Sequence[Limit]) -> np.ndarray:
    """Finds the choice that exceeds its budgets least.

    That is the one whose largest ratio of a cost to its budget is smallest.

    Args:
        limits: The budgets, of positive cost.
    """
    costs = limits[0].costs
    size = sum(len(row) for row in costs)
    # The ratio is one more variable.
    one_each = sparse.hstack([_one_each(costs).A, np.zeros((len(costs), 1))])
    ratios = [np.concatenate(x.costs) / max(x.budget, _TINY) for x in limits]
    within = np.column_stack([ratios, -np.ones(len(limits))])
    result = optimize.milp(
        np.append(np.zeros(size), 1.0),
        integrality=np.append(np.ones(size), 0),
        bounds=optimize.Bounds(0, np.append(np.ones(size), np.inf)),
        constraints=[
            optimize.LinearConstraint(one_each, 1, 1),
            optimize.LinearConstraint(within, -np.inf, 0),
        ],
    )
    return _positions(result.x[:-1], costs)


def _one_each(rows: Sequence[np.ndarray]) -> optimize.LinearConstraint:
    """Has each decision take one of its options."""
    sizes = [len(row) for row in rows]
    decision = np.repeat(np.arange(len(sizes)), sizes)
    matrix = sparse.csr_array(
        (np.ones(sum(sizes)), (decision, np.arange(sum(sizes))))
    )
    return optimize.LinearConstraint(matrix, 1, 1)


def _positions(taken: np.ndarray, rows: Sequence[np.ndarray]) -> np.ndarray:
    ends = np.cumsum([len(row) for row in rows])
    return np.array([np.argmax(x) for x in np.split(taken, ends[:-1])])
