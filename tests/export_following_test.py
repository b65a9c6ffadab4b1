"""Files compared with Keras models from one quantizer to the next."""

import sys

import keras
import numpy as np
import pytest
from keras import layers

import fliqs_keras
from fliqs_keras.export.following import follow
from fliqs_keras.export.observing import observe_tflite
from fliqs_keras.export.verification import (
    LayerwiseDifference,
    OutputDifference,
    VerificationReport,
)
from recipes import paper_models


class FakeFile:
    """A file of given tensors, the last of which is its output."""

    def __init__(self, *tensors, batch_size=1):
        self.batch_size = batch_size
        self.batches = []
        self._tensors = [np.float32(x) for x in tensors]

    def run(self, batch):
        self.batches.append(batch["x"])
        return {"y": self._tensors[-1]}

    def observe(self, batch):
        return self._tensors[:-1]


def identity_model(shape=(2,)):
    """Rounds to the integers from -7 to 7."""
    x = keras.Input(shape, name="x")
    dense = layers.Dense(
        shape[-1], use_bias=False, kernel_initializer="identity", name="dense"
    )
    model = fliqs_keras.apply(keras.Model(x, dense(x)), "INT4")
    threshold = np.float32([7])
    quantizer = model.get_layer("dense").input_quantizer
    quantizer.keep_thresholds(threshold, threshold)
    return model


def follow_identity(file, x):
    model = identity_model(np.shape(x)[1:])

    def run_keras(batch):
        return {"y": np.asarray(model(batch, training=False))}

    return follow(file, run_keras, np.float32(x), ["x"])


def test_a_tie_that_turns_is_no_difference():
    # Keras rounds halves to even: 0.5 to 0.
    actual, expected, excess = follow_identity(
        FakeFile([[1, 3]], [[1, 3]]), [[0.5, 3]]
    )
    np.testing.assert_array_equal(expected["y"], [[1, 3]])
    np.testing.assert_array_equal(actual["y"], [[1, 3]])
    assert excess == {"dense/input_quantizer": 0}


def test_a_code_that_is_not_the_nearest():
    # 0.75 is 0.25 from the code of Keras and 0.75 from that of the file: half
    # a step more, in one of two values, the largest of which is 3.
    _, expected, excess = follow_identity(
        FakeFile([[0, 3]], [[0, 3]]), [[0.75, 3]]
    )
    np.testing.assert_array_equal(expected["y"], [[0, 3]])
    assert excess == {"dense/input_quantizer": pytest.approx(0.5 / 2 / 3)}


def test_a_channel_that_is_wrong_among_many():
    x = np.zeros((1, 5, 100))
    x[0, :, 7] = 4
    _, _, excess = follow_identity(FakeFile(0 * x, x), x)
    # A hundredth is as far off as the largest value is large.
    assert excess == {"dense/input_quantizer": pytest.approx(0.01**0.5 / 3)}


def test_a_value_beside_the_grid():
    # As of a file that does not round: 0.75 is 0.25 from its code.
    _, expected, excess = follow_identity(
        FakeFile([[0.75, 3]], [[0.75, 3]]), [[0.75, 3]]
    )
    np.testing.assert_array_equal(expected["y"], [[0.75, 3]])
    assert excess == {"dense/input_quantizer": pytest.approx(0.25 / 2 / 3)}


def test_the_tensor_of_a_quantizer_is_found_among_others():
    file = FakeFile([[9, 9]], [[1, 2, 3]], [[1, 3]], [[2, 3]], [[1, 3]])
    _, expected, _ = follow_identity(file, [[0.5, 3]])
    np.testing.assert_array_equal(expected["y"], [[1, 3]])


def test_channels_may_come_first():
    x = np.arange(6.0).reshape(1, 3, 2)
    file = FakeFile(np.moveaxis(x, -1, 1), x)
    _, expected, excess = follow_identity(file, x)
    np.testing.assert_array_equal(expected["y"], x)
    assert excess == {"dense/input_quantizer": 0}


