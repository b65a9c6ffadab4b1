"""What choices cost: numbers that add up over decisions and sets of them."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

# Costs are compared as sums of floats: what a rounding error can add up to.
TOLERANCE = 1e-9


@dataclasses.dataclass(frozen=True)
class CostTable:
    """A cost of choices, which are a position for each decision.

    Attributes:
        rows: Cost of each option of each decision.
        joint: What does not add up over single decisions: for the positions
            of two decisions or more, in rising order, the cost of each
            combination of their options, an axis a decision.

    Example:

    >>> rows = [np.array([0.0, 1.0]), np.array([0.0, 2.0])]
    >>> joint = {(0, 1): np.array([[4.0, 8.0], [8.0, 16.0]])}
    >>> CostTable(rows, joint).of([1, 0])
    9.0
    """

    rows: Sequence[np.ndarray]
    joint: Mapping[tuple[int, ...], np.ndarray] = dataclasses.field(
        default_factory=dict
    )

    @classmethod
    def from_rows(
        cls, costs: "CostTable | Sequence[np.ndarray]"
    ) -> "CostTable":
        """Returns a table as it is, or the table of the given rows."""
        if isinstance(costs, cls):
            return costs
        return cls([np.asarray(row, dtype="float64") for row in costs])

    @classmethod
    def from_terms(
        cls,
        terms: Iterable[tuple[Sequence[str], np.ndarray]],
        sizes: Mapping[str, int],
    ) -> "CostTable":
        """Returns the table of the terms of a cost.

        Args:
            terms: For each term the names of its decisions and its values,
                with an axis for each decision.
            sizes: Number of options of each decision, by its name, in order.

        Raises:
            ValueError: If a term is of another decision or of another size.
        """
        position = {name: i for i, name in enumerate(sizes)}
        rows = [np.zeros(size) for size in sizes.values()]
        joint: dict[tuple[int, ...], np.ndarray] = {}
        for names, values in terms:
            values = np.asarray(values, dtype="float64")
            shape = tuple(sizes.get(name) for name in names)
            if values.shape != shape:
                raise ValueError(
                    "Expected a cost term on decisions of the model, with an "
                    "axis for each and along it an entry for each option. "
                    f"Received: {names} with values of shape {values.shape}"
                )
            places = [position[name] for name in names]
            # A decision without a choice needs no variable of its own, and
            # one that is named twice takes one option.
            taken = sorted(set(places))
            axes = [taken.index(i) for i in places]
            values = np.einsum(values, axes, range(len(taken)))
            free = [i for i in taken if len(rows[i]) > 1]
            values = values.reshape([len(rows[i]) for i in free])
            if len(free) > 1:
                joint[tuple(free)] = joint.get(tuple(free), 0.0) + values
            else:
                # What depends on nothing is in the first row.
                rows[free[0] if free else 0] += values
        return cls(rows, joint)

    @property
    def sizes(self) -> list[int]:
        """Number of options of each decision."""
        return [len(row) for row in self.rows]

    def fix(
        self, decisions: Sequence[int], choice: Sequence[int]
    ) -> "CostTable":
        """Returns the table with a single option of some decisions.

        Args:
            decisions: The decisions.
            choice: A position for each decision of the table. Of those that
                are fixed it is the option that stays.
        """
        kept = {i: [choice[i]] for i in decisions}
        rows = [
            row[kept[i]] if i in kept else row
            for i, row in enumerate(self.rows)
        ]
        joint = {
            places: values[
                np.ix_(*[kept.get(i, range(len(self.rows[i]))) for i in places])
            ]
            for places, values in self.joint.items()
        }
        return CostTable(rows, joint)

    def of(self, choice: Sequence[int]) -> float:
        """Returns what a choice costs, a position for each decision."""
        rows = sum(row[i] for row, i in zip(self.rows, choice, strict=True))
        joint = sum(
            values[tuple(choice[i] for i in places)]
            for places, values in self.joint.items()
        )
        return float(rows + joint)


Costs = CostTable | Sequence[np.ndarray]


class Limit(NamedTuple):
    """A budget.

    Attributes:
        costs: Cost of each option of each decision; they add up. Or a
            `CostTable`, with costs of sets of options.
        budget: Highest total cost allowed.
    """

    costs: Costs
    budget: float

    @property
    def table(self) -> CostTable:
        """The costs as a table."""
        return CostTable.from_rows(self.costs)

    def share(self, choice: Sequence[int]) -> float:
        """Returns the cost of a choice as a share of the budget."""
        return self.table.of(choice) / self.budget if self.budget else 0.0

    def is_kept_by(self, choice: Sequence[int]) -> bool:
        """Whether a choice, a position for each decision, is within it."""
        slack = TOLERANCE * abs(self.budget)
        return self.table.of(choice) <= self.budget + slack
