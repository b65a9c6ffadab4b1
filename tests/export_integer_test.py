"""Graphs that compute in integers, beside Keras and worked by hand."""

import dataclasses
import functools
import sys

import keras
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from keras import layers

from fliqs_keras.export.flatbuffer import read_model
from fliqs_keras.export.graph import Graph
from fliqs_keras.export.patcher import patch
from fliqs_keras.export.running import run_tflite
from fliqs_keras.export.specs import ActivationSpec, LayerSpec, WeightSpec
from fliqs_keras.formats import parse_format
from tests.export_markers_test import (
    Conv1D,
    Conv2D,
    Conv2DTranspose,
    Dense,
    DepthwiseConv2D,
    calibrate,
    convert,
    difference,
    marked,
    quantize,
    random_inputs,
    run,
    simulate,
)


class Pass(layers.Layer):
    def call(self, x):
        return x


# A quantizer where no layer with weights reads.
Quantize = marked(Pass)
norm = layers.BatchNormalization
RESOLVERS = ["AUTO", "BUILTIN_WITHOUT_DEFAULT_DELEGATES"]


def kinds(buffer):
    model = read_model(buffer)
    graph = Graph(model, model.subgraphs[0])
    return [graph.kind(op) for op in graph.ops]


def residual_network():
    """Quantizers at every input, at the sum, before pooling and at the end."""
    x = image = keras.Input((12, 12, 3), name="image")
    x = Conv2D(8, 3, strides=2, padding="same", name="stem")(x)
    x = layers.ReLU(6.0)(norm()(x))
    y = DepthwiseConv2D(3, padding="same", use_bias=False, name="depth")(x)
    y = layers.ReLU()(norm()(y))
    y = norm()(Conv2D(8, 1, use_bias=False, name="point")(y))
    x = Quantize(name="shortcut")(x)
    x = layers.Add()([x, Quantize(name="branch")(y)])
    x = layers.MaxPooling2D()(Quantize(name="sum")(x))
    x = layers.ReLU()(Conv2D(6, 2, name="wide")(x))
    x = layers.GlobalAveragePooling2D()(Quantize(name="pool")(x))
    x = Quantize(name="end")(Dense(5, name="head")(x))
    return keras.Model({"image": image}, {"y": x})


@functools.cache
def converted_network(weights, activations="INT8"):
    model = residual_network()
    specs = quantize(model, weights, activations)
    inputs = random_inputs(model, batch=64)
    return convert(model), model, calibrate(model, inputs, specs), inputs


def steps_apart(weights, activations, resolver, **options):
    """Differences from Keras, in steps of the output's quantizer."""
    buffer, model, specs, inputs = converted_network(weights, activations)
    patched, results = patch(buffer, specs, mode="integer", **options)
    resolver = getattr(OpResolverType, resolver)
    actual = run(patched, inputs, experimental_op_resolver_type=resolver)["y"]
    expected = simulate(model, inputs)["y"]
    scale = specs[-1].activation.scale
    return np.abs(actual - expected) / scale, patched, results


@pytest.mark.parametrize("resolver", RESOLVERS)
@pytest.mark.parametrize("activations", ["INT8", "INT5"])
@pytest.mark.parametrize("weights", ["INT8", "INT4", "E2M1"])
def test_network_in_integers(weights, activations, resolver):
    steps, _, results = steps_apart(weights, activations, resolver)
    assert {row.kernel for row in results} == {"integer"}
    assert steps.max() <= 3.01 and steps.mean() < 1


@pytest.mark.parametrize("weights", ["INT6", "INT4", "INT2", "E2M1"])
def test_codes_that_fill_their_type_leave_the_bias_fine(weights):
    steps, _, _ = steps_apart(weights, "INT8", "AUTO", weight_storage="fast")
    assert steps.max() <= 1.01 and steps.mean() < 0.1


def test_nothing_is_float_between_the_ends():
    _, buffer, _ = steps_apart("INT8", "INT8", "AUTO")
    # What may be negative is quantized twice, to saturate at either end.
    assert kinds(buffer) == [
        "MINIMUM",
        "QUANTIZE",
        "CONV_2D",
        "DEPTHWISE_CONV_2D",
        "CONV_2D",
        "QUANTIZE",
        "ADD",
        "QUANTIZE",
        "MAX_POOL_2D",
        "CONV_2D",
        "MEAN",
        "FULLY_CONNECTED",
        "QUANTIZE",
        "DEQUANTIZE",
    ]


