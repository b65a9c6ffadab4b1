"""The exporter's own call: options, report, and what must not happen."""

import dataclasses
import errno
import os
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import fliqs_keras
from fliqs_keras.export import tflite

FORMATS = {"conv": "INT2", "depthwise": "INT4", "head": "E2M1"}


def build_net():
    inputs = keras.Input((8, 8, 2), name="image")
    x = layers.Conv2D(16, 3, use_bias=False, name="conv")(inputs)
    x = layers.ReLU()(layers.BatchNormalization(name="norm")(x))
    x = layers.DepthwiseConv2D(3, name="depthwise")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(3, name="head")(x))


def images(count=32, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, 8, 8, 2)).astype("float32")


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    model = fliqs_keras.apply(build_net(), ["INT2", "INT4", "E2M1", "E4M3"])
    fliqs_keras.FormatAssignment(FORMATS).apply_to(model)
    fliqs_keras.calibrate(model, images())
    return model


@pytest.fixture
def path(tmp_path):
    """A file that exists, alone in its folder."""
    path = tmp_path / "model.tflite"
    path.write_bytes(b"old")
    return path


def check_untouched(path):
    assert path.read_bytes() == b"old"
    assert os.listdir(path.parent) == [path.name]


def test_report_of_compact_storage(model, path):
    report = fliqs_keras.export_tflite(model, path, verify_data=images())
    rows = {row.path: row for row in report.layers}
    assert {k: (r.format, r.tensor_type) for k, r in rows.items()} == {
        "conv": ("INT2", "INT2"),
        "depthwise": ("INT4", "INT4"),
        "head": ("E2M1", "INT4"),
    }
    # 3 * 3 * 2 * 16 weights of 2 bits, 3 * 3 * 16 and 16 * 3 of 4 bits.
    assert [row.bytes for row in report.layers] == [72, 72, 24]
    assert report.weight_bytes == report.ideal_bytes == 168
    assert [row.kernel for row in report.layers] == [
        "dequantize",
        "dequantize",
        "lookup",
    ]
    assert rows["head"].activation == "E2M1 in float"
    assert report.file_bytes == path.stat().st_size
    costs = {c.weight_storage: c for c in report.storage_costs}
    assert dataclasses.astuple(costs["compact"]) == ("compact", 168, 3)
    # A byte for each of 288 + 144 + 48.
    assert dataclasses.astuple(costs["fast"]) == ("fast", 480, 0)
    assert report.verification.agrees
    assert report.verification.runs["xnnpack"][0].largest < 1e-5


def test_report_as_text(model, path):
    report = fliqs_keras.export_tflite(model, path, verify_data=images())
    assert str(report).splitlines()[:6] == [
        "layer      format stored         bytes  kernel     input        note",
        "conv       INT2   INT2              72  dequantize INT2",
        "depthwise  INT4   INT4              72  dequantize INT4",
        "head       E2M1   INT4              24  lookup     E2M1 in float",
        "mode dequantize, weight storage compact",
        "weights 168 bytes (at the bits of their formats 168), file "
        f"{report.file_bytes:,} bytes",
    ]
    assert "agrees" in str(report)


def test_fast_storage_and_stripped_names(model, path):
    sizes = [
        fliqs_keras.export_tflite(model, path, **options).file_bytes
        for options in (
            {},
            {"strip_names": True},
            {"weight_storage": "fast", "verify_data": images()},
        )
    ]
    assert sizes[1] < sizes[0]
    report = fliqs_keras.export_tflite(model, path, weight_storage="fast")
    assert {row.tensor_type for row in report.layers} == {"INT8"}
    assert report.weight_bytes == 480


def test_float_inputs_can_be_left_alone(model, path):
    report = fliqs_keras.export_tflite(model, path, simulate_activations=False)
    assert [row.activation for row in report.layers] == ["INT2", "INT4", ""]


def test_fixed_batch_size(model, path):
    fliqs_keras.export_tflite(
        model, path, input_signature=tf.TensorSpec((1, 8, 8, 2))
    )
    interpreter = tflite_interpreter(path)
    shape = interpreter.get_input_details()[0]["shape_signature"]
    assert shape.tolist() == [1, 8, 8, 2]
    assert fliqs_keras.verify_export(model, path, images(3)).agrees


def tflite_interpreter(path):
    from ai_edge_litert.interpreter import Interpreter

    return Interpreter(model_path=str(path))


def test_exporting_leaves_the_model_as_it_was(model, path):
    before = model.predict(images(), verbose=0)
    fliqs_keras.export_tflite(model, path)
    np.testing.assert_array_equal(model.predict(images(), verbose=0), before)


