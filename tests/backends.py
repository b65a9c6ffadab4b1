"""What tests must say differently to each backend."""

import keras
import numpy as np
from keras import ops

IS_TENSORFLOW = keras.backend.backend() == "tensorflow"
# Ways to run a function of tensors. JAX compiles with XLA or not at all.
MODES = ["eager", "graph", "xla"] if IS_TENSORFLOW else ["eager", "xla"]


def in_mode(function, mode):
    """Returns a function of arrays that runs in one of `MODES`."""
    if mode == "eager":
        return function
    if IS_TENSORFLOW:
        import tensorflow as tf

        return tf.function(function, jit_compile=mode == "xla")
    import jax

    return jax.jit(function)


def pull_back(function, x, upstream):
    """Returns `function(x)` and the gradient that `upstream` becomes."""
    x = ops.convert_to_tensor(x)
    upstream = ops.convert_to_tensor(upstream)
    if IS_TENSORFLOW:
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(x)
            y = function(x)
        return y, tape.gradient(y, x, upstream)
    import jax

    y, pull = jax.vjp(function, x)
    return y, pull(upstream)[0]


def variable_gradients(loss, variables):
    """Returns the gradients of `loss()` as NumPy arrays."""
    if IS_TENSORFLOW:
        import tensorflow as tf

        with tf.GradientTape() as tape:
            value = loss()
        found = tape.gradient(value, [v.value for v in variables])
        return [ops.convert_to_numpy(g) for g in found]
    import jax

    def of_values(values):
        pairs = list(zip(variables, values, strict=True))
        with keras.StatelessScope(state_mapping=pairs):
            return loss()

    found = jax.grad(of_values)([v.value for v in variables])
    return [np.asarray(g) for g in found]
