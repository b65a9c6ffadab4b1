"""Whole models from `apply`: exported, run and compared with Keras."""

import itertools
import sys

import keras
import numpy as np
import pytest
from keras import layers

import fliqs_keras
from fliqs_keras.export import converter
from tests.export_integer_test import kinds


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


def masked():
    x = tokens = keras.Input((6,), name="tokens", dtype="int32")
    x = layers.Embedding(11, 4, mask_zero=True)(x)
    x = layers.Bidirectional(layers.LSTM(5, return_sequences=True))(x)
    # A reader that has no mask.
    y = keras.ops.mean(x, axis=1)
    return keras.Model(tokens, layers.Dense(3)(y + layers.GRU(10)(x)))


def convolutional():
    x = inputs = keras.Input((9, 9, 4), name="x")
    x = layers.SeparableConv2D(8, 3, depth_multiplier=2)(x)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Conv2DTranspose(6, 3, strides=2)(x)
    x = layers.Conv2D(6, 3, groups=2, activation="celu")(x)
    return keras.Model(inputs, layers.Flatten()(layers.Conv2D(2, 1)(x)))


def u_shaped():
    x = inputs = keras.Input((None, None, 3), name="x")
    mean = np.float32([0.1, 0.2, 0.3])
    x = layers.Normalization(mean=mean, variance=mean)(x)
    x = layers.Conv2D(6, 3, padding="same", activation="silu")(x)
    y = layers.Conv2D(8, 3, strides=2, padding="same", activation="gelu")(x)
    y = layers.UpSampling2D(2)(y)
    return keras.Model(
        inputs, layers.Conv2D(2, 3)(layers.Add()([x, layers.Conv2D(6, 1)(y)]))
    )


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


def open_sequence():
    x = inputs = keras.Input((None, 8), name="x")
    x = layers.Add()([x, layers.MultiHeadAttention(2, 4)(x, x)])
    return keras.Model(inputs, layers.Dense(3)(x))


def integers_as_numbers():
    x = keras.Input((4,), dtype="int32", name="x")
    return keras.Model(x, layers.Dense(3)(x))


def subclassed():
    model = Subclassed()
    model(np.zeros((1, 4), "float32"))
    return model


def data_of(model, count=40, seed=0):
    rng = np.random.default_rng(seed)
    if isinstance(model, Subclassed):
        return rng.normal(size=(count, 4)).astype("float32")
    shape = (count, *(size or 8 for size in model.input.shape[1:]))
    if model.input.dtype == "int32":
        return rng.integers(11, size=shape).astype("int32")
    return rng.normal(size=shape).astype("float32")


EXPORTS = {
    "tflite": (fliqs_keras.export_tflite, fliqs_keras.run_tflite),
    "onnx": (fliqs_keras.export_onnx, fliqs_keras.run_onnx),
}
MODELS = [
    attention,
    open_sequence,
    integers_as_numbers,
    recurrent,
    masked,
    convolutional,
    u_shaped,
    einsum,
    subclassed,
]


@pytest.mark.parametrize("name", ["INT4", "E4M3"])
@pytest.mark.parametrize("kind", EXPORTS)
@pytest.mark.parametrize("build", MODELS)
def test_models_from_apply(kind, build, name, tmp_path):
    keras.utils.set_random_seed(0)
    model = build()
    quantized = fliqs_keras.apply(model, name)
    data = data_of(model)
    fliqs_keras.calibrate(quantized, data)
    export, _ = EXPORTS[kind]
    report = export(quantized, tmp_path / "model", verify_data=data)
    assert not report.left_in_float, str(report)
    for row in itertools.chain(*report.verification.runs.values()):
        assert row.mean <= 1e-4, str(report)


