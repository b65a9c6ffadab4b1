"""The private part of TensorFlow, used: fails when it moves."""

import sys

import keras
import numpy as np
import pytest
from keras import layers

from fliqs_keras import _tensorflow

pytestmark = pytest.mark.tensorflow


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("is_nested", [False, True])
def test_whether_xla_compiles_a_function(jit_compile, is_nested):
    import tensorflow as tf

    found = []

    def trace(x):
        found.append(_tensorflow.is_compiled_by_xla())
        return x

    inner = tf.function(trace) if is_nested else trace
    tf.function(inner, jit_compile=jit_compile)(tf.constant(1.0))
    assert found == [jit_compile]
    assert not _tensorflow.is_compiled_by_xla()


@pytest.mark.parametrize("jit_compile", [False, True])
def test_whether_xla_compiles_a_training_step(jit_compile):
    found = []

    class Asking(layers.Layer):
        def call(self, x, training=None):
            if training:
                found.append(_tensorflow.is_compiled_by_xla())
            return x

    model = keras.Sequential([Asking(), layers.Dense(1)])
    x = np.ones((4, 2), "float32")
    model(x)
    model.compile("sgd", "mse", jit_compile=jit_compile)
    model.fit(x, x[:, :1], verbose=0)
    assert set(found) == {jit_compile}


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
