"""Whole models, and what may go wrong: converted, patched and run."""

import functools
import sys

import keras
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from keras import layers

from fliqs_keras.export.flatbuffer import read_model, write_model
from fliqs_keras.export.graph import Graph, Quantization
from fliqs_keras.export.patcher import patch
from fliqs_keras.export.specs import LayerSpec, WeightSpec
from tests.export_markers_test import (
    Conv2D,
    Dense,
    DepthwiseConv2D,
    constants,
    convert,
    difference,
    quantize,
    random_inputs,
    run,
    simulate,
)

norm = layers.BatchNormalization


def residual_network():
    image = keras.Input((12, 12, 3), name="image")
    vector = keras.Input((4,), name="vector")
    x = Conv2D(8, 3, padding="same", use_bias=False, name="stem")(image)
    x = layers.ReLU(6.0)(norm()(x))
    y = DepthwiseConv2D(3, padding="same", use_bias=False, name="depth")(x)
    y = layers.ReLU()(norm()(y))
    y = Conv2D(8, 1, use_bias=False, name="point")(y)
    x = layers.MaxPooling2D()(layers.Add()([x, norm()(y)]))
    x = Conv2D(6, 3, strides=2, name="down")(x)
    features = layers.GlobalAveragePooling2D()(layers.ReLU()(norm()(x)))
    joined = layers.Concatenate()([features, vector])
    classes = Dense(5, activation="softmax", name="head")(joined)
    outputs = {"classes": classes, "features": features}
    return keras.Model({"image": image, "vector": vector}, outputs)


@functools.cache
def converted_network():
    model = residual_network()
    formats = {
        "stem": "INT8",
        "depth": "E4M3",
        "point": "INT4",
        "down": "E2M1",
        "head": "BF16",
    }
    specs = quantize(model, formats, "E3M2")
    return convert(model), model, specs


@pytest.mark.parametrize(
    "resolver", ["AUTO", "BUILTIN_WITHOUT_DEFAULT_DELEGATES"]
)
@pytest.mark.parametrize("weight_storage", ["compact", "fast"])
def test_network_of_mixed_formats(weight_storage, resolver):
    buffer, model, specs = converted_network()
    patched, results = patch(buffer, specs, weight_storage=weight_storage)
    assert all(row.matched for row in results)
    inputs = random_inputs(model, batch=3)
    resolver = getattr(OpResolverType, resolver)
    actual = run(patched, inputs, experimental_op_resolver_type=resolver)
    expected = simulate(model, inputs)
    for name in expected:
        assert difference(actual[name], expected[name]) <= 1e-5


def test_fast_storage_widens():
    buffer, _, specs = converted_network()
    _, results = patch(buffer, specs, weight_storage="fast")
    assert {row.path: row.tensor_type for row in results} == {
        "stem": "INT8",
        "depth": "FLOAT16",
        "point": "INT8",
        "down": "INT8",
        "head": "BFLOAT16",
    }


def test_names_can_be_stripped():
    buffer, _, specs = converted_network()
    named, results = patch(buffer, specs)
    stripped, stripped_results = patch(buffer, specs, strip_names=True)
    assert stripped_results == results
    assert len(stripped) < len(named)
    assert Interpreter(model_content=stripped).get_signature_list()


def test_shared_layer_and_shared_constant():
    x = keras.Input((6,), name="x")
    shared = Dense(6, name="shared", use_bias=False)
    twin = Dense(6, name="twin", use_bias=False)
    plain = layers.Dense(6, use_bias=False)
    outputs = {"y": shared(shared(x)), "z": twin(x), "w": plain(x)}
    model = keras.Model({"x": x}, outputs)
    specs = quantize(model, "INT4")
    for layer in (twin, plain):
        layer.kernel.assign(shared.kernel)
    specs[1] = LayerSpec("twin", specs[0].weights, None)
    buffer, results = patch(convert(model), specs)
    inputs = random_inputs(model)
    actual, expected = run(buffer, inputs), simulate(model, inputs)
    for name in expected:
        assert difference(actual[name], expected[name]) <= 1e-6
    assert [row.matched for row in results] == [True, True]
    # The plain layer has the same constant, so it has the same codes.
    assert ("INT4", 18) in constants(buffer)
    assert ("FLOAT32", 4 * 36) not in constants(buffer)