@keras.saving.register_keras_serializable("export_models_test")
class TwoHeads(keras.layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.read = layers.Dense(2, name="read")
        self.unread = layers.Dense(3, name="unread")

    def build(self, input_shape):
        self.read.build(input_shape)
        self.unread.build(input_shape)

    def call(self, x):
        return self.read(x), self.unread(x)


@pytest.mark.parametrize("kind", EXPORTS)
def test_layers_that_no_output_needs(kind, tmp_path):
    x = keras.Input((4,), name="x")
    model = fliqs_keras.apply(keras.Model(x, TwoHeads()(x)[0]), "INT8")
    data = data_of(model)
    fliqs_keras.calibrate(model, data)
    export, _ = EXPORTS[kind]
    report = export(model, tmp_path / "model", verify_data=data)
    read, unread = report.layers
    assert (read.bytes, unread.bytes, unread.ideal_bits) == (8, 0, 0)
    assert not report.left_in_float and "not in the file" in str(report)


def test_a_tensor_that_reshapes_share(tmp_path):
    """LiteRT divides in place, and lets reshapes share a buffer."""
    keras.utils.set_random_seed(0)
    x = keras.Input((4, 4, 8), name="x")
    hidden = layers.LayerNormalization()(layers.Dense(8)(x))
    flat = layers.Reshape((16, 8))(hidden)
    image = layers.Reshape((4, 4, 8))(flat)
    patches = layers.Conv2D(8, 2, strides=2)(image)
    keys = layers.Dense(8)(layers.Reshape((4, 8))(patches))
    scores = layers.Dot((2, 2))([layers.Dense(8)(flat), keys])
    y = layers.Concatenate()([scores, flat])
    model = fliqs_keras.apply(keras.Model(x, y), "E4M3")
    data = np.random.default_rng(0).normal(size=(4, 4, 4, 8)).astype("float32")
    fliqs_keras.calibrate(model, data)
    path = tmp_path / "model.tflite"
    fliqs_keras.export_tflite(model, path)
    expected = model.predict(data, verbose=0)
    for xnnpack in (True, False):
        actual = fliqs_keras.run_tflite(path, data, xnnpack=xnnpack)
        np.testing.assert_allclose(actual, expected, atol=1e-5)


def constant(value):
    return keras.initializers.Constant(value)


DEAD = {
    "kernel": lambda x: layers.Conv2D(5, 3, kernel_initializer="zeros")(x),
    "gamma": lambda x: layers.BatchNormalization(gamma_initializer="zeros")(
        layers.Conv2D(5, 3)(x)
    ),
    "branch": lambda x: layers.Add()(
        [
            x,
            layers.BatchNormalization(gamma_initializer="zeros")(
                layers.Conv2D(4, 3, padding="same")(x)
            ),
        ]
    ),
    "relu": lambda x: layers.ReLU()(
        layers.Conv2D(5, 3, bias_initializer=constant(-100.0))(x)
    ),
    "mean": lambda x: layers.GlobalAveragePooling2D()(
        layers.Conv2D(5, 3, kernel_initializer="zeros")(x)
    ),
    "head": lambda x: layers.Dense(3, kernel_initializer="zeros")(
        layers.GlobalAveragePooling2D()(layers.Conv2D(5, 3)(x))
    ),
    "bias": lambda x: layers.Dense(3, bias_initializer=constant(1000.0))(
        layers.GlobalAveragePooling2D()(layers.Conv2D(5, 3)(x))
    ),
}


@pytest.mark.parametrize("kind", DEAD)
def test_tensors_that_are_always_zero(kind, tmp_path):
    keras.utils.set_random_seed(0)
    x = keras.Input((8, 8, 4), name="x")
    y = layers.Dense(3)(layers.Flatten()(DEAD[kind](x)))
    model = fliqs_keras.apply(keras.Model(x, y), "INT8", every_tensor="INT8")
    data = np.random.default_rng(0).normal(size=(8, 8, 8, 4))
    data = data.astype("float32")
    fliqs_keras.calibrate(model, data)
    path = tmp_path / "model.tflite"
    fliqs_keras.export_tflite(model, path, mode="integer", verify_data=data)


def upsampling(interpolation):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4, 4, 3), name="x")
    x = layers.Conv2D(5, 3, padding="same", activation="relu")(inputs)
    x = layers.UpSampling2D((2, 3), interpolation=interpolation, name="up")(x)
    model = keras.Model(inputs, layers.Conv2D(2, 3, name="last")(x))
    model = fliqs_keras.apply(model, "INT8", every_tensor="INT8")
    fliqs_keras.calibrate(model, data_of(model))
    return model


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
def test_upsampled_images_are_quantized(interpolation, tmp_path):
    model = upsampling(interpolation)
    report = fliqs_keras.export_tflite(
        model, tmp_path / "model.tflite", verify_data=data_of(model)
    )
    # Values near a tie apart; what is not quantized is off by 1e-3.
    for row in itertools.chain(*report.verification.runs.values()):
        assert row.mean <= 1e-4, str(report)


def test_images_are_upsampled_as_integers(tmp_path):
    model = upsampling("nearest")
    path = tmp_path / "model.tflite"
    fliqs_keras.export_tflite(
        model, path, mode="integer", verify_data=data_of(model)
    )
    found = kinds(path.read_bytes())
    start = found.index("QUANTIZE") + 1
    between = ["CONV_2D", "RESIZE_NEAREST_NEIGHBOR", "CONV_2D"]
    assert found[start : start + 3] == between, found


@pytest.mark.parametrize("kind", EXPORTS)
@pytest.mark.parametrize(
    "build, policy",
    [
        *itertools.product(
            [attention, recurrent, subclassed],
            ["mixed_float16", "mixed_bfloat16"],
        ),
        (attention, "bfloat16"),
        (subclassed, "float16"),
    ],
)
def test_low_precision_is_exported_in_float32(
    build, kind, policy, tmp_path, monkeypatch
):
    keras.utils.set_random_seed(0)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model = fliqs_keras.apply(build(), "INT8")
    finally:
        keras.config.set_dtype_policy(before)
    data = data_of(model)
    fliqs_keras.calibrate(model, data)
    expected = keras.tree.flatten(model(data, training=False))
    export, run = EXPORTS[kind]
    path = tmp_path / f"model.{kind}"
    report = export(model, path, verify_data=data)
    assert not report.left_in_float, str(report)
    for row in itertools.chain(*report.verification.runs.values()):
        assert row.mean <= 1e-4, str(report)
    # The model is as it was, and the file near to it.
    again = keras.tree.flatten(model(data, training=False))
    found = keras.tree.flatten(run(path, data))
    dtype = policy.removeprefix("mixed_")
    for y, y_again, y_found in zip(expected, again, found, strict=True):
        assert keras.backend.standardize_dtype(y.dtype) == dtype
        np.testing.assert_array_equal(y_again, y)
        y = keras.ops.convert_to_numpy(keras.ops.cast(y, "float32"))
        assert y_found.dtype == np.float32
        assert np.abs(y_found - y).mean() <= 2e-2 * np.ptp(y)


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