def test_a_file_without_the_tensor():
    actual, expected, excess = follow_identity(
        FakeFile([[1, 2, 3]], [[5, 5]]), [[0.5, 3]]
    )
    np.testing.assert_array_equal(expected["y"], [[0, 3]])
    np.testing.assert_array_equal(actual["y"], [[5, 5]])
    assert excess == {"dense/input_quantizer": np.inf}


def test_batches_are_filled_up():
    file = FakeFile([[1, 1], [2, 2], [2, 2]], [[0, 0]] * 3, batch_size=3)
    _, expected, _ = follow_identity(file, [[1, 1], [2, 2]])
    np.testing.assert_array_equal(expected["y"], [[1, 1], [2, 2], [2, 2]])
    np.testing.assert_array_equal(file.batches, [[[1, 1], [2, 2], [2, 2]]])


def test_a_few_examples_are_enough():
    file = FakeFile([[1, 1]], [[1, 1]])
    follow_identity(file, np.ones((100, 2)))
    assert len(file.batches) == 8


@pytest.mark.parametrize("mode", ["dequantize", "integer"])
@pytest.mark.parametrize("xnnpack", [True, False], ids=["xnnpack", "builtin"])
def test_what_a_file_computes_on_the_way(mode, xnnpack, tmp_path):
    x = keras.Input((4,), name="x")
    y = layers.Dense(5, name="one")(x)
    model = keras.Model(x, layers.Dense(3, name="two")(y))
    model = fliqs_keras.apply(model, "INT8", every_tensor="INT8")
    data = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    fliqs_keras.calibrate(model, data)
    path = tmp_path / "model.tflite"
    fliqs_keras.export_tflite(model, path, mode=mode)
    file = observe_tflite(path, xnnpack=xnnpack)
    assert file.batch_size == 1
    tensors = file.observe({"x": data[:1]})
    np.testing.assert_array_equal(
        list(file.run({"x": data[:1]}).values()),
        [fliqs_keras.run_tflite(path, data[:1], xnnpack=xnnpack)],
    )
    # The codes of the input, of what is between, and of the output.
    quantizer = model.get_layer("one").input_quantizer
    codes = np.asarray(quantizer(data[:1]))
    assert any(np.array_equal(tensor, codes) for tensor in tensors)
    steps = {tensor.shape for tensor in tensors}
    assert steps == {(1, 4), (1, 5), (1, 3)}


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).random((4, 32, 32, 3), "float32")


@pytest.fixture(scope="module")
def deep_model(images):
    """A network in which a code that turns is not forgotten."""
    keras.utils.set_random_seed(0)
    model = paper_models.build("resnet18_0.25", images.shape[1:])
    fliqs_keras.recalibrate_batch_norm(model, images)
    model = fliqs_keras.apply(model, ["INT4", "INT8"])
    decisions = fliqs_keras.FormatAssignment.from_model(model)
    fliqs_keras.FormatAssignment(
        {d: ("INT4", "INT8")[i % 2] for i, d in enumerate(decisions)}
    ).apply_to(model)
    fliqs_keras.calibrate(model, images)
    fliqs_keras.recalibrate_batch_norm(model, images)
    return model


def test_a_file_that_does_not_round_disagrees(tmp_path):
    keras.utils.set_random_seed(0)
    x = y = keras.Input((8,), name="x")
    for width in (16, 16, 16, 8):
        y = layers.Dense(width, "relu")(y)
    model = fliqs_keras.apply(keras.Model(x, y), "E2M1")
    data = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
    fliqs_keras.calibrate(model, data)
    path = tmp_path / "model.tflite"
    fliqs_keras.export_tflite(model, path, simulate_activations=False)
    report = fliqs_keras.verify_export(model, path, data)
    assert not report.agrees
    for found in report.layerwise.values():
        assert min(found.quantizers.values()) > 1e-3


def export_in_integers(model, path):
    fliqs_keras.export_tflite(model, path, mode="integer")


