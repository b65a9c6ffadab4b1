"""Functions of graphs that are traced once."""

import numpy as np
import pytest
from keras import ops

from fliqs_keras.shared_functions import share
from tests.backends import IS_TENSORFLOW, MODES, in_mode


def scale(traces, factor, x, shift):
    traces.append(tuple(x.shape))
    return x * factor + shift


class Traces(list):
    """A list that can be a static argument."""

    __hash__ = object.__hash__


@pytest.mark.parametrize("is_compiled", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_shared_function_computes_what_the_function_does(mode, is_compiled):
    x = np.ones((4, 3), "float32")

    def run(x):
        function = share(scale, Traces(), 2.0, is_compiled=is_compiled)
        return function(x, np.float32(5.0))

    np.testing.assert_array_equal(in_mode(run, mode)(x), np.full((4, 3), 7.0))


@pytest.mark.skipif(not IS_TENSORFLOW, reason="Traces of TensorFlow.")
def test_sizes_and_graphs_share_a_trace():
    traces = Traces()
    shapes = []

    def run(x):
        y = share(scale, traces, 2.0, keeps_shape=True)(x, np.float32(0.0))
        shapes.append(tuple(y.shape))
        return y

    for size in (4, 5):
        x = ops.ones((size, 6, 3))
        np.testing.assert_array_equal(in_mode(run, "graph")(x), x * 2)
    assert traces == [(None, None, 3)]
    assert shapes == [(4, 6, 3), (5, 6, 3)]


@pytest.mark.skipif(not IS_TENSORFLOW, reason="Traces of TensorFlow.")
def test_layers_of_a_model_share_traces():
    import keras

    import fliqs_keras
    from fliqs_keras import shared_functions

    def traces_of(depth):
        shared_functions._trace.cache_clear()
        image = x = keras.Input((4,))
        for _ in range(depth):
            x = keras.layers.Dense(4)(x)
        model = fliqs_keras.apply(keras.Model(image, x), ["INT4", "INT8"])
        model.compile("sgd", "mse")
        model.fit(np.ones((8, 4)), np.ones((8, 4)), verbose=0)
        return shared_functions._trace.cache_info().misses

    assert traces_of(2) == traces_of(6) > 0
