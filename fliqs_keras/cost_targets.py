"""Targets of costs, as numbers or by the cost of a uniform format."""

import numbers
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


def check_target(target: CostTarget) -> None:
    """Checks that something is a target, whatever the cost.

    Raises:
        ValueError: If it is not, or of an unknown format.
    """
    is_pair = isinstance(target, tuple | list) and len(target) == 2
    if is_pair and _is_number(target[1]):
        parse_format(target[0])
    elif not _is_number(target):
        raise ValueError(
            "Expected a cost target: a number, or a pair of a format and a "
            f"factor, such as ('INT4', 1.2). Received: {target!r}"
        )


def _is_number(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def resolve_target(
    target: CostTarget, table: CostTable, of: Sequence[Decision]
) -> float:
    """Returns a target in the unit of its cost.

    Raises:
        ValueError: If it is none, or if its format is none of a decision that
            has a choice.
    """
    check_target(target)
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
