"""Functions that a graph calls many times and that are traced once.

To trace the ops of every quantizer takes TensorFlow about as long as XLA takes
to compile them. Quantizers share functions instead, and a graph holds one call
for each.
"""

import functools
from collections.abc import Callable, Hashable
from typing import Any

import keras

Tensor = Any


def share(
    function: Callable[..., Any],
    *static: Hashable,
    is_compiled: bool = False,
    keeps_shape: bool = False,
) -> Callable[..., Any]:
    """Returns a function of tensors that graphs call instead of holding it.

    It is traced once for each rank and last dimension of its tensors. Where
    no graph is built, and in JAX, whose traces are cheap, it is the function
    itself.

    Args:
        function: A function of `static` and of tensors, without variables.
        *static: Its first arguments.
        is_compiled: Whether XLA compiles it, for each shape once, also in a
            graph that XLA does not compile.
        keeps_shape: Whether the result has the shape of the first tensor.

    Returns:
        A function of the tensors.
    """
    bound = functools.partial(function, *static)
    if keras.backend.backend() != "tensorflow":
        return bound
    import tensorflow as tf

    if tf.executing_eagerly():
        return bound

    def call(*tensors):
        tensors = [tf.convert_to_tensor(tensor) for tensor in tensors]
        specs = tuple(tf.TensorSpec(_spec(x.shape), x.dtype) for x in tensors)
        result = _trace(function, static, is_compiled, specs)(*tensors)
        if keeps_shape:
            result.set_shape(tensors[0].shape)
        return result

    return call


def _spec(shape: Any) -> Any:
    if not shape.rank:
        return shape
    return [None] * (shape.rank - 1) + shape[-1:]


@functools.lru_cache(maxsize=None)
def _trace(
    function: Callable[..., Any],
    static: tuple[Hashable, ...],
    is_compiled: bool,
    specs: tuple[Any, ...],
) -> Callable[..., Any]:
    import tensorflow as tf

    # Not as a part of the graph that happens to be traced first.
    with tf.init_scope():
        return tf.function(
            functools.partial(function, *static),
            jit_compile=is_compiled or None,
            autograph=False,
        ).get_concrete_function(*specs)
