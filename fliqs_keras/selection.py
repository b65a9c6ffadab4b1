"""Choosing one option for each decision, exactly, within budgets."""

import math
from collections.abc import Sequence

import numpy as np
from scipy import optimize, sparse

from fliqs_keras.cost_tables import TOLERANCE, Costs, CostTable, Limit

_TINY = 1e-300


def cost_of(choice: Sequence[int], costs: Costs) -> float:
    """Returns the cost of a choice, a position for each decision."""
    return CostTable.from_rows(costs).of(choice)


def best_within_budget(
    scores: Costs,
    costs: Costs,
    budget: float,
    floor: float = 0.0,
    others: Sequence[Limit] = (),
) -> np.ndarray | None:
    """Finds the choice of the highest total score within budgets.

    A multiple-choice knapsack problem, solved as an integer program, to within
    1e-4 of what a choice loses against the best options.

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
    first = Limit(CostTable.from_rows(costs), budget)
    limits = [first, *others]
    scores = CostTable.from_rows(scores)
    program = _Program([scores, *(limit.table for limit in limits)])
    lowest = [floor, *[-np.inf] * len(others)]
    within = [
        program.between(limit.table, low, limit.budget)
        for limit, low in zip(limits, lowest, strict=True)
    ]
    return program.minimize(-program.coefficients(scores), within)


def dearest_choice(costs: Costs) -> np.ndarray:
    """Finds the choice of the highest cost."""
    table = CostTable.from_rows(costs)
    program = _Program([table])
    return program.minimize(-program.coefficients(table), [])


def cheapest_choice(costs: Costs) -> np.ndarray:
    """Finds the choice of the lowest cost."""
    table = CostTable.from_rows(costs)
    program = _Program([table])
    return program.minimize(program.coefficients(table), [])


def nearest_choice(limits: Sequence[Limit]) -> np.ndarray:
    """Finds the choice that exceeds its budgets least.

    That is the one whose largest ratio of a cost to its budget is smallest. To
    a budget of zero it is the ratio to the largest part of the cost.

    Args:
        limits: The budgets, none of them negative.
    """
    program = _Program([limit.table for limit in limits])
    rows = [program.coefficients(limit.table) for limit in limits]
    ratios = [
        row / _unit(limit.budget, row)
        for row, limit in zip(rows, limits, strict=True)
    ]
    return program.minimize_largest(np.array(ratios))


def _unit(budget: float, coefficients: np.ndarray) -> float:
    """Returns what to divide a cost by; never zero."""
    return abs(budget) or np.abs(coefficients).max() or 1.0


class _Program:
    """Integer programs over choices, by one set of variables.

    A binary variable `x_a` for each option of each decision. For each set of
    decisions that some cost depends on together, a variable `z_ab...` for each
    combination of their options, which sum up to `x_a` over all combinations
    that hold `a`: where `x` is integral, `z_ab... = x_a x_b ...`. For a single
    pair these equations describe the convex hull, so that the relaxation is
    tight.

    Args:
        tables: The costs and scores that take part.
    """

    def __init__(self, tables: Sequence[CostTable]):
        self._sizes = tables[0].sizes
        self._starts = np.cumsum([0, *self._sizes])
        self._joint = sorted({key for table in tables for key in table.joint})
        self._count = self._starts[-1]
        equations = [np.repeat(np.arange(len(self._sizes)), self._sizes)]
        columns = [np.arange(self._count)]
        values = [np.ones(self._count)]
        self._right = [1.0] * len(self._sizes)
        for places in self._joint:
            shape = [self._sizes[i] for i in places]
            z = self._count + np.arange(np.prod(shape)).reshape(shape)
            self._count += z.size
            for axis, decision in enumerate(places):
                for option in range(shape[axis]):
                    row = np.ravel(np.take(z, option, axis))
                    x = self._starts[decision] + option
                    columns.append(np.append(row, x))
                    values.append(np.append(np.ones(len(row)), -1.0))
                    equation = len(self._right)
                    equations.append(np.full(len(row) + 1, equation))
                    self._right.append(0.0)
        self._equations = sparse.csr_array(
            (
                np.concatenate(values),
                (np.concatenate(equations), np.concatenate(columns)),
            ),
            shape=(len(self._right), self._count),
        )

    def coefficients(self, table: CostTable) -> np.ndarray:
        """Returns a cost as a linear function of the variables."""
        joint = [
            np.ravel(table.joint[places])
            if places in table.joint
            else np.zeros(math.prod(self._sizes[i] for i in places))
            for places in self._joint
        ]
        return np.concatenate([*table.rows, *joint])

    def between(
        self, table: CostTable, low: float, high: float
    ) -> optimize.LinearConstraint:
        """Has a cost lie between two numbers."""
        coefficients = self.coefficients(table)
        unit = _unit(high, coefficients)
        return optimize.LinearConstraint(
            coefficients[None, :] / unit,
            low / unit - TOLERANCE,
            high / unit + TOLERANCE,
        )

    def minimize(
        self,
        objective: np.ndarray,
        constraints: Sequence[optimize.LinearConstraint],
    ) -> np.ndarray | None:
        """Returns the choice of the lowest objective, if there is any."""
        choose = optimize.LinearConstraint(
            self._equations, self._right, self._right
        )
        constraints = [choose, *constraints]
        # Of each group of variables, of which one is taken, the least is free.
        above = objective - self._least(objective)
        unit = max(above.max(), _TINY)
        allowed = np.ones(self._count, bool)
        best = None
        while True:
            # The solver stops within 1e-6, beside which costs that are
            # millionths of others vanish. What alone is more than all that a
            # choice takes is in no better one.
            x = self._solve(
                np.where(allowed, above, 0) / unit, constraints, allowed
            )
            if x is None:
                return best
            best = self._choice(x)
            total = above @ np.rint(x)
            if total >= unit / 2 or total <= _TINY:
                return best
            unit = total
            allowed = above <= total * (1 + TOLERANCE)

    def _least(self, objective: np.ndarray) -> np.ndarray:
        """Returns for each variable the least coefficient of its group."""
        sizes = [
            *self._sizes,
            *(math.prod(self._sizes[i] for i in key) for key in self._joint),
        ]
        starts = np.cumsum([0, *sizes[:-1]])
        return np.repeat(np.minimum.reduceat(objective, starts), sizes)

    def minimize_largest(self, objectives: np.ndarray) -> np.ndarray:
        """Returns the choice whose largest objective is lowest."""
        # The largest is one more variable, above each of them.
        column = sparse.csr_array((len(self._right), 1))
        choose = optimize.LinearConstraint(
            sparse.hstack([self._equations, column]), self._right, self._right
        )
        below = np.column_stack([objectives, -np.ones(len(objectives))])
        largest = np.append(np.zeros(self._count), 1.0)
        highest = np.append(np.ones(self._count), np.inf)
        below = optimize.LinearConstraint(below, -np.inf, 0.0)
        return self._choice(self._solve(largest, [choose, below], highest))

    def _solve(
        self,
        objective: np.ndarray,
        constraints: Sequence[optimize.LinearConstraint],
        highest: np.ndarray,
    ) -> np.ndarray | None:
        """Returns the variables, none of which is above its highest value."""
        result = optimize.milp(
            objective,
            integrality=np.arange(objective.size) < self._starts[-1],
            bounds=optimize.Bounds(0, highest.astype("float64")),
            constraints=constraints,
        )
        return result.x

    def _choice(self, x: np.ndarray) -> np.ndarray:
        taken = np.split(x[: self._starts[-1]], self._starts[1:-1])
        return np.array([np.argmax(part) for part in taken])
