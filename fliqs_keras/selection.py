"""Choosing one option for each decision, exactly, within a budget."""

from collections.abc import Sequence

import numpy as np
from scipy import optimize, sparse

# Costs are compared as sums of floats: what a rounding error can add up to.
_TOLERANCE = 1e-9


def cost_of(choice: np.ndarray, costs: Sequence[np.ndarray]) -> float:
    """Returns the cost of a choice, a position for each decision."""
    return float(sum(row[i] for row, i in zip(costs, choice, strict=True)))


def best_within_budget(
    scores: Sequence[np.ndarray],
    costs: Sequence[np.ndarray],
    budget: float,
    floor: float = 0.0,
) -> np.ndarray | None:
    """Finds the choice of the highest total score within a budget.

    A multiple-choice knapsack problem, solved as an integer program.

    Args:
        scores: Score of each option of each decision.
        costs: Cost of each option of each decision.
        budget: Highest total cost allowed.
        floor: Lowest total cost allowed.

    Returns:
        An integer array, a position for each decision, or `None` if no
        choice costs between `floor` and `budget`.

    Example:

    >>> scores = [np.array([0.0, 1.0]), np.array([0.0, 3.0])]
    >>> costs = [np.array([1.0, 2.0]), np.array([1.0, 2.0])]
    >>> best_within_budget(scores, costs, budget=3.0)
    array([0, 1])
    """
    sizes = [len(row) for row in scores]
    ends = np.cumsum(sizes)
    starts = ends - sizes
    decision = np.repeat(np.arange(len(sizes)), sizes)
    one_each = sparse.csr_array(
        (np.ones(ends[-1]), (decision, np.arange(ends[-1])))
    )
    slack = _TOLERANCE * max(abs(budget), 1e-300)
    unit = max(abs(budget), 1e-300)
    flat_costs = np.concatenate(costs)
    result = optimize.milp(
        -np.concatenate(scores),
        integrality=np.ones(ends[-1]),
        bounds=optimize.Bounds(0, 1),
        constraints=[
            optimize.LinearConstraint(one_each, 1, 1),
            optimize.LinearConstraint(
                flat_costs[None, :] / unit,
                (floor - slack) / unit,
                (budget + slack) / unit,
            ),
        ],
    )
    if result.x is None:
        return None
    return np.array(
        [
            np.argmax(result.x[start:end])
            for start, end in zip(starts, ends, strict=True)
        ]
    )
