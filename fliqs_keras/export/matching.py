"""Recognizing a layer's weight in a constant that the converter wrote.

The converter transposes and reshapes weights, and folds a batch normalization
into them as one factor a channel. So a constant belongs to a layer if, in some
layout, it is the layer's codes times one factor an index of one axis. That
factor is then the exact scale to store. A constant that agrees by chance may
be stored with these codes all the same: it has the same values.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

__all__ = ["Match", "match_codes"]

# A few roundings of float32 lie between the product and the constant: that of
# the factor, that of `codes * scale` and that of the folding.
_RELATIVE_TOLERANCE = 1e-6
_TINY = np.finfo(np.float32).tiny
# Under it a channel counts as zero, so that scales stay normal numbers.
_SMALLEST_FACTOR = 2.0**-100


@dataclasses.dataclass(frozen=True, eq=False)
class Match:
    """A constant as `codes * scale`.

    Args:
        codes: Codes in the layout of the constant, negated where the
            converter's factor was negative.
        scale: Positive factors: one an index of `axis`, or a single one.
        axis: Axis of `codes` that the factors belong to.
    """

    codes: np.ndarray
    scale: np.ndarray
    axis: int


def match_codes(
    constant: np.ndarray, codes: np.ndarray, channel_axis: int
) -> Match | None:
    """Expresses a constant as codes times one factor a channel.

    Args:
        constant: Values of the constant, float32.
        codes: Codes in the shape of the Keras weight.
        channel_axis: Axis of `constant` that is tried first as the channels.

    Returns:
        The match, or `None` if the constant is not these codes.
    """
    if constant.size != codes.size or constant.ndim == 0:
        return None
    first = channel_axis % constant.ndim
    axes = [first, *(a for a in range(constant.ndim) if a != first)]
    for layout in _layouts(codes, constant.shape):
        if np.any(constant[layout == 0]):
            continue
        for axis in axes:
            factors = _channel_factors(constant, layout, axis)
            if factors is not None:
                return _normalize(layout, factors, axis)
    return None


def _layouts(codes: np.ndarray, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """The codes in each order of axes that converters are known to use."""
    axes = list(range(codes.ndim))
    to_front = [[a, *(b for b in axes if b != a)] for a in reversed(axes)]
    to_back = [[*(b for b in axes if b != a), a] for a in reversed(axes)]
    rotated = [axes[a:] + axes[:a] for a in axes]
    # ONNX: outputs, inputs, then space.
    swapped = [[*reversed(axes[-2:]), *axes[:-2]]]
    orders = map(tuple, (*to_front, *to_back, *rotated, *swapped))
    for order in dict.fromkeys(orders):
        yield codes.transpose(order).reshape(shape)


def _channel_factors(
    constant: np.ndarray, codes: np.ndarray, axis: int
) -> np.ndarray | None:
    """Least-squares factor of each channel, if it explains every element."""
    others = tuple(a for a in range(codes.ndim) if a != axis)
    exact_codes = codes.astype(np.float64)
    power = np.sum(exact_codes**2, axis=others, keepdims=True)
    product = np.sum(exact_codes * constant, axis=others, keepdims=True)
    factors = product / np.where(power == 0, 1, power)
    error = np.abs(constant - exact_codes * factors)
    tolerance = _RELATIVE_TOLERANCE * np.abs(constant) + _TINY
    if not np.all(error <= tolerance):
        return None
    return _closest_float32(constant, codes, factors, others)


def _closest_float32(
    constant: np.ndarray,
    codes: np.ndarray,
    factors: np.ndarray,
    others: tuple[int, ...],
) -> np.ndarray:
    """Of the neighboring float32, the factors that reproduce most elements."""
    rounded = factors.astype(np.float32)
    infinity = np.float32(np.inf)
    candidates = [
        rounded,
        np.nextafter(rounded, infinity),
        np.nextafter(rounded, -infinity),
    ]
    hits = [np.sum(codes * c == constant, axis=others) for c in candidates]
    best = np.argmax(hits, axis=0)
    return np.choose(best, [c.reshape(-1) for c in candidates])


def _normalize(codes: np.ndarray, factors: np.ndarray, axis: int) -> Match:
    """Makes the factors positive, and one of them if they are all equal."""
    shape = [1] * codes.ndim
    shape[axis] = -1
    vanished = np.abs(factors) < _SMALLEST_FACTOR
    signs = np.where(vanished, 0, np.sign(factors)).astype(np.float32)
    scale = np.abs(factors)
    scale[vanished] = 1 if vanished.all() else scale[~vanished].max()
    if np.all(scale == scale[0]):
        scale = scale[:1]
    return Match(codes * signs.reshape(shape), scale, axis)
