"""How far outputs are apart."""

import dataclasses
from collections.abc import Mapping

import numpy as np

Outputs = Mapping[str, np.ndarray]

# Part of a value, far from zero, that sums in another order may differ by.
_ULPS = 4 * np.finfo("float32").eps


@dataclasses.dataclass(frozen=True)
class OutputDifference:
    """How far one output is from that of the Keras model.

    Args:
        output: Name of the output.
        argmax_agreement: Part of the positions at which the largest element
            along the last axis is the same one; `None` if the last axis has
            one element.
        largest: Largest difference, as a part of the range of the output.
        mean: Mean difference, as a part of the range of the output.
        rms: Root mean square of the difference, as a part of that of the
            output around its mean. Of an output that is nearly zero but for
            some classes, the mean difference tells little.
    """

    output: str
    argmax_agreement: float | None
    largest: float
    mean: float
    rms: float


def compare(actual: Outputs, expected: Outputs) -> tuple[OutputDifference, ...]:
    """Compares the outputs of a file with those of its Keras model.

    Raises:
        ValueError: If they are not of the same names and shapes.
    """
    shapes = {name: y.shape for name, y in expected.items()}
    actual_shapes = {name: y.shape for name, y in actual.items()}
    if actual_shapes != shapes:
        raise ValueError(
            f"Expected a file of the model's outputs, {shapes}. Received: one "
            f"that returns {actual_shapes}"
        )
    return tuple(
        _difference(name, actual[name], expected[name]) for name in expected
    )


def _difference(
    name: str, actual: np.ndarray, expected: np.ndarray
) -> OutputDifference:
    agreement = None
    if expected.ndim > 1 and expected.shape[-1] > 1:
        agreement = float(np.mean(actual.argmax(-1) == expected.argmax(-1)))
    difference, spread = distance(actual, expected)
    output_range = _range_of(expected)
    return OutputDifference(
        name,
        agreement,
        largest=float(difference.max() / output_range),
        mean=float(difference.mean() / output_range),
        rms=float(np.sqrt(np.mean(difference**2)) / spread),
    )


def distance(
    actual: np.ndarray, expected: np.ndarray
) -> tuple[np.ndarray, float]:
    """Returns how far values are apart, and what they differ by themselves."""
    actual, expected = actual.astype("f8"), expected.astype("f8")
    # Equal infinities agree; what is not a number agrees with nothing.
    with np.errstate(invalid="ignore"):
        difference = np.abs(actual - expected)
        difference[actual == expected] = 0
    is_rounding = difference <= _ULPS * np.abs(expected)
    difference[is_rounding & np.isfinite(expected)] = 0
    difference[np.isnan(difference)] = np.inf
    finite = expected[np.isfinite(expected)]
    spread = np.std(finite) if finite.size else 0.0
    return difference, float(spread or _range_of(expected))


def _range_of(expected: np.ndarray) -> float:
    finite = expected[np.isfinite(expected)].astype("f8")
    return float((np.ptp(finite) if finite.size else 0.0) or 1.0)