def test_use_of_a_layer_that_is_lost():
    x = keras.Input((6,), name="x")
    layer, other = Dense(5, name="layer"), Dense(5, name="other")
    model = keras.Model({"x": x}, {"y": layer(x), "z": other(x)})
    specs = quantize(model, "INT8")
    other.marked_path = layer.path
    _, (row,) = patch(convert(model), specs[:1])
    assert not row.matched
    assert (row.tensor_type, row.bytes) == ("INT8", 30)
    assert row.reason == "float32 at 1 of 2 uses of the layer"


def test_constants_are_aligned():
    buffer, _, specs = converted_network()
    content = np.frombuffer(patch(buffer, specs)[0], np.uint8)
    model = schema.Model.GetRootAs(content, 0)
    buffers = [model.Buffers(i) for i in range(model.BuffersLength())]
    arrays = [b.DataAsNumpy() for b in buffers if not b.DataIsNone()]
    assert len(arrays) > 10
    assert {(a.ctypes.data - content.ctypes.data) % 16 for a in arrays} == {0}


def test_equal_vectors_of_numbers_are_written_once():
    model = read_model(converted_network()[0])
    graph = Graph(model, model.subgraphs[0])
    scale = np.linspace(1, 2, 40)
    codes = [
        graph.add_constant(
            np.full((40, 3), i, np.int8),
            "INT8",
            quantization=Quantization(scale),
        )
        for i in range(1, 4)
    ]
    # Something has to refer to them.
    for tensor in codes:
        graph.ops[0].inputs.append(tensor)
    content = write_model(model)
    length = (40).to_bytes(4, "little")
    assert content.count(length + bytes(8 * 40)) == 1
    assert content.count(length + scale.astype("<f4").tobytes()) == 1
    read = read_model(content).subgraphs[0].tensors
    scales = [t.quantization.scale for t in read if tuple(t.shape) == (40, 3)]
    assert len(scales) == 3
    np.testing.assert_array_equal(scales, [scale.astype("f4")] * 3)


def test_channels_that_vanish():
    x = keras.Input((4, 4, 3), name="x")
    conv, batch_norm = Conv2D(5, 3, name="conv"), norm()
    model = keras.Model({"x": x}, {"y": batch_norm(conv(x))})
    (spec,) = quantize(model, "INT3")
    (weight,) = spec.weights
    # One channel has no code but zero, another is folded to zero.
    weight.codes[..., 0] = 0
    conv.kernel.assign(weight.codes * weight.scale)
    batch_norm.gamma.assign([1, 0, -1, 2, 0.5])
    buffer, (row,) = patch(convert(model), [spec])
    assert row.matched and row.tensor_type == "INT4"
    inputs = random_inputs(model)
    actual, expected = run(buffer, inputs), simulate(model, inputs)
    assert difference(actual["y"], expected["y"]) <= 1e-6


def test_unmatched_weight_stays_float_and_is_reported():
    buffer, model, specs = converted_network()
    kernel = specs[0].weights[0]
    other = WeightSpec(kernel.format, kernel.codes[::-1], kernel.scale, 3)
    lost = LayerSpec("elsewhere", (kernel,), None)
    changed = [
        LayerSpec("stem", (other,), specs[0].activation),
        *specs[1:],
        lost,
    ]
    patched, results = patch(buffer, changed)
    rows = {row.path: row for row in results}
    assert not rows["stem"].matched
    assert (rows["stem"].tensor_type, rows["stem"].kernel) == (
        "FLOAT32",
        "float",
    )
    assert "CONV_2D with weights of shape (8, 3, 3, 3)" in rows["stem"].reason
    assert "not in the file" in rows["elsewhere"].reason
    assert rows["elsewhere"].bytes == 0
    assert rows["down"].matched
    Interpreter(model_content=patched).allocate_tensors()


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda buffer, specs: (b"not a file", specs), "b'not a fi'"),
        (lambda buffer, specs: (buffer[:200], specs), "cannot be parsed"),
        (lambda buffer, specs: (buffer, specs[1:]), "a marker of 'stem'"),
        (lambda buffer, specs: (buffer, [*specs, specs[0]]), "several for"),
    ],
    ids=["other_file", "cut_file", "no_spec", "two_specs"],
)
def test_errors_say_what_was_wrong(change, message):
    buffer, _, specs = converted_network()
    with pytest.raises(ValueError, match=message):
        patch(*change(buffer, specs))


def test_unknown_weight_storage():
    buffer, _, specs = converted_network()
    with pytest.raises(ValueError, match="'tiny'"):
        patch(buffer, specs, weight_storage="tiny")


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