def test_weights_only(path):
    quantized = fliqs_keras.apply(build_net(), "INT4")
    # As a config without an input quantizer leaves a layer.
    for name in FORMATS:
        quantized.get_layer(name).input_quantizer = None
    report = fliqs_keras.export_tflite(quantized, path, verify_data=images())
    assert not report.left_in_float
    assert {row.activation for row in report.layers} == {""}


def test_a_file_that_disagrees_is_not_left(model, path, monkeypatch):
    # A wrong patch: the float graph of other weights.
    other = fliqs_keras.apply(build_net(), ["INT2", "INT4", "E2M1", "E4M3"])
    fliqs_keras.FormatAssignment(FORMATS).apply_to(other)
    fliqs_keras.calibrate(other, images())
    other_path = path.parent / "other"
    fliqs_keras.export_tflite(other, other_path)
    wrong = other_path.read_bytes()
    other_path.unlink()
    monkeypatch.setattr(tflite, "patch", lambda *args, **kwargs: (wrong, []))
    with pytest.raises(RuntimeError, match="DISAGREES"):
        fliqs_keras.export_tflite(model, path, verify_data=images())
    check_untouched(path)


def test_disk_full(model, path, monkeypatch):
    class FullDisk:
        def __init__(self, descriptor, mode):
            self._file = os.fdopen(descriptor, mode)

        def __enter__(self):
            return self

        def write(self, data):
            self._file.write(data[:100])
            self._file.flush()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def __exit__(self, *args):
            self._file.close()

    full = type("os", (), {**vars(os), "fdopen": FullDisk})
    monkeypatch.setattr("fliqs_keras.files.os", full)
    with pytest.raises(OSError, match="No space left"):
        fliqs_keras.export_tflite(model, path)
    check_untouched(path)


def test_an_existing_file_is_replaced(model, path):
    fliqs_keras.export_tflite(model, path)
    assert path.read_bytes()[4:8] == b"TFL3"
    assert os.listdir(path.parent) == [path.name]


class Inverting(layers.Layer):
    def call(self, x):
        return tf.raw_ops.MatrixInverse(input=x)


class Doubling(layers.Layer):
    """Doubles until it is large: how often depends on the values."""

    def call(self, x):
        return tf.while_loop(
            lambda x: tf.reduce_max(tf.abs(x)) < 8, lambda x: [2 * x], [x]
        )[0]


def quantized_with(layer):
    inputs = keras.Input((3, 3), name="x")
    x = layers.Dense(3, name="first")(inputs)
    outputs = layers.Dense(3, name="second")(layer(x))
    model = fliqs_keras.apply(keras.Model(inputs, outputs), "INT8")
    data = np.random.default_rng(0).normal(size=(9, 3, 3)).astype("float32")
    fliqs_keras.calibrate(model, data)
    return model, data


def test_unsupported_layer(path):
    model, _ = quantized_with(Inverting())
    with pytest.raises(ValueError, match="MatrixInverse") as error:
        fliqs_keras.export_tflite(model, path)
    assert "ops that LiteRT has" in str(error.value)
    check_untouched(path)


def model_of_grouped_volumes():
    inputs = keras.Input((3, 3, 3, 4))
    outputs = layers.Conv3D(6, 3, groups=2, name="volumes")(inputs)
    space = fliqs_keras.SearchSpace("INT8", activations=None)
    return fliqs_keras.apply(keras.Model(inputs, outputs), space)


@pytest.mark.parametrize(
    "export", [fliqs_keras.export_tflite, fliqs_keras.export_onnx]
)
def test_grouped_convolutions_of_volumes_are_refused(export, path):
    with pytest.raises(ValueError, match="of one group.*'volumes'"):
        export(model_of_grouped_volumes(), path)
    check_untouched(path)


@pytest.mark.parametrize("is_verified", [False, True])
def test_a_file_that_no_runtime_runs_is_not_left(
    is_verified, path, monkeypatch
):
    monkeypatch.setattr(tflite, "check_groups", lambda model: None)
    data = np.zeros((1, 3, 3, 3, 4)) if is_verified else None
    with pytest.raises(ValueError, match="CONV_3D.*failed to prepare"):
        fliqs_keras.export_tflite(
            model_of_grouped_volumes(), path, verify_data=data
        )
    check_untouched(path)


