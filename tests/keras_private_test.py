"""The private parts of Keras, each used: fails when one of them moves."""

import sys

import keras
import numpy as np
import pytest
from keras import layers

from fliqs_keras import _keras


def test_substitute_scope_replaces_reads_and_keeps_updates():
    weight = keras.Variable(np.ones(2, "float32"))
    state = keras.Variable(np.zeros(2, "float32"))
    with _keras.SubstituteScope([(weight, keras.ops.full((2,), 3.0))]):
        np.testing.assert_array_equal(weight + 0, [3.0, 3.0])
        state.assign([5.0, 5.0])
    np.testing.assert_array_equal(weight + 0, [1.0, 1.0])
    np.testing.assert_array_equal(state + 0, [5.0, 5.0])


def test_substitute_scope_within_another_passes_updates_on():
    state = keras.Variable(np.zeros(2, "float32"))
    with keras.StatelessScope() as outer:
        with _keras.SubstituteScope([]):
            state.assign([5.0, 5.0])
            np.testing.assert_array_equal(state + 0, [5.0, 5.0])
    np.testing.assert_array_equal(state + 0, [0.0, 0.0])
    np.testing.assert_array_equal(outer.get_current_value(state), [5.0, 5.0])


def test_master_value_is_not_cast():
    layer = layers.Dense(2, dtype="mixed_bfloat16")
    layer.build((None, 3))
    assert keras.ops.dtype(_keras.master_value(layer.kernel)) == "float32"


def test_unlocked_layer_takes_a_sublayer():
    layer = layers.Dense(2)
    layer.build((None, 3))
    with _keras.unlocked(layer):
        layer.extra = layers.Dense(1)
    assert layer.extra in _keras.sublayers(layer)
    with pytest.raises(ValueError, match="cannot add new elements"):
        layer.more = layers.Dense(1)


def test_zero_example_has_the_structure_of_the_inputs():
    a = keras.Input((2,), name="a")
    b = keras.Input((3,), dtype="int32", name="b")
    model = keras.Model({"a": a, "b": b}, layers.Dense(1)(a))
    example = _keras.zero_example(model)
    assert {k: tuple(v.shape) for k, v in example.items()} == {
        "a": (1, 2),
        "b": (1, 3),
    }


def test_zero_example_needs_known_shapes():
    model = keras.Sequential([keras.Input((None, 3)), layers.Dense(1)])
    with pytest.raises(ValueError, match="known shape"):
        _keras.zero_example(model)


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
