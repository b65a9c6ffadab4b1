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


@pytest.mark.parametrize("data", [A[:0], [], iter(()), [A[:0], A[:0]]])
def test_no_data(data):
    with pytest.raises(ValueError, match="at least one batch"):
        fliqs_keras.calibrate(one_layer(), data)


def one_layer():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(2, name="d")])
    return fliqs_keras.apply(model, "INT8")


def range_after(data):
    model = one_layer()
    fliqs_keras.calibrate(model, data)
    return model.get_layer("d").input_quantizer.range.numpy()


def test_a_left_over_batch_weighs_what_it_holds():
    largest = [np.abs(A[:8]).max(), np.abs(A[128:136]).max(), 100.0]
    data = np.concatenate([A[:256], np.full((2, 4), 100.0, "float32")])
    expected = np.average(largest, weights=[8, 8, 2])
    assert range_after(data) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf], ids=str)
def test_what_is_not_finite_is_left_out(value):
    wrong = A[:20].copy()
    wrong[3, 1] = value
    assert range_after([A[:10], wrong]) == range_after(A[:10])
    with pytest.raises(ValueError, match="NaN at .'d/input_quantizer'"):
        range_after([wrong, wrong])


@pytest.mark.parametrize(
    "use", [fliqs_keras.calibrate, fliqs_keras.recalibrate_batch_norm]
)
@pytest.mark.parametrize(
    "model, data",
    [
        (one_layer, (A, np.zeros(300))),
        (one_layer, (A, np.zeros(300), np.ones(300))),
        (lambda: two_inputs(False), ([A, B], np.zeros(300))),
        (lambda: two_inputs(True), ({"a": A, "b": B}, np.zeros(300))),
    ],
    ids=["pair", "triple", "lists", "dicts"],
)
def test_targets_are_refused(model, data, use):
    with pytest.raises(ValueError, match=r"Of `\(x, y\)` pass `x` only"):
        use(model(), data)


def test_empty_batches_are_left_out():
    assert range_after([A[:0], A[:10], A[:0]]) == range_after(A[:10])


def test_quantizers_that_see_only_zeros_are_named(caplog):
    assert range_after(A) > 0
    assert not caplog.records
    assert range_after(0 * A) == 0
    [record] = caplog.records
    assert "zeros was seen by ['d/input_quantizer']" in record.getMessage()


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
