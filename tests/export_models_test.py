"""Whole models from `apply`: exported, run and compared with Keras."""

import itertools
import sys

import keras
import numpy as np
import pytest
from keras import layers

import fliqs_keras
from fliqs_keras.export import converter


def attention():
    tokens = keras.Input((6,), name="tokens", dtype="int32")
    x = layers.Embedding(11, 8, name="table")(tokens)
    y = layers.MultiHeadAttention(2, 4, name="attention")(x, x)
    x = layers.LayerNormalization()(layers.Add()([x, y]))
    x = layers.GlobalAveragePooling1D()(layers.Dense(8, "gelu")(x))
    return keras.Model(tokens, layers.Dense(3)(x))


def recurrent():
    x = inputs = keras.Input((6, 4), name="x")
    x = layers.Bidirectional(layers.LSTM(5, return_sequences=True))(x)
    x = layers.GRU(4)(layers.TimeDistributed(layers.Dense(6))(x))
    return keras.Model(inputs, layers.Dense(3)(x))


def convolutional():
    x = inputs = keras.Input((9, 9, 4), name="x")
    x = layers.SeparableConv2D(8, 3, depth_multiplier=2)(x)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Conv2DTranspose(6, 3, strides=2)(x)
    x = layers.Conv2D(6, 3, groups=2, activation="relu")(x)
    return keras.Model(inputs, layers.Flatten()(layers.Conv2D(2, 1)(x)))


def einsum():
    inputs = keras.Input((6, 5), name="x")
    # Output channels on the first and the last axis of the kernel.
    x = layers.EinsumDense("abc,dce->abde", (None, 2, 3))(inputs)
    x = layers.EinsumDense("abde,def->abf", (None, 4))(x)
    return keras.Model(inputs, x)


@keras.saving.register_keras_serializable("export_models_test")
class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first = layers.Dense(5, "relu", name="first")
        self.last = layers.Dense(3, name="last")

    def call(self, x):
        return {"y": self.last(self.first(x)), "x": x}


def subclassed():
    model = Subclassed()
    model(np.zeros((1, 4), "float32"))
    return model


def data_of(model, count=40, seed=0):
    rng = np.random.default_rng(seed)
    if isinstance(model, Subclassed):
        return rng.normal(size=(count, 4)).astype("float32")
    shape = (count, *model.input.shape[1:])
    if model.input.dtype == "int32":
        return rng.integers(11, size=shape).astype("int32")
    return rng.normal(size=shape).astype("float32")


MODELS = [attention, recurrent, convolutional, einsum, subclassed]


@pytest.mark.parametrize("name", ["INT4", "E4M3"])
@pytest.mark.parametrize("build", MODELS)
def test_models_from_apply(build, name, tmp_path):
    keras.utils.set_random_seed(0)
    model = build()
    quantized = fliqs_keras.apply(model, name)
    data = data_of(model)
    fliqs_keras.calibrate(quantized, data)
    report = fliqs_keras.export_tflite(
        quantized, tmp_path / "model.tflite", verify_data=data
    )
    assert not report.left_in_float, str(report)
    for row in itertools.chain(*report.verification.runs.values()):
        assert row.mean <= 1e-4, str(report)


@pytest.mark.parametrize("build", [attention, recurrent, convolutional])
def test_large_weights_are_variables_until_they_are_stored(
    build, tmp_path, monkeypatch
):
    keras.utils.set_random_seed(0)
    quantized = fliqs_keras.apply(build(), "INT4")
    data = data_of(quantized)
    fliqs_keras.calibrate(quantized, data)
    paths = [tmp_path / "constants.tflite", tmp_path / "variables.tflite"]
    reports = [fliqs_keras.export_tflite(quantized, paths[0])]
    monkeypatch.setattr(converter, "LARGE_BYTES", 0)
    reports.append(fliqs_keras.export_tflite(quantized, paths[1]))
    assert reports[0].layers == reports[1].layers
    np.testing.assert_array_equal(
        *(fliqs_keras.run_tflite(path, data) for path in paths)
    )


def test_output_quantizers_make_a_model_integer(tmp_path):
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((8, 8, 3), name="x")
    x = layers.Conv2D(8, 3, activation="relu", name="first")(x)
    x = layers.Conv2D(8, 3, activation="relu", name="second")(x)
    model = keras.Model(
        inputs, layers.Dense(3, name="head")(layers.Flatten()(x))
    )
    config = fliqs_keras.SwitchableQuantizeConfig(quantize_output=True)
    quantized = fliqs_keras.apply(
        model, "INT8", quantize_configs={"head": config}
    )
    data = np.random.default_rng(0).normal(size=(64, 8, 8, 3))
    fliqs_keras.calibrate(quantized, data.astype("float32"))
    path = tmp_path / "model.tflite"
    report = fliqs_keras.export_tflite(
        quantized,
        path,
        mode="integer",
        integer_io=True,
        verify_data=data.astype("float32"),
    )
    assert {row.kernel for row in report.layers} == {"integer"}
    assert report.verification.agrees
    assert report.verification.runs["xnnpack"][0].argmax_agreement >= 0.9


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
