"""Layers of each kind in each format: converted, patched and run."""

import functools
import sys
from functools import partial

import keras
import pytest
from keras import layers

from fliqs_keras.export.flatbuffer import read_model
from fliqs_keras.export.patcher import patch
from tests.export_markers_test import (
    GRU,
    LSTM,
    Conv1D,
    Conv1DTranspose,
    Conv2D,
    Conv2DTranspose,
    Conv3D,
    Conv3DTranspose,
    Dense,
    DepthwiseConv1D,
    DepthwiseConv2D,
    EinsumDense,
    Embedding,
    SeparableConv1D,
    SeparableConv2D,
    SimpleRNN,
    constants,
    convert,
    difference,
    quantize,
    random_inputs,
    run,
    simulate,
)

TENSOR_TYPES = {
    "INT2": "INT2",
    "INT3": "INT4",
    "INT4": "INT4",
    "INT6": "INT8",
    "INT8": "INT8",
    "INT12": "INT16",
    "INT16": "INT16",
    "E2M1": "INT4",
    "E2M3": "INT8",
    "E3M2": "UINT8",
    "E4M3": "UINT8",
    "E5M2": "UINT8",
    "FP16": "FLOAT16",
    "BF16": "BFLOAT16",
    "FP32": "FLOAT32",
}
norm = layers.BatchNormalization

INPUTS = {
    "image": keras.Input((9, 9, 4), name="image"),
    "sequence": keras.Input((7, 5), name="sequence"),
    "tokens": keras.Input((5,), name="tokens", dtype="int32"),
    "vector": keras.Input((6,), name="vector"),
    "volume": keras.Input((5, 5, 5, 2), name="volume"),
}
# An input, the marked layer that reads it, and what follows that.
KINDS = {
    "dense": ("vector", partial(Dense, 5, activation="relu"), []),
    "dense_3d": ("sequence", partial(Dense, 5), []),
    "dense_one": ("vector", partial(Dense, 1), []),
    "conv_1d": ("sequence", partial(Conv1D, 6, 1), [norm]),
    "conv_1d_causal": (
        "sequence",
        partial(Conv1D, 6, 3, padding="causal", dilation_rate=2),
        [],
    ),
    "conv_strided": (
        "image",
        partial(Conv2D, 6, 3, strides=2, padding="same"),
        [norm, layers.ReLU],
    ),
    "conv_dilated": ("image", partial(Conv2D, 5, 3, dilation_rate=2), [norm]),
    "conv_grouped": (
        "image",
        partial(Conv2D, 6, 3, groups=2),
        [norm, layers.ReLU],
    ),
    "depthwise": ("image", partial(DepthwiseConv2D, 3, padding="same"), [norm]),
    "depthwise_times_2": (
        "image",
        partial(DepthwiseConv2D, 3, depth_multiplier=2, strides=2),
        [norm],
    ),
    "depthwise_dilated": (
        "image",
        partial(DepthwiseConv2D, 3, dilation_rate=2),
        [norm],
    ),
    "separable": (
        "image",
        partial(SeparableConv2D, 5, 3, depth_multiplier=2),
        [norm],
    ),
    "separable_dilated": (
        "image",
        partial(SeparableConv2D, 5, 3, dilation_rate=2),
        [],
    ),
    "transpose": ("image", partial(Conv2DTranspose, 6, 3, strides=2), [norm]),
    "conv_1d_transpose": (
        "sequence",
        partial(Conv1DTranspose, 6, 3, strides=2),
        [norm],
    ),
    "depthwise_1d": ("sequence", partial(DepthwiseConv1D, 3), [norm]),
    "separable_1d": ("sequence", partial(SeparableConv1D, 6, 3), [norm]),
    "conv_3d_transpose": ("volume", partial(Conv3DTranspose, 4, 3), []),
    "embedding": ("tokens", partial(Embedding, 7, 6), []),
    "lstm": ("sequence", partial(LSTM, 4), []),
    "gru": ("sequence", partial(GRU, 4), []),
    "rnn": ("sequence", partial(SimpleRNN, 4, return_sequences=True), []),
    "conv_3d": ("volume", partial(Conv3D, 4, 3), [norm]),
    "einsum": (
        "sequence",
        partial(EinsumDense, "abc,cde->abde", (None, 2, 3)),
        [],
    ),
    "einsum_batch": (
        "sequence",
        partial(EinsumDense, "abc,bcd->abd", (7, 3)),
        [],
    ),
}