def test_files_of_open_sizes_are_not_refused(path):
    # Of one pixel, which is all that is known, two kernels leave nothing.
    x = keras.Input((None, None, 2))
    outputs = layers.Conv2D(3, 3)(layers.Conv2D(3, 3)(x))
    space = fliqs_keras.SearchSpace("INT8", activations=None)
    model = fliqs_keras.apply(keras.Model(x, outputs), space)
    assert fliqs_keras.export_tflite(model, path).file_bytes


def test_control_flow_between_quantized_layers(path):
    model, data = quantized_with(Doubling())
    report = fliqs_keras.export_tflite(model, path, verify_data=data)
    assert not report.left_in_float and report.verification.agrees


class Repeating(layers.Layer):
    """Applies a dense layer as often as the values say."""

    def build(self, input_shape):
        self.dense = layers.Dense(input_shape[-1], "tanh", name="dense")
        self.dense.build(input_shape)

    def call(self, x):
        times = 2 + tf.cast(tf.reduce_max(x) > 0, "int32")
        loop = tf.while_loop(
            lambda i, x: i < times, lambda i, x: (i + 1, self.dense(x)), (0, x)
        )
        return loop[1]


class Choosing(Repeating):
    """Applies a dense layer where the values say so."""

    def call(self, x):
        return tf.cond(
            tf.reduce_max(x) > 0, lambda: self.dense(x), lambda: x + 1
        )


@pytest.mark.parametrize("cls", [Repeating, Choosing])
def test_quantized_layers_inside_control_flow(cls, path):
    model, data = quantized_with(cls(name="inside"))
    report = fliqs_keras.export_tflite(model, path, verify_data=data)
    rows = {row.path: row.tensor_type for row in report.layers}
    assert rows == {"first": "INT8", "inside/dense": "INT8", "second": "INT8"}
    assert report.verification.agrees


def test_sequences_of_open_length(path):
    inputs = keras.Input((None, 3), name="x")
    outputs = layers.Dense(3, name="head")(layers.LSTM(4)(inputs))
    model = fliqs_keras.apply(keras.Model(inputs, outputs), "INT8")
    data = np.random.default_rng(0).normal(size=(9, 5, 3)).astype("float32")
    fliqs_keras.calibrate(model, data)
    with pytest.raises(ValueError, match="known number of steps"):
        fliqs_keras.export_tflite(model, path)
    check_untouched(path)
    signature = tf.TensorSpec((None, 5, 3))
    report = fliqs_keras.export_tflite(
        model, path, input_signature=signature, verify_data=data
    )
    assert report.verification.agrees
    assert not [x for x in model.layers if getattr(x, "unroll", False)]


def test_nested_and_shared_layers_of_several_inputs(path):
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    tower = keras.Sequential(
        [keras.Input((4,)), layers.Dense(5, "relu"), layers.Dense(4)],
        name="tower",
    )
    shared = layers.Dense(3, name="shared")
    outputs = {
        "both": layers.Add()([shared(tower(a)), shared(tower(b))]),
        "deep": shared(tower(tower(b))),
    }
    model = fliqs_keras.apply(
        keras.Model({"a": a, "b": b}, outputs), ["INT4", "INT8"]
    )
    rng = np.random.default_rng(0)
    data = {k: rng.normal(size=(99, 4)).astype("float32") for k in "ab"}
    # A generator, as `calibrate` takes dictionaries in batches only.
    fliqs_keras.calibrate(model, (d for d in [data]))
    report = fliqs_keras.export_tflite(model, path, verify_data=data)
    assert not report.left_in_float and len(report.layers) == 3
    assert report.verification.agrees


def test_missing_calibration(path):
    model = fliqs_keras.apply(build_net(), "INT8")
    with pytest.raises(ValueError, match="calibrate"):
        fliqs_keras.export_tflite(model, path)
    check_untouched(path)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"mode": "int8"}, "`mode` to be one of"),
        ({"integer_io": True}, "in integer mode only"),
        ({"weight_storage": "tiny"}, "`weight_storage` to be one of"),
        ({"input_signature": {"x": tf.TensorSpec((1,))}}, "structure"),
    ],
    ids=["mode", "integer_io", "weight_storage", "input_signature"],
)
def test_unknown_arguments(model, path, arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        fliqs_keras.export_tflite(model, path, **arguments)
    assert "Received" in str(error.value)
    check_untouched(path)


def test_path_in_no_folder(model, tmp_path):
    with pytest.raises(ValueError, match="folder that exists"):
        fliqs_keras.export_tflite(model, tmp_path / "no" / "model.tflite")
    with pytest.raises(ValueError, match="folder that exists"):
        fliqs_keras.export_tflite(model, tmp_path)


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
