"""ONNX files beside their Keras models, and by ml_dtypes."""

import sys

import keras
import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
import tensorflow as tf
from keras import layers

import fliqs_keras
from fliqs_keras.export import converter
from fliqs_keras.export.matching import Match
from fliqs_keras.export.onnx import exporter, patcher
from fliqs_keras.export.onnx.activations import quantize
from fliqs_keras.export.onnx.nodes import NodeWriter
from fliqs_keras.export.onnx.weights import decode, onnx_storage_of
from fliqs_keras.export.specs import ActivationSpec
from fliqs_keras.formats import parse_format
from tests.export_storage_test import ALL_FORMATS, NOT_STORED

X = np.random.default_rng(0).normal(size=(32, 10, 10, 3)).astype("float32")


def all_kinds():
    """A layer of each kind, one behind the other."""
    x = image = keras.Input((10, 10, 3), name="image")
    x = layers.Conv2D(8, 3, padding="same", use_bias=False)(x)
    gamma = keras.initializers.RandomNormal(seed=1)
    x = layers.BatchNormalization(gamma_initializer=gamma)(x)
    x = layers.DepthwiseConv2D(3, strides=2, padding="same")(layers.ReLU()(x))
    x = layers.SeparableConv2D(8, 3)(x)
    x = layers.Conv2DTranspose(6, 3)(x)
    x = layers.Conv2D(8, 3, dilation_rate=2)(x)
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Conv1D(6, 2)(layers.Reshape((4, 2))(x))
    x = layers.MultiHeadAttention(2, 4)(x, x)
    return keras.Model(image, layers.Dense(4)(layers.LSTM(5)(x)))


@pytest.fixture(scope="module")
def float_model():
    keras.utils.set_random_seed(0)
    return all_kinds()


def quantized(model, space):
    model = fliqs_keras.apply(model, space)
    fliqs_keras.calibrate(model, X)
    return model


@pytest.mark.parametrize(
    "name, tensor_type, opset, largest",
    [
        ("INT2", "INT2", 25, 1e-6),
        ("INT4", "INT4", 21, 1e-6),
        ("INT8", "UINT8", 18, 1e-6),
        ("INT12", "INT16", 21, 1e-3),
        ("E2M1", "UINT8", 18, 1e-6),
        ("E4M3", "FLOAT8E4M3FN", 19, 1e-6),
        ("BF16", "BFLOAT16", 18, 5e-3),
    ],
)
def test_every_kind_of_layer(
    name, tensor_type, opset, largest, float_model, tmp_path
):
    model = quantized(float_model, name)
    path = tmp_path / "model.onnx"
    report = fliqs_keras.export_onnx(model, path, verify_data=X)
    assert {row.tensor_type for row in report.layers} == {tensor_type}
    assert all(row.matched for row in report.layers)
    assert set(report.verification.runs) == {"optimized", "plain"}
    for (row,) in report.verification.runs.values():
        assert row.largest <= largest
    file = onnx.load(path)
    versions = {entry.domain: entry.version for entry in file.opset_import}
    assert versions[""] == opset and "fliqs_keras" not in versions
    kinds = {node.op_type for node in file.graph.node}
    assert ("QuantizeLinear" in kinds) == name.startswith("INT")


def test_weights_take_the_bytes_of_their_codes(float_model, tmp_path):
    path = tmp_path / "model.onnx"
    report = fliqs_keras.export_onnx(quantized(float_model, "INT4"), path)
    sizes = {
        tensor.name: len(tensor.raw_data)
        for tensor in onnx.load(path).graph.initializer
        if tensor.data_type == onnx.TensorProto.INT4 and len(tensor.dims) > 1
    }
    assert sum(sizes.values()) == report.weight_bytes == report.ideal_bytes


def test_large_weights(float_model, tmp_path, monkeypatch):
    monkeypatch.setattr(converter, "LARGE_BYTES", 0)
    model = quantized(float_model, "INT4")
    report = fliqs_keras.export_onnx(model, tmp_path / "model.onnx")
    assert not report.left_in_float