def test_dense_layer_worked_by_hand():
    x = keras.Input((2,), name="x")
    dense = Dense(2, name="dense")
    model = keras.Model({"x": x}, {"y": Quantize(name="end")(dense(x))})
    first, end = quantize(model, "INT8", "INT8")
    codes = np.float32([[3, -127], [2, 5]])
    dense.kernel.assign(codes * [0.5, 0.25])
    dense.bias.assign([0.3, -100])
    weight = WeightSpec(parse_format("INT8"), codes, np.array([0.5, 0.25]), 1)
    activation = ActivationSpec(parse_format("INT8"), 0.5)
    specs = [
        LayerSpec(first.path, (weight,), activation),
        LayerSpec(end.path, (), ActivationSpec(parse_format("INT8"), 2.0)),
    ]
    buffer, _ = patch(convert(model), specs, mode="integer")
    # Codes of the input: 9 and -20. Sums of products: 9 * 3 - 20 * 2 = -13
    # and -9 * 127 - 20 * 5 = -1243, in steps of 0.25 and 0.125. The bias is
    # 1 and -800 of these. So -12 * 0.25 / 2 = -1.5, of which the even
    # neighbor is -2, and -2043 * 0.125 / 2 = -127.7, which ends at -127.
    actual = run(buffer, {"x": np.float32([[4.6, -10.1]])})["y"]
    assert actual.tolist() == [[-4.0, -254.0]]


def model_of(kind):
    """A quantizer before and behind an op, which has no bias."""
    shape = (40,) if kind == "dense" else (8, 8, 8)
    x = keras.Input(shape, name="x")
    other = Quantize(name="other")
    y = {
        "dense": lambda: Dense(16, use_bias=False, name="dense")(x),
        "dense_3d": lambda: Dense(16, use_bias=False, name="dense")(
            layers.Reshape((64, 8))(Quantize(name="in")(x))
        ),
        "conv": lambda: Conv2D(8, 3, 2, "same", use_bias=False)(x),
        "point": lambda: Conv2D(8, 1, use_bias=False)(x),
        "grouped": lambda: Conv2D(8, 3, groups=2, use_bias=False)(x),
        "transposed": lambda: Conv2DTranspose(8, 3, use_bias=False)(x),
        "dilated": lambda: Conv2D(8, 3, dilation_rate=2, use_bias=False)(x),
        "causal": lambda: Conv1D(8, 3, padding="causal", use_bias=False)(
            layers.Reshape((64, 8))(x)
        ),
        "depthwise": lambda: DepthwiseConv2D(
            3, depth_multiplier=2, use_bias=False
        )(x),
        "flatten": lambda: Dense(16, use_bias=False, name="dense")(
            layers.Flatten()(layers.MaxPooling2D()(Quantize(name="in")(x)))
        ),
        "padded": lambda: Conv2D(8, 3, use_bias=False)(
            layers.ZeroPadding2D(2)(Quantize(name="in")(x))
        ),
        "concatenate": lambda: layers.Concatenate()(
            [Conv2D(8, 1, use_bias=False)(x), Conv2D(4, 1, use_bias=False)(x)]
        ),
        "add": lambda: layers.Add()(
            [
                Quantize(name="in")(x),
                other(layers.Permute((2, 1, 3))(1.7 * x)),
            ]
        ),
        "mean": lambda: layers.GlobalAveragePooling2D()(Quantize(name="in")(x)),
    }[kind]()
    y = Quantize(name="end")(y)
    model = keras.Model({"x": x}, {"y": y})
    for layer in model.layers:
        layer.marked_path = layer.name
    return model


KINDS = (
    "dense dense_3d conv point grouped dilated causal depthwise flatten "
    "padded concatenate add mean"
).split()


@functools.cache
def kind_in_integers(kind, weights, activations):
    model = model_of(kind)
    specs = quantize(model, weights, activations)
    specs = [
        dataclasses.replace(spec, path=spec.path.split("/")[-1])
        for spec in specs
    ]
    inputs = random_inputs(model, batch=32)
    # Some values are clipped.
    inputs["x"] *= 1.3
    buffer, results = patch(convert(model), specs, mode="integer")
    return buffer, results, inputs, simulate(model, inputs)["y"], specs


@pytest.mark.parametrize("resolver", RESOLVERS)
@pytest.mark.parametrize("activations", ["INT8", "INT4"])
@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_ops(kind, activations, resolver):
    buffer, results, inputs, expected, specs = kind_in_integers(
        kind, "INT8", activations
    )
    assert {row.kernel for row in results} <= {"integer"}
    # Codes go in and come out; nothing between is float.
    inner = kinds(buffer)
    inner = inner[inner.index("QUANTIZE") :]
    assert inner.count("DEQUANTIZE") == 1 and inner[-1] == "DEQUANTIZE"
    resolver = getattr(OpResolverType, resolver)
    actual = run(buffer, inputs, experimental_op_resolver_type=resolver)["y"]
    steps = np.abs(actual - expected) / specs[-1].activation.scale
    assert steps.max() <= 1.01
    # The delegate rounds as Keras does, but for ties.
    is_delegate = resolver == OpResolverType.AUTO
    assert np.mean(steps > 0.5) <= (0.02 if is_delegate else 0.2)


