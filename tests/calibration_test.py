"""What thresholds are set from."""

import sys

import keras
import numpy as np
import pytest
from keras import layers

import fliqs_keras

A = np.random.default_rng(0).normal(size=(300, 4)).astype("float32")
B = np.random.default_rng(1).normal(size=(300, 3)).astype("float32")


def two_inputs(as_dictionary):
    a, b = keras.Input((4,), name="a"), keras.Input((3,), name="b")
    y = layers.Add()([layers.Dense(2, name="of_a")(a), layers.Dense(2)(b)])
    inputs = {"a": a, "b": b} if as_dictionary else [a, b]
    return fliqs_keras.apply(keras.Model(inputs, y), "INT8")


def batches(*structures):
    return list(structures)


@pytest.mark.parametrize(
    "as_dictionary, data",
    [
        (True, {"a": A, "b": B}),
        (True, batches({"a": A[:150], "b": B[:150]}, {"a": A, "b": B})),
        (False, [A, B]),
        (False, (A, B)),
        (False, batches([A, B], [A, B])),
        (False, batches(([A, B], np.zeros(300)))),
    ],
    ids=["dict", "dicts", "list", "tuple", "lists", "with_labels"],
)
def test_several_inputs(as_dictionary, data):
    model = two_inputs(as_dictionary)
    fliqs_keras.calibrate(model, data)
    of_a = model.get_layer("of_a").input_quantizer
    assert of_a.is_calibrated
    [threshold] = of_a.thresholds_for(A)
    assert 1 < threshold < 1.0001 * np.abs(A).max()


def test_a_list_of_arrays_is_batches_of_a_single_input():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(2, name="d")])
    model = fliqs_keras.apply(model, "INT8")
    fliqs_keras.calibrate(model, [A[:10], A[10:30]])
    assert model.get_layer("d").input_quantizer.is_calibrated


@pytest.mark.parametrize("data", [A[:0], [], iter(())])
def test_no_data(data):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(2)])
    model = fliqs_keras.apply(model, "INT8")
    with pytest.raises(ValueError, match="at least one batch"):
        fliqs_keras.calibrate(model, data)


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
