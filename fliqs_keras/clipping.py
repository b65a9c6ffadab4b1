"""What switching the format of a tensor does to its values."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from keras import ops

from fliqs_keras.formats import Format, parse_format
from fliqs_keras.rounding import round_to_format
from fliqs_keras.thresholds import count_magnitudes, least_error_thresholds


@dataclasses.dataclass(frozen=True)
class Switching:
    """A tensor in several formats, each at its own best threshold.

    Args:
        formats: Names of the formats.
        thresholds: Threshold of least squared error of each format, as a
            share of the largest magnitude.
        errors: A symmetric matrix: the mean squared difference between the
            tensor in one format and in another, as a share of the mean
            square of the tensor.
    """

    formats: tuple[str, ...]
    thresholds: np.ndarray
    errors: np.ndarray


def measure_switching(
    values: np.ndarray, formats: Sequence[str | Format]
) -> Switching:
    """Rounds a tensor to each of some formats and compares the results.

    Args:
        values: A float array of any shape, not all zero. It has one
            threshold.
        formats: Scaled formats or their names.

    Raises:
        ValueError: If the values are not finite or all zero, or if a format
            has no threshold.
    """
    parsed = [parse_format(f) for f in formats]
    if unscaled := [f.name for f in parsed if not f.scaled]:
        raise ValueError(
            "Expected formats with a clipping threshold. Received: "
            f"{unscaled}, which are not scaled"
        )
    column = np.asarray(values, dtype="float32").reshape(-1, 1)
    if not np.isfinite(column).all() or not column.any():
        raise ValueError(
            "Expected finite values that are not all zero. Received: "
            f"{column.size} values between {column.min(initial=np.inf)} and "
            f"{column.max(initial=-np.inf)}"
        )
    counts, largest = count_magnitudes(column)
    found = least_error_thresholds(counts, largest, parsed)
    thresholds = ops.convert_to_numpy(found)[:, 0]
    rounded = np.stack(
        [
            ops.convert_to_numpy(round_to_format(column[:, 0], f, t))
            for f, t in zip(parsed, thresholds, strict=True)
        ]
    )
    power = np.mean(np.square(column, dtype="float64"))
    errors = [[np.mean((a - b) ** 2) for b in rounded] for a in rounded]
    return Switching(
        tuple(f.name for f in parsed),
        thresholds / largest[0],
        np.array(errors) / power,
    )