def test_codes_in_and_codes_out(tmp_path):
    buffer, model, specs, inputs = converted_network("INT8", "INT8")
    _, with_floats, _ = steps_apart("INT8", "INT8", "AUTO")
    patched, _ = patch(buffer, specs, mode="integer", integer_io=True)
    path = tmp_path / "model.tflite"
    path.write_bytes(patched)
    runner = Interpreter(model_path=str(path)).get_signature_runner()
    for details in (runner.get_input_details(), runner.get_output_details()):
        (end,) = details.values()
        assert end["dtype"] == np.int8
    (subgraph,) = read_model(patched).subgraphs
    types = {tensor.type for tensor in subgraph.tensors}
    assert types == {schema.TensorType.INT8, schema.TensorType.INT32}
    # Nothing is clipped at the input, so the values are the same.
    np.testing.assert_array_equal(
        run_tflite(path, inputs), run(with_floats, inputs)["y"]
    )


def test_ends_that_are_not_quantized():
    x = keras.Input((6,), name="x")
    model = keras.Model({"x": x}, {"y": Dense(4, name="dense")(x)})
    specs = quantize(model, "INT8", "INT8")
    with pytest.raises(ValueError, match="output .* which is not"):
        patch(convert(model), specs, mode="integer", integer_io=True)
    specs = quantize(model, "INT8", "E4M3")
    with pytest.raises(ValueError, match="input .* which is not"):
        patch(convert(model), specs, mode="integer", integer_io=True)


@pytest.mark.parametrize("weights", ["INT4", "INT2"])
def test_pointwise_convolutions_of_few_bits_are_dense_layers(weights):
    buffer, (row,), inputs, expected, specs = kind_in_integers(
        "point", weights, "INT8"
    )
    assert (row.tensor_type, row.kernel) == (weights, "integer")
    assert "FULLY_CONNECTED" in kinds(buffer) and "CONV_2D" not in kinds(buffer)
    steps = np.abs(run(buffer, inputs)["y"] - expected)
    assert (steps / specs[-1].activation.scale).max() <= 1.01


@pytest.mark.parametrize(
    "weights, activations, weight_storage, reason",
    [
        ("INT2", "INT8", "compact", "no integer CONV_2D takes INT2"),
        ("E4M3", "INT8", "compact", "its weight is no"),
        ("E4M3", "INT8", "fast", "its weight is no integer"),
        ("INT8", "INT12", "compact", "its input is not quantized to an int"),
        ("INT8", "E4M3", "compact", "its input is not quantized to an int"),
    ],
)
def test_reasons_to_stay_in_float(weights, activations, weight_storage, reason):
    model = model_of("conv")
    specs = quantize(model, weights, activations)
    specs = [
        dataclasses.replace(spec, path=spec.path.split("/")[-1])
        for spec in specs
    ]
    buffer, (row,) = patch(
        convert(model), specs, mode="integer", weight_storage=weight_storage
    )
    assert row.kernel != "integer" and row.matched
    assert reason in row.reason
    inputs = random_inputs(model, batch=8)
    actual = run(buffer, inputs)["y"]
    assert difference(actual, simulate(model, inputs)["y"]) <= 1e-5


def test_ops_without_integer_kernels():
    model = model_of("transposed")
    specs = [
        dataclasses.replace(spec, path=spec.path.split("/")[-1])
        for spec in quantize(model, "INT8", "INT8")
    ]
    _, (row,) = patch(convert(model), specs, mode="integer")
    assert row.kernel == "dequantize"
    assert row.reason == (
        "in float: no op that reads its weight has an integer kernel"
    )


def test_outputs_that_nothing_quantizes():
    x = keras.Input((6,), name="x")
    model = keras.Model({"x": x}, {"y": Dense(4, name="dense")(x)})
    specs = quantize(model, "INT8", "INT8")
    _, (row,) = patch(convert(model), specs, mode="integer")
    assert "its output is not quantized" in row.reason


def test_bias_out_of_range():
    x = keras.Input((3,), name="x")
    layer = Dense(2, name="layer")
    model = keras.Model({"x": x}, {"y": Quantize(name="end")(layer(x))})
    specs = quantize(model, "INT8", "INT8")
    layer.bias.assign([1e9, 0])
    _, (row,) = patch(convert(model), specs, mode="integer")
    assert "out of the range of 32 bits" in row.reason


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
