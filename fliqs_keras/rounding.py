"""Rounding tensors to the grids of formats, with straight-through gradients.

Pure functions over `keras.ops`. Kernels (`grids.py`) are fast where they are
fused. XLA fuses; where it does not compile the whole step, TensorFlow compiles
the rounding of large tensors alone.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from fliqs_keras import _tensorflow
from fliqs_keras.formats import Format, parse_format
from fliqs_keras.grids import (
    Grid,
    Kernel,
    grid_of,
    grid_table,
    kernels_of,
    next_up,
    pass_through,
    round_to_grid,
)
from fliqs_keras.shared_functions import share

__all__ = ["round_to_format"]

Tensor = Any

# From how many elements on a tensor is worth the compilation of its rounding,
# about 0.1 s a size, and how many examples a batch of unknown size counts.
_LARGE = 2**18
_USUAL_BATCH = 32
# The same for a tensor of a fixed size that several kernels round.
_LARGE_FOR_SEVERAL = 2**12


def _pick(table: Tensor, position: Tensor) -> Tensor:
    """Returns the row of a table at a position that is not negative."""
    if keras.backend.backend() != "tensorflow":
        return ops.take(table, position, axis=0)
    import tensorflow as tf

    # `ops.take` would spend three ops more on negative positions.
    return tf.gather(table, position)


def _pick_threshold(thresholds: Tensor, index: Tensor) -> Tensor:
    # Not the number, beside which JAX may make floats of integers.
    zero = ops.zeros_like(index)
    return _pick(thresholds, ops.maximum(index, zero))


def _round_to_one(number_format: Format, x: Tensor, scale: Tensor) -> Tensor:
    kernels = kernels_of([number_format])
    return round_to_grid(kernels, x, scale, grid_of(number_format))


def _pull_back(x: Tensor, threshold: Tensor, upstream: Tensor) -> Tensor:
    is_kept = ops.abs(x) <= threshold
    return ops.where(is_kept, upstream, ops.zeros_like(upstream))


def _pull_back_by_relu(
    x: Tensor, threshold: Tensor, upstream: Tensor
) -> Tensor:
    """Computes the same by ops of TensorFlow that are fast alone.

    The gradient of a ReLU passes what is above zero in one pass, in place. It
    stops only what is finite: an infinite gradient becomes NaN.
    """
    import tensorflow as tf

    # What is not larger than a number is smaller than the next one.
    room = next_up(threshold) - ops.abs(x)
    return tf.raw_ops.ReluGrad(gradients=upstream, features=room)


def _round_to_chosen(
    formats: tuple[Format, ...], x: Tensor, index: Tensor, thresholds: Tensor
) -> Tensor:
    table = ops.convert_to_tensor(grid_table(formats))
    grid = Grid(*ops.unstack(_pick(table, index + 1)))
    scale = _pick_threshold(thresholds, index) / grid.max_code
    kernels = dict.fromkeys([*kernels_of(formats), pass_through])
    return round_to_grid(tuple(kernels), x, scale, grid)


def _pull_back_to_chosen(
    pull_back: Callable,
    x: Tensor,
    index: Tensor,
    thresholds: Tensor,
    upstream: Tensor,
) -> Tensor:
    threshold = _pick_threshold(thresholds, index)
    # Off does not clip.
    threshold = ops.where(index < 0, np.float32(np.inf), threshold)
    return pull_back(x, threshold, upstream)


def _runs_by_itself() -> bool:
    """Whether TensorFlow runs op after op what it is not told to compile."""
    is_tensorflow = keras.backend.backend() == "tensorflow"
    return is_tensorflow and not _tensorflow.is_compiled_by_xla()


def _pull_back_for(is_compiled: bool) -> Callable:
    is_alone = _runs_by_itself() and not is_compiled
    return _pull_back_by_relu if is_alone else _pull_back


def _is_worth_compiling(x: Tensor, kernels: Sequence[Kernel] = ()) -> bool:
    if not _runs_by_itself():
        return False
    import tensorflow as tf

    if tf.executing_eagerly():
        return False
    # Every new size is compiled anew, so only that of the batch may differ.
    if not x.shape.rank or None in x.shape[1:]:
        return False
    if x.shape[0] is None:
        return _USUAL_BATCH * math.prod(x.shape[1:]) >= _LARGE
    has_several = len(set(kernels) - {pass_through}) > 1
    large = _LARGE_FOR_SEVERAL if has_several else _LARGE
    return math.prod(x.shape) >= large


def _straight_through(
    round_x: Callable,
    pull_back: Callable,
    x: Tensor,
    *numbers: Tensor,
    is_flat: bool,
) -> Tensor:
    """Rounds a tensor by a function; another one makes the gradient.

    Args:
        round_x: A function of the tensor and the numbers.
        pull_back: A function of these and of the gradient of the result.
        x: The tensor.
        *numbers: Such as the thresholds.
        is_flat: Whether the functions take the tensor as a vector. Of a short
            last dimension XLA would vectorize the one before, value by value;
            but thresholds of channels need the channels, and what is fused
            with others needs the shape of them.
    """
    if is_flat:
        shape = [-1 if size is None else size for size in x.shape]
        x = ops.reshape(x, (-1,))
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        # Tensors of this graph: in a loop, the gradient cannot read variables.
        numbers = [tf.identity(number) for number in numbers]

    @ops.custom_gradient
    def quantize(x):
        def gradient(*args, upstream=None):
            upstream = args[0] if upstream is None else upstream
            return pull_back(x, *numbers, upstream)

        return round_x(x, *numbers), gradient

    y = quantize(x)
    return ops.reshape(y, shape) if is_flat else y


def round_to_chosen(
    x: Tensor,
    formats: tuple[Format, ...],
    index: Tensor,
    thresholds: Tensor,
) -> Tensor:
    """Rounds `x` to the format at a position that the graph gives.

    The gradient is the straight-through one: the incoming gradient where
    `|x| <= threshold`, and zero where `x` was clipped.

    Args:
        x: A float32 tensor.
        formats: The formats.
        index: Position of a format, an int32 scalar. Negative: `x` passes
            through.
        thresholds: A clipping threshold for each format, or one that
            broadcasts against `x`, along the first axis.

    Returns:
        A tensor of the shape of `x`.
    """
    shared = functools.partial(share, keeps_shape=True)
    is_large = _is_worth_compiling(x)
    is_compiled = _is_worth_compiling(x, kernels_of(formats))
    return _straight_through(
        shared(_round_to_chosen, formats, is_compiled=is_compiled),
        shared(
            _pull_back_to_chosen,
            _pull_back_for(is_large),
            is_compiled=is_large,
        ),
        x,
        index,
        thresholds,
        is_flat=is_compiled and len(thresholds.shape) == 1,
    )


def round_to_format(
    x: Tensor,
    number_format: str | Format,
    threshold: Tensor | None = None,
) -> Tensor:
    """Rounds a tensor to the nearest values of a format, half to even.

    Computes `scale * code(x / scale)` with `scale = threshold / max_code`,
    where `code` clips to the format's range and rounds to its grid. The
    gradient is passed straight through where `|x| <= threshold` and is zero
    elsewhere.

    Args:
        x: A float tensor; it is computed in float32.
        number_format: A `Format` or its name.
        threshold: The magnitude that the largest code stands for. It
            broadcasts against `x`. Defaults to the largest code itself, a
            scale of one. Ignored for formats that are not scaled.

    Returns:
        A float32 tensor of the shape of `x`.

    Raises:
        ValueError: If the format's name is unknown.

    Example:

    >>> round_to_format([0.2, 1.4, -9.0], "INT4", threshold=7.0)
    <tf.Tensor: shape=(3,), dtype=float32, numpy=array([ 0.,  1., -7.], ...
    """
    number_format = parse_format(number_format)
    x = ops.convert_to_tensor(x, "float32")
    if threshold is None or not number_format.scaled:
        threshold = number_format.max_code
    # Compilers turn a division by a constant into a multiplication by its
    # reciprocal, which in float32 rounds otherwise. JAX lacks float64 unless
    # it is told to have it; a compiled scale may then be off by its last bit.
    wide = "float32" if keras.backend.backend() == "jax" else "float64"
    threshold = ops.convert_to_tensor(threshold, "float32")
    scale = ops.cast(threshold, wide) / number_format.max_code
    scale = ops.cast(scale, "float32")
    is_compiled = _is_worth_compiling(x)
    shared = functools.partial(share, is_compiled=is_compiled, keeps_shape=True)
    round_x = shared(_round_to_one, number_format)
    return _straight_through(
        lambda x, _: round_x(x, scale),
        shared(_pull_back_for(is_compiled)),
        x,
        threshold,
        is_flat=is_compiled and not len(threshold.shape),
    )
