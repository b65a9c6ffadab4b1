"""Rounding to small floats in the ops that every runtime has."""

from collections.abc import Callable
from typing import Any

import numpy as np

from fliqs_keras.formats import Format

__all__ = ["largest_to_round", "round_float"]

_FLOAT32_MANTISSA_BITS = 23
_FLOAT32_MAX_EXPONENT = 127


def largest_to_round(number_format: Format) -> float:
    """Returns what to clip to, in the scale of the codes, before rounding."""
    # Beyond the other, at 1e30, the splitting would overflow; only formats
    # with 8 exponent bits reach there.
    dropped_bits = _FLOAT32_MANTISSA_BITS - number_format.mantissa_bits
    overflow = 2.0 ** (_FLOAT32_MAX_EXPONENT - 1 - dropped_bits)
    return min(number_format.max_code, overflow)


def round_float(op: Callable[..., Any], u: Any, number_format: Format) -> Any:
    """Rounds to a float grid, half to even, with float32 arithmetic.

    In the normal range, Veltkamp's splitting `g - (g - u)` with `g = u * c`
    leaves the leading mantissa bits of `u`. In the subnormal range, where the
    step is constant, adding and subtracting a large number rounds to it.

    Args:
        op: Writes an op of a kind, as ONNX calls it, of tensors and float32
            numbers; returns its result.
        u: The tensor, clipped to `largest_to_round`.
        number_format: The format.

    Returns:
        What the last op returned.
    """
    dropped_bits = _FLOAT32_MANTISSA_BITS - number_format.mantissa_bits
    step = 2.0 ** (number_format.min_exponent - number_format.mantissa_bits)
    splitter = op("Mul", u, np.float32(2.0**dropped_bits + 1))
    normal = op("Sub", splitter, op("Sub", splitter, u))
    magic = np.float32(1.5 * 2.0**_FLOAT32_MANTISSA_BITS * step)
    subnormal = op("Sub", op("Add", u, magic), magic)
    smallest_normal = np.float32(2.0**number_format.min_exponent)
    is_subnormal = op("Less", op("Abs", u), smallest_normal)
    return op("Where", is_subnormal, subnormal, normal)
