"""What a search can spend: the range of a cost, and where a target lies."""

import dataclasses
from collections.abc import Mapping, Sequence

import keras

from fliqs_keras.assignments import Decision, decisions
from fliqs_keras.cost_targets import (
    CostTarget,
    cost_table,
    resolve_target,
    uniform_choice,
)
from fliqs_keras.costs import BitOps, Cost, check_cost
from fliqs_keras.formats import Format
from fliqs_keras.quantize import apply
from fliqs_keras.reports import align
from fliqs_keras.search_space import Formats, SearchSpace
from fliqs_keras.selection import cheapest_choice, dearest_choice

__all__ = ["BudgetTable", "budget"]


@dataclasses.dataclass(frozen=True)
class BudgetTable:
    """What the assignments of a space cost; what `print` shows is a table.

    Args:
        unit: Unit of the costs.
        cheapest: Cost of the cheapest assignment.
        dearest: Cost of the dearest.
        uniform: Cost of each format in all layers that have a choice, by its
            name; of those formats that all of them have.
        target: The target asked for, in the unit, or `None`.
    """

    unit: str
    cheapest: float
    dearest: float
    uniform: Mapping[str, float]
    target: float | None = None

    def render(self) -> str:
        """Returns the table as text, from cheap to dear."""
        rows = [("cheapest", self.cheapest)]
        rows += [(f"all {name}", cost) for name, cost in self.uniform.items()]
        rows.append(("dearest", self.dearest))
        if self.target is not None:
            rows.append((self._describe_target(), self.target))
        # Costs that are equal but for rounding keep their order.
        rows.sort(key=lambda row: float(f"{row[1]:.9g}"))
        unit = self.cheapest or 1.0
        cells = [
            (name, f"{cost:.6g}", f"{cost / unit:.3f}") for name, cost in rows
        ]
        return "\n".join(align([("", self.unit, "x cheapest"), *cells]))

    def _describe_target(self) -> str:
        if self.target < self.cheapest * (1 - 1e-9):
            return "target, out of reach"
        is_above = self.target > self.dearest * (1 + 1e-9)
        return "target, met by all" if is_above else "target"

    def __str__(self) -> str:
        return self.render()


def budget(
    model: keras.Model,
    space: SearchSpace | Formats | Mapping[str, Formats],
    cost: Cost | None = None,
    target: CostTarget | None = None,
) -> BudgetTable:
    """Returns what a search has to choose from, before it is begun.

    Args:
        model: A built float model, which is left as it is. It is copied, as
            by `fliqs_keras.apply`.
        space: The search space.
        cost: The cost. Defaults to `fliqs_keras.BitOps()`.
        target: A target for `fliqs_keras.FormatSearch`: a number, or a pair
            of a format and a factor. Defaults to `None`: none is shown.

    Returns:
        A `BudgetTable`, which prints as a table.

    Raises:
        ValueError: If the space does not fit the model, or the target's
            format the space.

    Example:

    >>> print(fliqs_keras.budget(model, fliqs_keras.FLIQS_S))
    """
    cost = BitOps() if cost is None else cost
    check_cost(cost)
    quantized = apply(model, space)
    found = decisions(quantized)
    table = cost_table(cost, quantized, found)
    return BudgetTable(
        unit=cost.unit,
        cheapest=table.of(cheapest_choice(table)),
        dearest=table.of(dearest_choice(table)),
        uniform={
            f.name: table.of(uniform_choice(found, f))
            for f in _common_formats(found)
        },
        target=None if target is None else resolve_target(target, table, found),
    )


def _common_formats(of: Sequence[Decision]) -> list[Format]:
    choices = [
        d.options for d in of if d.is_about_format and len(d.options) > 1
    ]
    if not choices:
        return []
    common = set.intersection(*map(set, choices))
    return [f for f in choices[0] if f in common]
