"""Grids of formats as numbers, and the kernels that round to them.

A grid is given as numbers, never as Python branches on a format, so that one
compiled graph serves every format of a table and switching between them needs
no new trace.

Two kernels cover all grids:

- the steps of integers and of floats of up to 7 exponent bits are powers of
  two, from the exponent bits of the value; those of integers alone are one,
  which spares some of it;
- floats of 8 exponent bits share float32's exponents and subnormals, so
  their rounding is integer arithmetic on the bits of the value.

A table that needs both takes both and selects: fused, the tensor is passed
over once.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from fliqs_keras.formats import Format

Tensor = Any

_EXPONENT_MASK = 0x7F800000
_MAGNITUDE_MASK = 0x7FFFFFFF
_RECIPROCAL_BITS = 0x7F000000
_FLOAT32_MANTISSA_BITS = 23
_SMALLEST_FLOAT32_NORMAL = 2.0**-126


class Grid(NamedTuple):
    """The numbers that describe a format's grid to the kernels.

    Each field is a Python number, or a scalar tensor once it was selected
    from a table of grids.
    """

    max_code: Any
    smallest_normal: Any
    epsilon: Any
    dropped_bits: Any


Kernel = Callable[[Tensor, Tensor, Grid], Tensor]


def _reinterpret(x: Tensor, dtype: str) -> Tensor:
    """Returns the bits of a tensor as another type of the same size."""
    if keras.backend.backend() != "tensorflow":
        return ops.view(x, dtype)
    import tensorflow as tf

    # `ops.view` must know the last dimension.
    return tf.bitcast(x, dtype)


def next_up(x: Tensor) -> Tensor:
    """Returns the next larger floats of positive ones; infinity stays."""
    bits = ops.minimum(_reinterpret(x, "int32") + 1, _EXPONENT_MASK)
    return _reinterpret(bits, "float32")


def pass_through(x: Tensor, scale: Tensor, grid: Grid) -> Tensor:
    return x


def _round_integer(x: Tensor, scale: Tensor, grid: Grid) -> Tensor:
    code = ops.clip(x / scale, -grid.max_code, grid.max_code)
    return ops.round(code) * scale


def _round_narrow(x: Tensor, scale: Tensor, grid: Grid) -> Tensor:
    code = ops.clip(x / scale, -grid.max_code, grid.max_code)
    bits = ops.bitwise_and(_reinterpret(code, "int32"), _EXPONENT_MASK)
    power_of_two = _reinterpret(bits, "float32")
    step = ops.maximum(power_of_two, grid.smallest_normal) * grid.epsilon
    return ops.round(code * _reciprocal(step)) * step * scale


def _reciprocal(power_of_two: Tensor) -> Tensor:
    """Returns one over powers of two, exactly, in less time than a division.

    The exponent bits of a number and of its reciprocal add up to a constant.
    """
    bits = _RECIPROCAL_BITS - _reinterpret(power_of_two, "int32")
    return _reinterpret(bits, "float32")


def _round_wide(x: Tensor, scale: Tensor, grid: Grid) -> Tensor:
    bits = _reinterpret(x, "int32")
    magnitude = ops.bitwise_and(bits, _MAGNITUDE_MASK)
    sign = ops.bitwise_xor(bits, magnitude)
    dropped = ops.cast(grid.dropped_bits, "int32")
    one = ops.ones_like(dropped)
    step = ops.left_shift(one, dropped)
    is_odd = ops.bitwise_and(ops.right_shift(magnitude, dropped), 1)
    rounded = magnitude + (ops.right_shift(step, 1) - 1) + is_odd
    rounded = ops.bitwise_and(rounded, -step)
    max_code = ops.convert_to_tensor(grid.max_code, "float32")
    rounded = ops.minimum(rounded, _reinterpret(max_code, "int32"))
    is_nan = magnitude > _EXPONENT_MASK
    rounded = ops.where(is_nan, magnitude, rounded)
    return _reinterpret(ops.bitwise_or(rounded, sign), "float32")


# Whether the grid that a graph selected is one for the kernel.
_TAKES = {
    _round_wide: lambda grid: grid.smallest_normal <= _SMALLEST_FLOAT32_NORMAL,
    pass_through: lambda grid: grid.dropped_bits <= 0,
}


def _kernel_of(number_format: Format) -> Kernel:
    if number_format.is_pass_through:
        return pass_through
    if number_format.is_integer:
        return _round_integer
    if 2.0**number_format.min_exponent > _SMALLEST_FLOAT32_NORMAL:
        return _round_narrow
    return _round_wide


def kernels_of(formats: Sequence[Format]) -> tuple[Kernel, ...]:
    """Returns the kernels that round to the grids of formats.

    In the order in which `round_to_grid` takes them: a later one has the
    last word on a grid that it takes.
    """
    needed = {_kernel_of(f) for f in formats}
    if _round_narrow in needed:
        # It rounds to integers, too.
        needed.discard(_round_integer)
    order = (_round_integer, _round_narrow, _round_wide, pass_through)
    return tuple(kernel for kernel in order if kernel in needed)


def grid_of(number_format: Format) -> Grid:
    """Returns the numbers that describe the grid of a format."""
    return Grid(
        max_code=number_format.max_code,
        smallest_normal=2.0**number_format.min_exponent,
        epsilon=2.0**-number_format.mantissa_bits,
        dropped_bits=float(
            _FLOAT32_MANTISSA_BITS - number_format.mantissa_bits
        ),
    )


def grid_table(formats: tuple[Format, ...]) -> np.ndarray:
    """Returns a row for "off", which drops no bits, and those of formats."""
    off = Grid(1.0, 1.0, 1.0, dropped_bits=0.0)
    return np.array([off, *map(grid_of, formats)], "float32")


def round_to_grid(
    kernels: Sequence[Kernel], x: Tensor, scale: Tensor, grid: Grid
) -> Tensor:
    """Rounds a float32 tensor to `scale` times the values of a grid.

    Args:
        kernels: Those that the grid may need, in the order of `kernels_of`.
        x: The tensor.
        scale: What a code of one stands for; broadcasts against `x`.
        grid: The grid.
    """
    y = kernels[0](x, scale, grid)
    for kernel in kernels[1:]:
        y = _select(_TAKES[kernel](grid), kernel(x, scale, grid), y)
    return y


def _select(condition: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Returns one of two tensors of the same shape, by a scalar."""
    if keras.backend.backend() != "tensorflow":
        return ops.where(condition, x, y)
    import tensorflow as tf

    # This one hands it on, where that of today goes over both.
    return tf.compat.v1.where(condition, x, y)
