"""Whole models in integer mode that do not compute in integers throughout."""

import sys

import keras
import numpy as np
import pytest
from keras import layers, ops

import fliqs_keras

# All that integer kernels may differ by, in outputs of about one.
TOLERANCE = 0.05


def rows(count=256, shape=(8,)):
    return np.random.default_rng(0).normal(size=(count, *shape)).astype("f4")


def quantized(inputs, outputs, data, formats="INT8", **kwargs):
    model = keras.Model(inputs, outputs)
    model = fliqs_keras.apply(model, formats, **kwargs)
    fliqs_keras.calibrate(model, data)
    return model


def export_and_run(model, path, data, **kwargs):
    fliqs_keras.export_tflite(model, path, mode="integer", **kwargs)
    return fliqs_keras.run_tflite(path, data)


@pytest.mark.parametrize(
    "read",
    [
        layers.GlobalAveragePooling1D(),
        layers.Flatten(),
        lambda x: layers.Add()([x, x]),
    ],
    ids=["average", "flatten", "add"],
)
def test_tables_have_more_than_one_scale(read, tmp_path):
    keras.utils.set_random_seed(0)
    ids = keras.Input((4,), dtype="int32")
    table = layers.Embedding(9, 4, "normal")
    data = np.random.default_rng(0).integers(9, size=(64, 4)).astype("int32")
    outputs = layers.Dense(3)(read(table(ids)))
    model = quantized(ids, outputs, data)
    actual = export_and_run(model, tmp_path / "model.tflite", data)
    expected = model.predict(data, verbose=0)
    np.testing.assert_allclose(actual, expected, atol=1e-6)


@pytest.mark.parametrize("every_tensor", [None, "INT8"])
@pytest.mark.parametrize(
    "bound",
    [lambda x: ops.clip(x, -0.5, 1.5), lambda x: ops.maximum(x, 0.1 * x)],
    ids=["clip", "leaky"],
)
def test_bounds_of_the_model_stay(bound, every_tensor, tmp_path):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8,))
    outputs = layers.Dense(3)(bound(layers.Dense(8)(inputs)))
    data = rows()
    model = quantized(inputs, outputs, data, every_tensor=every_tensor)
    actual = export_and_run(model, tmp_path / "model.tflite", data)
    expected = model.predict(data, verbose=0)
    np.testing.assert_allclose(actual, expected, atol=TOLERANCE)


@pytest.mark.parametrize(
    "layer, shape",
    [
        (layers.GlobalMaxPooling1D(), (6, 3)),
        (layers.GlobalMaxPooling2D(), (4, 4, 3)),
        (layers.RepeatVector(2), (8,)),
    ],
    ids=["maximum_1d", "maximum_2d", "repeat"],
)
def test_layers_behind_other_moves_compute_in_integers(layer, shape, tmp_path):
    keras.utils.set_random_seed(0)
    inputs = keras.Input(shape)
    outputs = layers.Dense(3)(layer(layers.Dense(4)(inputs)))
    data = rows(shape=shape)
    model = quantized(inputs, outputs, data, every_tensor="INT8")
    path = tmp_path / "model.tflite"
    report = fliqs_keras.export_tflite(
        model, path, mode="integer", integer_io=True, verify_data=data
    )
    assert [layer.kernel for layer in report.layers] == ["integer"] * 2
    assert report.verification.agrees


@pytest.mark.parametrize(
    "weight_storage, kernel",
    [("compact", "dequantize"), ("fast", "integer")],
)
def test_sums_of_few_steps(weight_storage, kernel, tmp_path):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    data = rows(shape=(6,))
    outputs = layers.Dense(5)(layers.Dense(4, "relu")(inputs))
    model = quantized(inputs, outputs, data, "INT2", every_tensor="INT2")
    report = fliqs_keras.export_tflite(
        model,
        tmp_path / "model.tflite",
        mode="integer",
        weight_storage=weight_storage,
        verify_data=data,
    )
    assert [row.kernel for row in report.layers] == [kernel] * 2
    assert report.verification.agrees


@pytest.mark.parametrize("number_format", ["INT4", "INT8"])
def test_codes_of_inputs_saturate(number_format, tmp_path):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8,))
    outputs = layers.Dense(3)(layers.Dense(8, "relu")(inputs))
    data = rows()
    model = quantized(inputs, outputs, data, every_tensor=number_format)
    wide = 3 * data
    actual = export_and_run(
        model, tmp_path / "model.tflite", wide, integer_io=True
    )
    expected = model.predict(wide, verbose=0)
    scale = model.layers[-1].output_quantizer.scale()
    np.testing.assert_allclose(actual, expected, atol=1.01 * scale)


def test_integers_that_are_no_codes_are_numbers(tmp_path):
    inputs = keras.Input((8,))
    images = np.random.default_rng(0).integers(256, size=(64, 8))
    model = quantized(
        inputs, layers.Dense(3)(inputs), images, every_tensor="INT8"
    )
    path = tmp_path / "model.tflite"
    expected = export_and_run(
        model, path, images.astype("float32"), integer_io=True
    )
    actual = fliqs_keras.run_tflite(path, images.astype("uint8"))
    np.testing.assert_array_equal(actual, expected)
    assert expected.std() > 1


@pytest.mark.parametrize(
    "layer, number_format", [(layers.Dense, "INT4"), (layers.Conv2D, "INT8")]
)
def test_channels_of_one_scale(layer, number_format, tmp_path):
    inputs = keras.Input((6, 6, 3))
    size = () if layer is layers.Dense else (3,)
    alike = layer(4, *size, kernel_initializer=keras.initializers.Constant(0.1))
    data = rows(32, (6, 6, 3))
    model = quantized(
        inputs, alike(inputs), data, number_format, every_tensor="INT8"
    )
    actual = export_and_run(model, tmp_path / "model.tflite", data)
    expected = model.predict(data, verbose=0)
    scale = model.layers[-1].output_quantizer.scale()
    np.testing.assert_allclose(actual, expected, atol=1.01 * scale)


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
