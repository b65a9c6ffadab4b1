"""Markers, and small models of marked layers to try the exporter on.

Weights and layer inputs are put on their grids by NumPy and ml_dtypes, so that
what a file computes can be compared with Keras in float32.
"""

import contextlib
import dataclasses
import functools
import sys

import keras
import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from keras import layers

from fliqs_keras.export import converter
from fliqs_keras.export.flatbuffer import read_model
from fliqs_keras.export.markers import MARKER, mark, read_path
from fliqs_keras.export.signature import input_specs
from fliqs_keras.export.specs import ActivationSpec, LayerSpec, WeightSpec
from fliqs_keras.formats import parse_format
from fliqs_keras.quantized_layers import CallHook

FLOAT_TYPES = {
    "E2M1": ml_dtypes.float4_e2m1fn,
    "E2M3": ml_dtypes.float6_e2m3fn,
    "E3M2": ml_dtypes.float6_e3m2fn,
    "E4M3": ml_dtypes.float8_e4m3fn,
    "E5M2": ml_dtypes.float8_e5m2,
    "FP16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "FP32": np.float32,
}


def round_to_codes(u, name):
    """Independent of the library: `u` clipped and rounded to the grid."""
    if name in FLOAT_TYPES:
        dtype = FLOAT_TYPES[name]
        limit = float(ml_dtypes.finfo(dtype).max)
        return np.clip(u, -limit, limit).astype(dtype).astype(np.float32)
    limit = 2 ** (int(name[3:]) - 1) - 1
    return np.clip(np.rint(u), -limit, limit).astype(np.float32)


class _Marked:
    """A layer that marks, rounds or passes its first input."""

    mode = "float"
    marked_path = None
    activation_spec = None

    def enter(self, x):
        if _Marked.mode == "export":
            x = mark(x, self.marked_path or self.path)
        elif _Marked.mode != "float" and self.activation_spec is not None:
            if _Marked.mode == "calibrate":
                format = self.activation_spec.format
                largest = np.abs(x.numpy()).max()
                self.activation_spec = ActivationSpec(
                    format, float(largest / np.float32(format.max_code))
                )
            scale = np.float32(self.activation_spec.scale)
            codes = round_to_codes(
                x.numpy() / scale, self.activation_spec.format.name
            )
            x = tf.constant(codes * scale)
        return x


def marked(cls):
    # Keras reads the names of the arguments.
    @functools.wraps(cls.call)
    def call(self, x, *args, **kwargs):
        return cls.call(self, self.enter(x), *args, **kwargs)

    return type(cls.__name__, (_Marked, cls), {"call": call})


Dense = marked(layers.Dense)
Conv1D = marked(layers.Conv1D)
Conv2D = marked(layers.Conv2D)
DepthwiseConv2D = marked(layers.DepthwiseConv2D)
SeparableConv2D = marked(layers.SeparableConv2D)
Conv2DTranspose = marked(layers.Conv2DTranspose)
Conv1DTranspose = marked(layers.Conv1DTranspose)
Conv3D = marked(layers.Conv3D)
Conv3DTranspose = marked(layers.Conv3DTranspose)
DepthwiseConv1D = marked(layers.DepthwiseConv1D)
EinsumDense = marked(layers.EinsumDense)
Embedding = marked(layers.Embedding)
GRU = marked(layers.GRU)
LSTM = marked(layers.LSTM)
SeparableConv1D = marked(layers.SeparableConv1D)
SimpleRNN = marked(layers.SimpleRNN)


@contextlib.contextmanager
def mode(name):
    _Marked.mode = name
    try:
        yield
    finally:
        _Marked.mode = "float"


def channel_axis(variable, layer):
    is_depthwise = isinstance(
        layer, layers.DepthwiseConv1D | layers.DepthwiseConv2D
    )
    if is_depthwise or "depthwise" in variable.name:
        return len(variable.shape) - 2
    if "Transpose" in type(layer).__name__:
        return len(variable.shape) - 2
    return len(variable.shape) - 1


def quantize_weight(layer, variable, name, rng):
    """Puts a variable on the grid of a format, and describes it."""
    format = parse_format(name)
    axis = channel_axis(variable, layer) if format.scaled else None
    values = rng.normal(size=variable.shape).astype(np.float32)
    scale = np.ones(1, np.float32)
    if axis is not None:
        others = tuple(a for a in range(values.ndim) if a != axis)
        largest = np.abs(values).max(axis=others, keepdims=True)
        # A threshold under the largest weight, so that some are clipped.
        scale = (0.8 * largest / format.max_code).astype(np.float32)
    codes = round_to_codes(values / scale, name)
    variable.assign(codes * scale)
    return WeightSpec(format, codes, scale.reshape(-1), axis)


