"""Clipping thresholds of least squared error.

Switchable clipping (FLIQS): the best threshold depends on the format, so each
tensor has one for each format. The least mean squared quantization error
decides, found on a grid of candidates below the largest magnitude.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from fliqs_keras.formats import Format
from fliqs_keras.rounding import Grid, grid_table, round_any

Tensor = Any

# Candidate thresholds as fractions of the largest magnitude: eight to the
# octave down to 1/32, where even INT2 on heavy tails has its best one.
_FRACTIONS = 2.0 ** (-np.arange(41, dtype="float32") / 8)

# Keeps the scale of an all-zero tensor a normal float32 in every format.
SMALLEST_THRESHOLD = 2.0**-40

_GOLDEN_RATIO = (5**0.5 - 1) / 2


def spread_indices(count: int) -> np.ndarray:
    """Returns `count` positions in [0, 1), evenly spread and in no rhythm.

    Positions at a constant stride could fall on the same few channels of a
    tensor; multiples of the golden ratio do not.
    """
    return (np.arange(1, count + 1) * _GOLDEN_RATIO % 1.0).astype("float32")


def take_spread(values: Tensor, count: int) -> Tensor:
    """Returns `count` rows of `values`, spread over all of them.

    Args:
        values: A tensor of at least one row; its size may be dynamic.
        count: How many rows to take. Rows repeat if there are fewer.

    Returns:
        A tensor of `count` rows.
    """
    rows = ops.cast(ops.shape(values)[0], "float32")
    position = ops.cast(ops.floor(spread_indices(count) * rows), "int32")
    last = ops.cast(ops.shape(values)[0], "int32") - 1
    return ops.take(values, ops.minimum(position, last), axis=0)


def least_error_thresholds(values: Tensor, formats: Sequence[Format]) -> Tensor:
    """Finds the threshold of least squared error for each format and channel.

    Args:
        values: A float32 tensor of shape `(samples, channels)`.
        formats: The formats. Those that are not scaled have no threshold to
            find; what is returned for them has no meaning.

    Returns:
        A float32 tensor of shape `(len(formats), channels)`.
    """
    # Axes: formats, candidates, samples, channels. One formula for all
    # formats keeps the graph small, which a compiled training step needs.
    grid = Grid(*grid_table(formats).T[..., None, None, None])
    largest = ops.max(ops.abs(values), axis=0)
    candidates = largest[None, :] * _FRACTIONS[:, None]
    candidates = ops.maximum(candidates, SMALLEST_THRESHOLD)
    rounded = round_any(values, candidates[:, None, :] / grid.max_code, grid)
    error = ops.sum(ops.square(rounded - values), axis=2)
    # Not an argmin and a gather, which XLA compiles slowly. Of equal errors
    # the widest threshold wins.
    is_best = error <= ops.min(error, axis=1, keepdims=True)
    return ops.max(ops.where(is_best, candidates, 0.0), axis=1)