def build(kinds):
    """One model with a branch for each kind."""
    outputs = {}
    for kind in kinds:
        source, make_layer, following = KINDS[kind]
        x = make_layer(name=kind)(INPUTS[source])
        for make_next in following:
            x = make_next()(x)
        outputs[kind] = x
    used = {KINDS[kind][0] for kind in kinds}
    inputs = {k: x for k, x in INPUTS.items() if k in used}
    return keras.Model(inputs, outputs)


@functools.cache
def converted_branches(kinds, name):
    model = build(kinds)
    specs = quantize(model, name, name)
    return convert(model), model, specs


@functools.cache
def patched_branches(kinds, name, weight_storage):
    """The outputs of file and simulation, results and constants of a model."""
    converted, model, specs = converted_branches(kinds, name)
    buffer, results = patch(converted, specs, weight_storage=weight_storage)
    inputs = random_inputs(model)
    outputs = run(buffer, inputs), simulate(model, inputs)
    return *outputs, results, constants(buffer)


def check_branch(kinds, kind, name, tensor_type, weight_storage="compact"):
    actual, expected, results, stored = patched_branches(
        kinds, name, weight_storage
    )
    rows = [row for row in results if row.path == kind]
    assert rows
    for row in rows:
        assert (row.matched, row.reason) == (True, "")
        assert row.tensor_type == tensor_type
        assert (row.tensor_type, row.bytes) in stored
    assert difference(actual[kind], expected[kind]) <= 1e-5


# All formats where they are used most; the rest in one of each storage.
CORE = tuple(
    "dense dense_3d conv_strided conv_dilated depthwise_times_2".split()
)
OTHERS = tuple(kind for kind in KINDS if kind not in CORE)


@pytest.mark.parametrize("name", TENSOR_TYPES)
@pytest.mark.parametrize("kind", CORE)
def test_every_format(kind, name):
    check_branch(CORE, kind, name, TENSOR_TYPES[name])


@pytest.mark.parametrize("name", ["INT4", "E4M3", "INT16"])
@pytest.mark.parametrize("kind", OTHERS)
def test_every_kind_of_layer(kind, name):
    check_branch(OTHERS, kind, name, TENSOR_TYPES[name])


def converted_table(name, columns=6):
    tokens = keras.Input((5,), name="tokens", dtype="int32")
    table = Embedding(7, columns)
    model = keras.Model({"tokens": tokens}, {"y": table(tokens)})
    specs = quantize(model, name)
    return convert(model), model, specs


@pytest.mark.parametrize("name", ["INT4", "INT8", "INT16", "E2M1", "E4M3"])
def test_only_the_rows_looked_up_are_decoded(name):
    buffer, model, specs = converted_table(name)
    patched, _ = patch(buffer, specs)
    (subgraph,) = read_model(patched).subgraphs
    table = [t for t in subgraph.tensors if tuple(t.shape) == (7, 6)]
    assert len(table) == 1
    index = subgraph.tensors.index(table[0])
    (reader,) = [op for op in subgraph.operators if index in op.inputs]
    assert tuple(subgraph.tensors[reader.outputs[0]].shape) == (1, 5, 6)
    inputs = random_inputs(model)
    actual = run(patched, inputs)
    assert difference(actual["y"], simulate(model, inputs)["y"]) <= 1e-6


def test_tables_of_two_bits_take_four():
    buffer, model, specs = converted_table("INT2")
    patched, (row,) = patch(buffer, specs)
    assert (row.tensor_type, row.bytes, row.ideal_bits) == ("INT4", 21, 84)
    assert row.reason == "no runtime looks up INT2"
    inputs = random_inputs(model)
    actual = run(patched, inputs)
    assert difference(actual["y"], simulate(model, inputs)["y"]) <= 1e-6


@pytest.mark.parametrize(
    "name, tensor_type",
    [("INT2", "INT2"), ("INT4", "INT4"), ("E2M1", "INT4"), ("INT8", "INT8")],
)
@pytest.mark.parametrize("columns", [1, 5])
def test_tables_of_odd_rows(columns, name, tensor_type):
    buffer, model, specs = converted_table(name, columns)
    patched, (row,) = patch(buffer, specs)
    assert (row.tensor_type, row.reason) == (tensor_type, "")
    inputs = random_inputs(model)
    actual = run(patched, inputs)
    assert difference(actual["y"], simulate(model, inputs)["y"]) <= 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_fast_storage(kind):
    kinds = CORE if kind in CORE else OTHERS
    check_branch(kinds, kind, "E4M3", "FLOAT16", "fast")


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