def test_dictionaries_and_an_open_batch_size(tmp_path):
    a, b = keras.Input((3,), name="a"), keras.Input((2,), name="b")
    dense = layers.Dense(4, name="dense")
    outputs = {
        "y": dense(layers.Concatenate()([a, b])),
        "z": dense(layers.Concatenate()([b, a])),
    }
    rng = np.random.default_rng(0)
    inputs = {
        "a": rng.normal(size=(7, 3)).astype("float32"),
        "b": rng.normal(size=(7, 2)).astype("float32"),
    }
    model = fliqs_keras.apply(keras.Model({"a": a, "b": b}, outputs), "INT4")
    fliqs_keras.calibrate(model, [inputs])
    path = tmp_path / "model.onnx"
    fliqs_keras.export_onnx(model, path)
    actual = fliqs_keras.run_onnx(path, inputs, batch_size=3)
    expected = model(inputs)
    assert set(actual) == {"y", "z"}
    for name, y in actual.items():
        np.testing.assert_allclose(y, expected[name], rtol=1e-5, atol=1e-6)


def test_a_fixed_batch_size(float_model, tmp_path):
    model = quantized(float_model, "INT8")
    path = tmp_path / "model.onnx"
    signature = tf.TensorSpec((4, *X.shape[1:]))
    fliqs_keras.export_onnx(model, path, input_signature=signature)
    # The last batch has fewer examples.
    data = X[:6]
    assert fliqs_keras.verify_export(model, path, data).agrees
    assert len(fliqs_keras.run_onnx(path, data)) == 6


def run_nodes(writer, output, **inputs):
    def info(name, x):
        kind = onnx.helper.np_dtype_to_tensor_dtype(x.dtype)
        return onnx.helper.make_tensor_value_info(name, kind, x.shape)

    y = onnx.helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, None)
    graph = onnx.helper.make_graph(
        writer.nodes,
        "graph",
        [info(name, x) for name, x in inputs.items()],
        [y],
        writer.constants,
    )
    opset = onnx.helper.make_opsetid("", max(writer.opset, 18))
    model = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=13)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run([output], inputs)[0]


REFERENCES = {
    "E2M1": ml_dtypes.float4_e2m1fn,
    "E2M3": ml_dtypes.float6_e2m3fn,
    "E3M2": ml_dtypes.float6_e3m2fn,
    "E4M3": ml_dtypes.float8_e4m3fn,
    "E5M2": ml_dtypes.float8_e5m2,
    "BF16": ml_dtypes.bfloat16,
    "FP16": np.float16,
}


@pytest.mark.parametrize("name", REFERENCES)
def test_floats_round_as_in_ml_dtypes(name):
    number_format = parse_format(name)
    codes = number_format.codes()
    halves = (codes[1:] / 2 + codes[:-1] / 2)[np.abs(codes[1:]) < 1e30]
    beside = np.nextafter(halves, np.float32(np.inf))
    x = np.concatenate([codes, halves, beside, [1e9, -1e9]]).astype("float32")
    writer = NodeWriter("test")
    y = quantize(writer, "x", ActivationSpec(number_format, 1.0))
    limit = np.float32(number_format.max_code)
    expected = np.clip(x, -limit, limit).astype(REFERENCES[name])
    np.testing.assert_array_equal(
        run_nodes(writer, y, x=x), expected.astype("float32")
    )


# Of small scales, onnxruntime would take a Clip for one that changes nothing.
@pytest.mark.parametrize("scale", [2.0**-2, 2.0**-23, 2.0**-40], ids=str)
@pytest.mark.parametrize("name", ["INT4", "INT8", "INT16"])
def test_integers_round_half_to_even_and_saturate(name, scale):
    number_format = parse_format(name)
    limit, scale = number_format.max_code, np.float32(scale)
    x = [0.5, 1.5, -2.5, limit, limit + 3, -limit - 3, np.inf, -np.inf]
    x = np.float32(x) * scale
    writer = NodeWriter("test")
    # It does so only behind another op.
    negative = writer.node("Neg", "x")
    y = quantize(writer, negative, ActivationSpec(number_format, scale))
    expected = [0, 2, -2, limit, limit, -limit, limit, -limit]
    expected = np.float32(expected) * scale
    np.testing.assert_array_equal(run_nodes(writer, y, x=-x), expected)


