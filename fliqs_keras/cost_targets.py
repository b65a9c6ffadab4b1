"""Targets of costs, as numbers or by the cost of a uniform format."""

from collections.abc import Sequence

import keras

from fliqs_keras.assignments import Decision
from fliqs_keras.cost_tables import CostTable
from fliqs_keras.costs import Cost
from fliqs_keras.formats import Format, parse_format
from fliqs_keras.options import width_of

CostTarget = float | tuple[str, float]


def cost_table(
    cost: Cost, model: keras.Model, of: Sequence[Decision]
) -> CostTable:
    """Returns a cost as a table over the decisions of a quantized model."""
    return CostTable.from_terms(
        cost.terms(model), {d.name: len(d.options) for d in of}
    )


def resolve_target(
    target: CostTarget, table: CostTable, of: Sequence[Decision]
) -> float:
    """Returns a target in the unit of its cost.

    Raises:
        ValueError: If its format is none of a decision that has a choice.
    """
    if isinstance(target, tuple | list):
        name, factor = target
        return factor * table.of(uniform_choice(of, parse_format(name)))
    return float(target)


def uniform_choice(of: Sequence[Decision], number_format: Format) -> list[int]:
    """Returns the choice of one format wherever there is a choice.

    Of sizes it is the largest.
    """
    return [
        d.index_of(number_format)
        if d.is_about_format and len(d.options) > 1
        else widest_option(d)
        for d in of
    ]


def widest_option(decision: Decision) -> int:
    """Returns the position of the option of most bits, or the largest."""
    widths = [width_of(option) for option in decision.options]
    return widths.index(max(widths))
