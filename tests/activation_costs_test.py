"""Peaks of activations on graphs that are worked by hand."""

import sys

import keras
import pytest
from keras import layers

import fliqs_keras

cost = fliqs_keras.ActivationBytes()


def test_a_chain_keeps_what_one_layer_reads_and_makes():
    x = keras.Input((4,))
    y = layers.Dense(10, name="a")(x)
    y = layers.Dense(6, name="b")(y)
    model = keras.Model(x, layers.Dense(2, name="c")(y))
    model = fliqs_keras.apply(model, ["INT4", "INT8"])
    # Inputs of 8, 4 and 8 bits; the output stays in float.
    chosen = {"a": "INT8", "b": "INT4", "c": "INT8"}
    assert cost(model, chosen) == max(4 + 5, 5 + 6, 6 + 2 * 4)
    wide = dict.fromkeys(chosen, "INT8")
    assert cost(model, wide) == 10 + 6


def test_a_shortcut_stays_until_it_is_read():
    x = keras.Input((8,))
    y = layers.Dense(8, name="a")(x)
    y = layers.Dense(8, name="b")(y)
    model = keras.Model(x, layers.Add()([x, y]))
    model = fliqs_keras.apply(model, "INT8")
    # The sum reads the input in float, and both it reads and makes.
    assert cost(model) == 3 * 8 * 4


def test_one_quantizer_a_tensor_makes_all_small():
    x = keras.Input((8,))
    y = layers.ReLU()(layers.Dense(8, name="a")(x))
    model = keras.Model(x, layers.Add()([layers.Dense(8, name="b")(y), y]))
    model = fliqs_keras.apply(model, ["INT4", "INT8"], every_tensor="INT8")
    # The dense layer before the ReLU makes floats that the ReLU writes over.
    assert cost(model) == 8 + 4 * 8
    tied = fliqs_keras.apply(
        keras.Model(x, layers.Dense(2)(layers.Flatten()(y))), "INT8"
    )
    assert cost(tied) == 8 + 4 * 8


def test_what_else_a_layer_reads_stays_in_float():
    sequence = keras.Input((6, 64))
    state = keras.Input((64,))
    y = layers.LSTM(64)(sequence, initial_state=[state, state])
    model = fliqs_keras.apply(keras.Model([sequence, state], y), "INT4")
    # The sequence in 4 bits, the state and the output in 32.
    assert cost(model) == 6 * 64 / 2 + 2 * 64 * 4


def test_sizes_must_be_decided():
    x = keras.Input((4,))
    y = layers.Dense(8, name="hidden")(x)
    space = fliqs_keras.SearchSpace(
        ["INT8"], architecture=fliqs_keras.nas.Width("hidden", [2, 8])
    )
    model = keras.Model(x, layers.Dense(2, name="head")(y))
    model = fliqs_keras.apply(model, space)
    chosen = {"hidden": "INT8", "head": "INT8", "hidden:width": 2}
    for assignment in (None, chosen):
        with pytest.raises(ValueError, match="nas.extract"):
            cost(model, assignment)
    fliqs_keras.FormatAssignment(chosen).apply_to(model)
    # Two codes, and two floats that are made of them.
    assert cost(fliqs_keras.nas.extract(model)) == 2 + 2 * 4


def test_it_is_no_budget():
    x = keras.Input((4,))
    model = fliqs_keras.apply(keras.Model(x, layers.Dense(2)(x)), "INT8")
    with pytest.raises(ValueError, match="adds up"):
        cost.table(model)


def test_shapes_must_be_known():
    x = keras.Input((None, 4))
    model = fliqs_keras.apply(keras.Model(x, layers.Dense(2)(x)), "INT8")
    with pytest.raises(ValueError, match="known shape"):
        cost(model)


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
