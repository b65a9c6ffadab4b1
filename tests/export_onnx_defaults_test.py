"""What onnxruntime computes of ONNX files in a session of default options."""

import sys

import keras
import numpy as np
import onnxruntime
import pytest
from keras import layers

import fliqs_keras
from fliqs_keras.export.onnx import exporter, patcher

X = np.random.default_rng(0).normal(size=(32, 10, 10, 3)).astype("float32")


def quantized(model, space):
    model = fliqs_keras.apply(model, space)
    fliqs_keras.calibrate(model, X)
    return model


def run_by_default(path, x):
    """Runs a file as who knows nothing of this library does."""
    session = onnxruntime.InferenceSession(
        path, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def assert_same(actual, expected, tolerance=1e-5):
    # Else all outputs would be one, of a bias alone.
    assert np.std(expected, axis=0).max() > 1e-3
    atol = tolerance * np.ptp(expected)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=atol)


def with_large_biases(make_stack):
    """Layers whose biases are no multiples of a step of the sum."""
    # Layers draw their seeds where they are made.
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input(X.shape[1:]), *make_stack()])
    rng = np.random.default_rng(0)
    for weight in model.weights:
        if weight.name in ("bias", "beta"):
            weight.assign(rng.normal(scale=0.5, size=weight.shape))
    return model


STACKS = {
    "dense": lambda: [
        layers.Flatten(),
        layers.Dense(12, activation="relu"),
        layers.Dense(8),
        layers.Dense(4),
    ],
    "convolution": lambda: [
        layers.Conv2D(8, 3, activation="relu"),
        layers.DepthwiseConv2D(3),
        layers.Conv2D(8, 1, groups=2),
        layers.Conv2DTranspose(1, 3),
        layers.Conv2D(4, 3),
    ],
    "batch_normalization": lambda: [
        layers.Conv2D(8, 3, use_bias=False),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.DepthwiseConv2D(3),
        layers.BatchNormalization(),
        layers.Conv2D(4, 3),
    ],
}


# onnxruntime would round biases to steps of the sum, which are coarse.
@pytest.mark.parametrize("name", ["INT2", "INT3", "INT4"])
@pytest.mark.parametrize("kind", STACKS)
def test_biases_are_kept(kind, name, tmp_path):
    model = quantized(with_large_biases(STACKS[kind]), name)
    path = tmp_path / "model.onnx"
    fliqs_keras.export_onnx(model, path)
    assert_same(run_by_default(path, X), np.asarray(model(X)))


# onnxruntime would round float32 weights to INT8, and all their biases.
@pytest.mark.parametrize("kind", STACKS)
def test_weights_in_float_are_kept(kind, tmp_path):
    model = fliqs_keras.apply(
        with_large_biases(STACKS[kind]), "FP16", every_tensor="INT8"
    )
    fliqs_keras.calibrate(model, X)
    path = tmp_path / "model.onnx"
    fliqs_keras.export_onnx(model, path)
    assert_same(run_by_default(path, X), np.asarray(model(X)))


def test_biases_before_an_input_of_more_bits(tmp_path):
    sizes = {"a": 32, "b": 16, "c": 2}
    model = with_large_biases(
        lambda: [
            layers.Flatten(),
            *(layers.Dense(size, name=name) for name, size in sizes.items()),
        ]
    )
    model = quantized(model, {"a": "INT4", "b": "INT4", "c": "INT8"})
    report = fliqs_keras.export_onnx(
        model, tmp_path / "model.onnx", verify_data=X
    )
    for (row,) in report.verification.runs.values():
        assert row.largest < 1e-6


# onnxruntime would round the inputs of these dense layers to INT8.
@pytest.mark.parametrize("name", ["INT2", "INT4", "INT8"])
def test_quantized_weights_alone(name, tmp_path):
    weights_alone = fliqs_keras.SwitchableQuantizeConfig(quantize_input=False)
    model = fliqs_keras.apply(
        with_large_biases(lambda: [*STACKS["dense"](), layers.Dense(1)]),
        name,
        quantize_configs={layers.Dense: weights_alone},
    )
    path = tmp_path / "model.onnx"
    report = fliqs_keras.export_onnx(model, path, verify_data=X)
    for (row,) in report.verification.runs.values():
        assert row.largest < 1e-6
    assert_same(run_by_default(path, X), np.asarray(model(X)))
    assert report.layers[0].activation == ""


# Keras makes all scales of a layer one where its kernel is of equal values.
@pytest.mark.parametrize("initializer", ["glorot_uniform", "ones"])
def test_integer_weights_of_float_inputs(initializer, tmp_path):
    model = with_large_biases(
        lambda: [
            layers.Flatten(),
            layers.Dense(4, kernel_initializer=initializer),
        ]
    )
    model = quantized(model, "E2M1")
    path = tmp_path / "model.onnx"
    fliqs_keras.export_onnx(model, path)
    assert_same(run_by_default(path, X), np.asarray(model(X)))


# Not of vectors: of a few examples, single codes may happen to be right.
@pytest.mark.parametrize("kind", ["convolution", "batch_normalization"])
def test_a_file_that_is_rewritten_by_default_is_refused(
    kind, tmp_path, monkeypatch
):
    def patch_with_clips(converted, specs):
        rows = patcher.patch(converted, specs)
        for node in converted.graph.node:
            if node.op_type == "Min":
                x, limit = node.input
                node.op_type = "Clip"
                node.input[:] = [x, "", limit]
        return rows

    monkeypatch.setattr(exporter, "patch", patch_with_clips)
    model = quantized(with_large_biases(STACKS[kind]), "INT4")
    with pytest.raises(RuntimeError, match="DISAGREES"):
        fliqs_keras.export_onnx(model, tmp_path / "model.onnx", verify_data=X)
    assert not list(tmp_path.iterdir())


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