EXPORTS = {
    "litert": (export_in_integers, {"xnnpack", "builtin"}),
    "onnx": (fliqs_keras.export_onnx, {"optimized", "plain"}),
}


@pytest.mark.slow
def test_an_onnx_file_of_a_deep_model_agrees_as_a_whole(
    deep_model, images, tmp_path
):
    export, runs = EXPORTS["onnx"]
    export(deep_model, tmp_path / "model")
    report = fliqs_keras.verify_export(deep_model, tmp_path / "model", images)
    assert set(report.runs) == runs and not report.layerwise
    assert report.agrees, str(report)


@pytest.mark.slow
def test_outputs_far_apart_agree_layer_by_layer(deep_model, images, tmp_path):
    export, runs = EXPORTS["litert"]
    export(deep_model, tmp_path / "model")
    report = fliqs_keras.verify_export(deep_model, tmp_path / "model", images)
    assert set(report.layerwise) == runs
    decisions = fliqs_keras.FormatAssignment.from_model(deep_model)
    for run, found in report.layerwise.items():
        # Kernels of integers round sums, which turns codes.
        assert report.runs[run][0].mean > 0.1
        assert found.outputs[0].mean < 1e-6
        assert len(found.quantizers) == len(decisions)
        assert max(found.quantizers.values()) < 5e-4
    assert report.agrees, str(report)


@pytest.mark.slow
@pytest.mark.parametrize("kind", EXPORTS)
def test_the_layer_that_differs_is_named(kind, deep_model, images, tmp_path):
    export, runs = EXPORTS[kind]
    export(deep_model, tmp_path / "model")
    layer = deep_model.get_layer("stage2_block1_conv1")
    kernel = layer.kernel.numpy()
    layer.kernel.assign(1.1 * kernel)
    try:
        report = fliqs_keras.verify_export(
            deep_model, tmp_path / "model", images
        )
    finally:
        layer.kernel.assign(kernel)
    assert not report.agrees
    for found in report.layerwise.values():
        quantizers = dict(found.quantizers)
        assert quantizers.pop("stage2_block1_conv2/input_quantizer") > 5e-3
        assert max(quantizers.values()) < 5e-4
    assert "stage2_block1_conv2" in str(report)


GOOD, BAD = (
    OutputDifference("y", 1.0, largest=0.5, mean=0.0, rms=rms)
    for rms in (9e-4, 1.1e-3)
)
NAN = OutputDifference("y", None, np.inf, np.inf, np.inf)


@pytest.mark.parametrize(
    "rows, followed, quantizers, agrees",
    [
        ([GOOD], None, {}, True),
        ([BAD], None, {}, False),
        ([GOOD, BAD], [GOOD, GOOD], {"a": 9e-4}, True),
        ([GOOD, BAD], [GOOD, BAD], {"a": 9e-4}, False),
        ([BAD], [GOOD], {"a": 9e-4, "b": 1.1e-3}, False),
        ([BAD], [GOOD], {"a": np.nan, "b": 0.0}, False),
        ([NAN], [NAN], {}, False),
    ],
)
@pytest.mark.parametrize("position", [0, 1])
def test_verdict(rows, followed, quantizers, agrees, position):
    runs = {"one": [GOOD], "two": [GOOD]}
    run = list(runs)[position]
    runs[run] = rows
    layerwise = {}
    if followed is not None:
        layerwise = {run: LayerwiseDifference(tuple(followed), quantizers)}
    report = VerificationReport(9, 1e-3, runs, layerwise)
    assert report.agrees == agrees
    assert ("DISAGREES" in str(report)) != agrees


@pytest.mark.parametrize("excess, agrees", [(9e-6, True), (1.1e-5, False)])
def test_verdict_where_quantizers_may_differ_less(excess, agrees):
    layerwise = {"one": LayerwiseDifference((GOOD,), {"a": excess})}
    report = VerificationReport(
        9, 1e-3, {"one": [BAD]}, layerwise, quantizer_tolerance=1e-5
    )
    assert report.agrees == agrees
    assert "1e-05 at a quantizer" in str(report)


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
