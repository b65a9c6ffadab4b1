"""Recipes for ai-edge-quantizer, carried out by it."""

import json
import sys

import keras
import numpy as np
import pytest
from ai_edge_quantizer import quantizer
from keras import layers

import fliqs_keras
from fliqs_keras.export.flatbuffer import read_model
from fliqs_keras.export.graph import Graph

ASSIGNMENT = {
    "stem": "INT8",
    "depth": "INT6",
    "point": "INT4",
    "hidden": "INT2",
    "half": "FP16",
    "head": "INT4",
}
# Of the weights of each, in the file.
TYPES = {
    "stem": "INT8",
    "depth": "INT8",
    "point": "INT4",
    "hidden": "INT2",
    "half": "FLOAT16",
    "head": "INT4",
}


@pytest.fixture(scope="module")
def float_path(tmp_path_factory):
    keras.utils.set_random_seed(0)
    x = image = keras.Input((12, 12, 3), name="image")
    x = layers.Conv2D(8, 3, name="stem", activation="relu")(x)
    x = layers.DepthwiseConv2D(3, name="depth")(x)
    x = layers.BatchNormalization()(x)
    x = layers.Conv2D(16, 1, name="point", activation="relu")(x)
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dense(32, name="hidden")(x)
    x = layers.Dense(8, name="half")(x)
    # Its name begins as another's does.
    x = layers.Dense(8, name="half_not")(x)
    model = keras.Model(image, layers.Dense(4, name="head")(x))
    path = tmp_path_factory.mktemp("float") / "model.tflite"
    model.export(str(path), format="litert", verbose=False)
    return str(path)


def quantize(path, recipe):
    quantizing = quantizer.Quantizer(path)
    quantizing.load_quantization_recipe(json.loads(json.dumps(recipe)))
    calibration = None
    if quantizing.need_calibration:
        rng = np.random.default_rng(0)
        images = rng.normal(size=(4, 1, 12, 12, 3)).astype("float32")
        calibration = quantizing.calibrate(
            {"serving_default": [{"image": image} for image in images]}
        )
    model = read_model(bytes(quantizing.quantize(calibration).quantized_model))
    return Graph(model, model.subgraphs[0])


def weight_types(graph):
    """The type of the weights of each layer, by the name of their tensor."""
    types = {}
    for op in graph.ops:
        for tensor in op.inputs:
            name = graph.name(tensor).decode()
            if not graph.is_constant(tensor) or len(graph.shape(tensor)) < 2:
                continue
            for layer in [*ASSIGNMENT, "half_not"]:
                if f"/{layer}_1/" in name:
                    types[layer] = graph.type_name(tensor)
    return types


def test_weights_alone(float_path):
    recipe = fliqs_keras.to_ai_edge_quantizer_recipe(ASSIGNMENT)
    graph = quantize(float_path, recipe)
    assert weight_types(graph) == {**TYPES, "half_not": "FLOAT32"}
    assert [graph.kind(op) for op in graph.ops].count("DEQUANTIZE") == 6


@pytest.mark.filterwarnings("ignore:.*experimental_preserve_all_tensors")
@pytest.mark.parametrize("bits, name", [(8, "INT8"), (16, "INT16")])
def test_activations_too(bits, name, float_path):
    assignment = {"stem": "INT8", "head": "INT8"}
    recipe = fliqs_keras.to_ai_edge_quantizer_recipe(assignment, bits)
    graph = quantize(float_path, recipe)
    types = weight_types(graph)
    assert types["stem"] == types["head"] == "INT8"
    assert types["point"] == "FLOAT32"
    convolutions = [op for op in graph.ops if graph.kind(op) == "CONV_2D"]
    assert graph.type_name(convolutions[0].outputs[0]) == name


def test_fp32_stays_float(float_path):
    recipe = fliqs_keras.to_ai_edge_quantizer_recipe(
        {"stem": "FP32", "head": "INT8"}
    )
    types = weight_types(quantize(float_path, recipe))
    assert (types["stem"], types["head"]) == ("FLOAT32", "INT8")


def test_names_that_keras_gives_are_told_apart(tmp_path):
    keras.utils.clear_session()
    inputs = keras.Input((32,))
    chain = [layers.Dense(units) for units in (40, 48, 56, 64)]
    model = keras.Sequential([inputs, *chain])
    path = tmp_path / "model.tflite"
    model.export(str(path), format="litert", verbose=False)
    # "dense" stays in float.
    names = {layer.name: "INT4" for layer in chain[1::2]}
    graph = quantize(str(path), fliqs_keras.to_ai_edge_quantizer_recipe(names))
    types = {
        graph.shape(tensor)[0]: graph.type_name(tensor)
        for op in graph.ops
        for tensor in op.inputs
        if graph.is_constant(tensor) and len(graph.shape(tensor)) == 2
    }
    assert types == {40: "FLOAT32", 48: "INT4", 56: "FLOAT32", 64: "INT4"}


@pytest.mark.parametrize("name", ["E4M3", "INT9", "BF16"])
def test_formats_it_lacks_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} for 'conv'"):
        fliqs_keras.to_ai_edge_quantizer_recipe({"conv": name})


def test_decisions_on_inputs_and_sizes_are_left_out():
    of_weights = {"stem": "INT8", "head": "INT4"}
    others = {
        "stem:width": 8,
        "head:input": "E4M3",
        "stem+head:input": "BF16",
        "*:activations": "E4M3",
    }
    assert fliqs_keras.to_ai_edge_quantizer_recipe(
        {**of_weights, **others}
    ) == fliqs_keras.to_ai_edge_quantizer_recipe(of_weights)


def test_decisions_of_several_layers_are_rules_for_each():
    assert fliqs_keras.to_ai_edge_quantizer_recipe(
        {"a+b": "INT4", "c": "INT8"}
    ) == fliqs_keras.to_ai_edge_quantizer_recipe(
        {"a": "INT4", "b": "INT4", "c": "INT8"}
    )
    with pytest.raises(ValueError, match=r"of \['block_\*'\]"):
        fliqs_keras.to_ai_edge_quantizer_recipe({"block_*": "INT4"})


def test_other_activation_bits_are_refused():
    with pytest.raises(ValueError, match="activation_bits=4"):
        fliqs_keras.to_ai_edge_quantizer_recipe({"conv": "INT8"}, 4)


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
