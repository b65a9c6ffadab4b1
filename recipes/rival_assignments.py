"""Assignments within a budget that a search is compared with."""

from collections.abc import Sequence

import keras
import numpy as np

import fliqs_keras


def widen_by_hand(
    model: keras.Model, formats: Sequence[str], narrow: str, target: float
) -> dict[str, str]:
    """Returns what a person may choose: first, last and 1x1 layers wider.

    All layers start at a narrow format. Then each of those layers takes the
    widest format that the budget still allows.

    Args:
        model: A model from `fliqs_keras.apply`.
        formats: Names of the formats, from the narrowest to the widest.
        narrow: Name of the format that all layers can have in the budget.
        target: The budget, in GBOPs.
    """
    cost = fliqs_keras.BitOps()
    limit = target * (1 + 1e-9)
    names = list(fliqs_keras.FormatAssignment.from_model(model))
    assignment = dict.fromkeys(names, narrow)
    small = [n for n in names if _is_pointwise(model.get_layer(n))]
    for name in dict.fromkeys([names[0], names[-1], *small]):
        for wider in formats:
            trial = {**assignment, name: wider}
            if cost(model, assignment) <= cost(model, trial) <= limit:
                assignment = trial
    return assignment


def _is_pointwise(layer: keras.layers.Layer) -> bool:
    return getattr(layer, "kernel_size", None) == (1, 1)


def draw_assignment(
    model: keras.Model,
    formats: Sequence[str],
    target: float,
    generator: np.random.Generator,
) -> dict[str, str]:
    """Draws formats evenly until they cost 0.9 to 1.0 of the target.

    Args:
        model: A model from `fliqs_keras.apply`.
        formats: Names of the formats, from the narrowest to the widest.
        target: The budget, in GBOPs.
        generator: The source of randomness.
    """
    table = fliqs_keras.BitOps().table(model)
    names = fliqs_keras.FormatAssignment.from_model(model)
    # Even draws almost never meet a low target: narrow formats are then
    # drawn more often.
    tilt = 0.0
    while True:
        tilt += 0.01
        odds = np.exp(-tilt * np.arange(len(formats)))
        choice = generator.choice(
            len(formats), size=len(table), p=odds / odds.sum()
        )
        cost = sum(row[i] for row, i in zip(table, choice, strict=True))
        if 0.9 * target <= cost <= target * (1 + 1e-9):
            return {
                name: formats[i] for name, i in zip(names, choice, strict=True)
            }
