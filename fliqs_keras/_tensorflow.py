"""The private part of TensorFlow that rounding needs.

Everything else in the package uses the public API. A test fails loudly where
a TensorFlow release moves it.
"""


def is_compiled_by_xla() -> bool:
    """Whether XLA compiles the function that is being traced, as a whole."""
    import tensorflow as tf

    return tf.__internal__.get_enclosing_xla_context() is not None
