"""What choices cost: numbers that add up over decisions and pairs of them."""

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
        pairs: Cost of each pair of options, for pairs of decisions whose cost
            does not add up, by their positions, the lower one first.

    Example:

    >>> rows = [np.array([0.0, 1.0]), np.array([0.0, 2.0])]
    >>> pairs = {(0, 1): np.array([[4.0, 8.0], [8.0, 16.0]])}
    >>> CostTable(rows, pairs).of([1, 0])
    9.0
    """

    rows: Sequence[np.ndarray]
    pairs: Mapping[tuple[int, int], np.ndarray] = dataclasses.field(
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
            terms: For each term the names of its decisions, two at most, and
                its values, with an axis for each decision.
            sizes: Number of options of each decision, by its name, in order.

        Raises:
            ValueError: If a term has more decisions, or is of another size.
        """
        position = {name: i for i, name in enumerate(sizes)}
        rows = [np.zeros(size) for size in sizes.values()]
        pairs: dict[tuple[int, int], np.ndarray] = {}
        for names, values in terms:
            values = np.asarray(values, dtype="float64")
            shape = tuple(sizes.get(name) for name in names)
            if len(names) > 2 or values.shape != shape:
                raise ValueError(
                    "Expected a cost term on two decisions of the model at "
                    "most, with an entry for each format. Received: "
                    f"{names} with values of shape {values.shape}"
                )
            places = [position[name] for name in names]
            if len(places) == 2 and places[0] == places[1]:
                places, values = places[:1], np.diagonal(values)
            # A decision without a choice needs no variable of its own.
            places = [i for i in places if len(rows[i]) > 1]
            values = values.reshape([len(rows[i]) for i in places])
            if len(places) < 2:
                # What depends on nothing is in the first row.
                rows[places[0] if places else 0] += values
                continue
            if places[0] > places[1]:
                places, values = places[::-1], values.T
            key = (places[0], places[1])
            pairs[key] = pairs.get(key, 0.0) + values
        return cls(rows, pairs)

    @property
    def sizes(self) -> list[int]:
        """Number of options of each decision."""
        return [len(row) for row in self.rows]

    def of(self, choice: Sequence[int]) -> float:
        """Returns what a choice costs, a position for each decision."""
        rows = sum(row[i] for row, i in zip(self.rows, choice, strict=True))
        pairs = sum(m[choice[i], choice[j]] for (i, j), m in self.pairs.items())
        return float(rows + pairs)


Costs = CostTable | Sequence[np.ndarray]


class Limit(NamedTuple):
    """A budget.

    Attributes:
        costs: Cost of each option of each decision; they add up. Or a
            `CostTable`, with costs of pairs of options.
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
