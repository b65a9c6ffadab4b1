"""What the report of an export says of files worked by hand."""

import sys

import keras
import numpy as np
import pytest
from keras import layers

import fliqs_keras


def test_paths_of_layers_that_share_a_decision(tmp_path):
    x = keras.Input((4,))
    y = layers.Dense(3, name="block_b")(layers.Dense(4, name="block_a")(x))
    space = fliqs_keras.SearchSpace("INT8", groups="block_*", activations=None)
    model = fliqs_keras.apply(keras.Model(x, y), space)
    report = fliqs_keras.export_tflite(model, tmp_path / "x.tflite")
    assert [row.path for row in report.layers] == ["block_a", "block_b"]


def test_costs_of_tables(tmp_path):
    x = keras.Input((3,), dtype="int32")
    y = layers.Embedding(50, 8, name="table")(x)
    space = fliqs_keras.SearchSpace("INT2", activations=None)
    model = fliqs_keras.apply(keras.Model(x, y), space)
    report = fliqs_keras.export_tflite(model, tmp_path / "x.tflite")
    # Of 400 codes, 4 bits and 8.
    assert [cost.bytes for cost in report.storage_costs] == [200, 400]
    assert report.weight_bytes == 200


def test_integer_kernels_decode_nothing(tmp_path):
    x = keras.Input((4,))
    model = fliqs_keras.apply(
        keras.Model(x, layers.Dense(4)(x)), "INT4", every_tensor="INT8"
    )
    fliqs_keras.calibrate(model, np.eye(4, dtype="float32"))
    report = fliqs_keras.export_tflite(
        model, tmp_path / "x.tflite", mode="integer"
    )
    assert [row.kernel for row in report.layers] == ["integer"]
    costs = [(x.bytes, x.decoded_each_time) for x in report.storage_costs]
    assert costs == [(8, 0), (16, 0)]


def test_codes_before_several_normalizations_count_once(tmp_path):
    keras.utils.set_random_seed(0)
    conv = layers.Conv2D(4, 3, padding="same", use_bias=False, name="conv")
    norms = [layers.BatchNormalization() for _ in range(2)]
    x = inputs = keras.Input((4, 4, 4))
    for norm in norms:
        x = layers.ReLU()(norm(conv(x)))
    norms[0].gamma.assign([1.0, 2.0, 3.0, 4.0])
    norms[1].gamma.assign([4.0, 1.0, 2.0, 3.0])
    space = fliqs_keras.SearchSpace("INT8", activations=None)
    model = fliqs_keras.apply(keras.Model(inputs, x), space)
    report = fliqs_keras.export_tflite(model, tmp_path / "x.tflite")
    assert report.weight_bytes == report.ideal_bytes == 3 * 3 * 4 * 4
    assert [row.reason for row in report.layers] == [""]


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
