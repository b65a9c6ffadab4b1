"""Clipping thresholds of least squared error.

Switchable clipping (FLIQS): the best threshold depends on the format, so each
tensor has one for each format. The least mean squared quantization error
decides, among candidates below the largest magnitude.

Magnitudes are counted in bins that divide the range of a channel evenly. The
error that a candidate makes in a bin is the same for all tensors, so it is
worked out once for each format; a tensor's error is then one product of its
counts and this table, and no tensor need be rounded to find its thresholds.
"""

import functools
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from fliqs_keras.formats import Format

Tensor = Any

# Candidate thresholds as fractions of the largest magnitude: eight to the
# octave down to 1/32, where even INT2 on heavy tails has its best one. Reduced
# as a matrix, because XLA splits longer reductions in two: each reduction that
# is compiled for each quantizer counts.
_FRACTIONS = 2.0 ** (-np.arange(42) / 8)
_FRACTION_ROWS = 6
_BINS = 256
# Points of a bin at which the error is averaged.
_POINTS = 16

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
    """Returns `count` elements of a vector, spread over all of them.

    Args:
        values: A vector of at least one element; its size may be dynamic.
        count: How many to take. They repeat if there are fewer.

    Returns:
        A vector of `count` elements.
    """
    size = ops.cast(ops.shape(values)[0], "float32")
    position = ops.cast(ops.floor(spread_indices(count) * size), "int32")
    last = ops.cast(ops.shape(values)[0], "int32") - 1
    return ops.take(values, ops.minimum(position, last), axis=0)


def count_magnitudes(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Counts the magnitudes of each channel in bins of its range.

    Zeros are not counted: every format has them. Nor is what is not finite,
    as in weights that diverged.

    Args:
        values: An array of shape `(samples, channels)`.

    Returns:
        The counts, of shape `(channels, bins)`, and the largest magnitudes,
        of shape `(channels,)`, both float32.
    """
    magnitudes = np.where(np.isfinite(values), np.abs(values), 0.0)
    largest = magnitudes.max(axis=0).astype("float32")
    # In float64, where parts of the smallest float32 are not zero.
    width = np.where(largest > 0, largest, 1).astype("float64") / _BINS
    bins = np.minimum((magnitudes / width).astype("int64"), _BINS - 1)
    channels = values.shape[1]
    flat = bins + np.arange(channels) * _BINS
    counts = np.bincount(
        flat[magnitudes > 0], minlength=channels * _BINS
    ).reshape(channels, _BINS)
    return counts.astype("float32"), largest


def count_magnitudes_in_graph(magnitudes: Tensor, largest: Tensor) -> Tensor:
    """Counts magnitudes of a single channel in the same bins, in a graph.

    Args:
        magnitudes: A vector.
        largest: The largest magnitude of the channel, a scalar.

    Returns:
        The counts, of shape `(1, bins)`.
    """
    width = ops.maximum(largest, SMALLEST_THRESHOLD) / _BINS
    bins = ops.minimum(magnitudes / width, _BINS - 1)
    # One-hot vectors of what is out of range are zero. Integers last: where
    # the default is bfloat16, JAX makes floats of them beside a number.
    bins = ops.cast(ops.where(magnitudes > 0, bins, -1), "int32")
    counts = ops.sum(ops.one_hot(bins, _BINS, dtype="float32"), axis=0)
    return counts[None, :]


def least_error_thresholds(
    counts: Tensor, largest: Tensor, formats: Sequence[Format]
) -> Tensor:
    """Finds the threshold of least squared error for each format and channel.

    Args:
        counts: Counts of magnitudes, of shape `(channels, bins)`.
        largest: Largest magnitudes, of shape `(channels,)`.
        formats: The formats. Those that are not scaled have no threshold to
            find; what is returned for them has no meaning.

    Returns:
        A float32 tensor of shape `(len(formats), channels)`.
    """
    error = ops.matmul(counts, _error_tables(tuple(formats)))
    shape = (_FRACTION_ROWS, _FRACTIONS.size // _FRACTION_ROWS)
    error = ops.reshape(error, (-1, len(formats), *shape))
    candidates = largest[:, None] * _FRACTIONS.astype("float32")
    candidates = ops.maximum(candidates, SMALLEST_THRESHOLD)
    candidates = ops.reshape(candidates, (-1, 1, *shape))
    # Not an argmin and a gather, which XLA compiles slowly. Of equal errors
    # the widest threshold wins.
    is_best = error <= ops.min(error, axis=(2, 3), keepdims=True)
    best = ops.max(ops.where(is_best, candidates, 0.0), axis=(2, 3))
    return ops.transpose(best)


def settle(found: Tensor, now: Tensor, formats: Sequence[Format]) -> Tensor:
    """Returns thresholds that a quantizer may take.

    Args:
        found: A threshold for each format, along the first axis.
        now: Those that it has. Those of formats that are not scaled stay.
        formats: The formats.
    """
    settled = ops.maximum(found, SMALLEST_THRESHOLD)
    is_scaled = are_scaled(formats, len(now.shape))
    if is_scaled.all():
        return settled
    return ops.where(is_scaled, settled, now)


def are_scaled(formats: Sequence[Format], rank: int) -> np.ndarray:
    """Returns which formats are scaled, along the first of `rank` axes."""
    is_scaled = np.array([f.scaled for f in formats])
    return is_scaled.reshape((-1,) + (1,) * (rank - 1))


@functools.lru_cache(maxsize=None)
def _error_tables(formats: tuple[Format, ...]) -> Tensor:
    """Returns the tables of formats side by side, as a tensor.

    One for all graphs, which would each hold a copy for each quantizer.
    """
    tables = np.concatenate([_error_table(f) for f in formats], axis=1)
    if keras.backend.backend() != "tensorflow":
        return tables
    import tensorflow as tf

    with tf.init_scope():
        return tf.constant(tables)


@functools.lru_cache(maxsize=None)
def _error_table(number_format: Format) -> np.ndarray:
    """Returns the mean squared error of each bin under each candidate.

    The range is one. Of shape `(bins, candidates)`.
    """
    points = (np.arange(_BINS * _POINTS) + 0.5) / (_BINS * _POINTS)
    scale = _FRACTIONS / number_format.max_code
    code = np.minimum(points[:, None] / scale, number_format.max_code)
    _, exponent = np.frexp(code)
    step = 2.0 ** (
        np.maximum(exponent - 1, number_format.min_exponent)
        - number_format.mantissa_bits
    )
    error = (np.round(code / step) * step * scale - points[:, None]) ** 2
    error = error.reshape(_BINS, _POINTS, -1).mean(axis=1)
    return error.astype("float32")