def quantize(model, weights, activations=None, seed=0):
    """Quantizes all marked layers; returns their specs."""
    rng = np.random.default_rng(seed)
    specs = []
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            for variable in layer.weights:
                variable.assign(rng.uniform(0.5, 2, variable.shape))
            layer.gamma.assign(
                rng.choice([-1.5, -0.3, 0.4, 1], layer.gamma.shape)
            )
        elif isinstance(layer, _Marked):
            if getattr(layer, "bias", None) is not None:
                layer.bias.assign(rng.normal(size=layer.bias.shape))
            name = weights if isinstance(weights, str) else weights[layer.name]
            kernels = [v for v in layer.weights if "bias" not in v.name]
            is_table = isinstance(layer, layers.Embedding)
            if activations is not None and not is_table:
                format = parse_format(activations)
                scale = 2.7 / format.max_code if format.scaled else 1.0
                layer.activation_spec = ActivationSpec(format, scale)
            specs.append(
                LayerSpec(
                    layer.path,
                    tuple(
                        quantize_weight(layer, k, name, rng) for k in kernels
                    ),
                    layer.activation_spec,
                )
            )
    return specs


def calibrate(model, inputs, specs):
    """Sets the scales so that nothing is clipped; returns the new specs."""
    with mode("calibrate"):
        model(inputs)
    activations = {
        layer.path: layer.activation_spec
        for layer in model.layers
        if isinstance(layer, _Marked)
    }
    return [
        dataclasses.replace(spec, activation=activations[spec.path])
        for spec in specs
    ]


def convert(model):
    """Converts a marked model to a LiteRT file."""
    with mode("export"):
        return converter.convert(model, input_specs(model), CallHook())


def run(buffer, inputs, **options):
    """Runs a file by its signature; returns its outputs by name."""
    interpreter = Interpreter(model_content=buffer, **options)
    return interpreter.get_signature_runner()(**inputs)


def constants(buffer):
    """Type and bytes of each constant in a file."""
    model = schema.ModelT.InitFromPackedBuf(buffer)
    names = {v: k for k, v in vars(schema.TensorType).items()}
    sizes = [0 if b.data is None else len(b.data) for b in model.buffers]
    tensors = [t for graph in model.subgraphs for t in graph.tensors]
    return {(names[t.type], sizes[t.buffer]) for t in tensors}


def random_inputs(model, batch=2):
    rng = np.random.default_rng(1)
    inputs = {}
    for x in model.inputs:
        shape = (batch, *x.shape[1:])
        is_float = "float" in x.dtype
        values = (
            rng.normal(size=shape) if is_float else rng.integers(7, size=shape)
        )
        inputs[x.name] = values.astype(x.dtype)
    return inputs


def simulate(model, inputs):
    with mode("quantized"):
        outputs = model(inputs)
    return {name: np.asarray(y) for name, y in outputs.items()}


def difference(actual, expected):
    """Largest difference, as a part of the output range."""
    assert actual.shape == expected.shape
    return np.max(np.abs(actual - expected)) / np.ptp(expected)


def model_of_one_layer(path="layer"):
    class MarkedUnder(layers.Dense):
        def call(self, x):
            return super().call(
                mark(x, path) if _Marked.mode == "export" else x
            )

    x = keras.Input((3,), name="x")
    return keras.Model({"x": x}, {"y": MarkedUnder(2)(x)})


@pytest.mark.parametrize("path", ["a/b_1", 'a "b" \\ c\n', "größe/層"])
def test_marker_carries_path(path):
    model = read_model(convert(model_of_one_layer(path)))
    marker = model.subgraphs[0].operators[0]
    assert model.operatorCodes[marker.opcodeIndex].customCode == MARKER.encode()
    assert read_path(bytes(marker.customOptions)) == path


def test_marked_file_does_not_run():
    buffer = convert(model_of_one_layer())
    with pytest.raises(RuntimeError, match=MARKER):
        Interpreter(model_content=buffer).allocate_tensors()


def test_mark_passes_values_and_shape():
    x = tf.constant([[1.0, -2.0]])
    assert mark(x, "layer").numpy().tolist() == [[1.0, -2.0]]
    assert mark(x, "layer").shape == (1, 2)


def test_layers_that_were_never_built_have_no_path():
    with pytest.raises(ValueError, match="path=None"):
        mark(tf.zeros(3), layers.Identity().path)


@pytest.mark.parametrize("options", [b"", b"other", b"\x00" * 9])
def test_options_of_other_ops(options):
    with pytest.raises(ValueError, match="the path of a layer"):
        read_path(options)


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
