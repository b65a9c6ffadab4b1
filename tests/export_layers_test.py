"""Layers of each kind in each format: converted, patched and run."""

import functools
import sys
from functools import partial

import keras
import pytest
from keras import layers

from fliqs_keras.export.patcher import patch
from tests.export_markers_test import (
    Conv1D,
    Conv2D,
    Conv2DTranspose,
    Conv3D,
    Dense,
    DepthwiseConv2D,
    EinsumDense,
    SeparableConv2D,
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
    "image": (9, 9, 4),
    "sequence": (7, 5),
    "vector": (6,),
    "volume": (5, 5, 5, 2),
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
    inputs = {k: keras.Input(shape, name=k) for k, shape in INPUTS.items()}
    outputs = {}
    for kind in kinds:
        source, make_layer, following = KINDS[kind]
        x = make_layer(name=kind)(inputs[source])
        for make_next in following:
            x = make_next()(x)
        outputs[kind] = x
    used = {KINDS[kind][0] for kind in kinds}
    return keras.Model({k: inputs[k] for k in INPUTS if k in used}, outputs)


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


@pytest.mark.parametrize("kind", KINDS)
def test_fast_storage(kind):
    kinds = CORE if kind in CORE else OTHERS
    check_branch(kinds, kind, "E4M3", "FLOAT16", "fast")


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