@pytest.mark.parametrize("name", sorted({*ALL_FORMATS} - {*NOT_STORED}))
def test_codes_come_back(name):
    number_format = parse_format(name)
    storage = onnx_storage_of(number_format)
    codes = number_format.codes()
    codes = np.stack([codes, -codes], axis=1)
    match = Match(codes, np.float32([0.5, 1]), axis=1)
    writer = NodeWriter("test")
    decoded = writer.node("Mul", decode(writer, match, storage), "one")
    actual = run_nodes(writer, decoded, one=np.ones(1, "float32"))
    np.testing.assert_array_equal(actual, codes * match.scale)


def test_an_op_that_onnx_lacks_is_refused(tmp_path):
    x = keras.Input((4,))
    model = keras.Model(x, keras.ops.erfinv(layers.Dense(4)(x)))
    model = fliqs_keras.apply(model, "INT8")
    fliqs_keras.calibrate(model, np.ones((2, 4), "float32"))
    with pytest.raises(ValueError, match=r"\['Erfinv'\]"):
        fliqs_keras.export_onnx(model, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_an_output_may_not_be_called_as_an_input(tmp_path):
    x = keras.Input((4,), name="x")
    model = keras.Model({"x": x}, {"x": layers.Dense(4)(x)})
    model = fliqs_keras.apply(model, "INT8")
    fliqs_keras.calibrate(model, {"x": np.ones((2, 4), "float32")})
    with pytest.raises(ValueError, match=r"\['x'\] for both"):
        fliqs_keras.export_onnx(model, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_a_layer_of_zeros_before_another(tmp_path):
    x = image = keras.Input(X.shape[1:])
    x = layers.Conv2D(4, 3, kernel_initializer="zeros")(x)
    x = layers.Dense(3, kernel_initializer="zeros")(x)
    model = quantized(keras.Model(image, layers.Dense(2)(x)), "INT2")
    report = fliqs_keras.export_onnx(
        model, tmp_path / "model.onnx", verify_data=X
    )
    assert [row.tensor_type for row in report.layers] == ["INT2"] * 3


def test_a_file_that_disagrees_is_not_left(float_model, tmp_path, monkeypatch):
    model = quantized(float_model, "INT8")

    def patch_wrongly(converted, specs):
        rows = patcher.patch(converted, specs)
        for tensor in converted.graph.initializer:
            if tensor.name.startswith("fliqs_keras/weight"):
                tensor.raw_data = bytes(len(tensor.raw_data))
        return rows

    monkeypatch.setattr(exporter, "patch", patch_wrongly)
    path = tmp_path / "model.onnx"
    path.write_text("before")
    with pytest.raises(RuntimeError, match="DISAGREES"):
        fliqs_keras.export_onnx(model, path, verify_data=X)
    assert [p.read_text() for p in tmp_path.iterdir()] == ["before"]


def test_what_is_not_installed_is_named(float_model, tmp_path, monkeypatch):
    model = quantized(float_model, "INT8")
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    with pytest.raises(ImportError, match=r"fliqs-keras\[onnx\]"):
        fliqs_keras.export_onnx(model, tmp_path / "model.onnx")


def test_other_inputs_are_refused(float_model, tmp_path):
    path = tmp_path / "model.onnx"
    fliqs_keras.export_onnx(quantized(float_model, "INT8"), path)
    with pytest.raises(ValueError, match=r"\['image'\]"):
        fliqs_keras.run_onnx(path, {"picture": X})
    with pytest.raises(ValueError, match="at least one example"):
        fliqs_keras.run_onnx(path, X[:0])


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
