"""Reading and writing scalar variables between steps, in little time.

After a training step the memory that Python works on has left the caches:
what `assign` and `convert_to_numpy` do around the ops of TensorFlow takes
several times as long as these.
"""

import functools

import keras
from keras import ops


def read_scalar(variable: keras.Variable) -> float:
    """Returns the value of a scalar variable."""
    handle = _handle(variable)
    if handle is None:
        return float(ops.convert_to_numpy(variable))
    import tensorflow as tf

    dtype = variable.value.dtype
    return float(tf.raw_ops.ReadVariableOp(resource=handle, dtype=dtype))


def assign_scalar(variable: keras.Variable, value: int) -> None:
    """Sets a scalar variable of type int32."""
    handle = _handle(variable)
    if handle is None:
        variable.assign(value)
        return
    import tensorflow as tf

    tf.raw_ops.AssignVariableOp(resource=handle, value=_int32(value))


def _handle(variable: keras.Variable) -> object | None:
    """Returns what ops of TensorFlow take for a variable.

    Returns `None` on other backends, and for variables of several replicas.
    """
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    value = variable.value
    has_replicas = isinstance(value, tf.distribute.DistributedValues)
    return None if has_replicas else value.handle


@functools.lru_cache(maxsize=None)
def _int32(value: int) -> object:
    import tensorflow as tf

    return tf.constant(value, "int32")
