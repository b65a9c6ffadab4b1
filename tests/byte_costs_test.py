"""Bytes of weights, beside what exported files hold."""

import sys

import keras
import numpy as np
import pytest
from keras import layers

import fliqs_keras
from fliqs_keras.export.flatbuffer import read_model
from fliqs_keras.export.graph import Graph
from recipes import models


def test_bytes_worked_by_hand():
    x = keras.Input((5,), dtype="int32")
    y = layers.Embedding(7, 3, name="table")(x)
    model = keras.Model(x, layers.Dense(4, name="head")(y))
    model = fliqs_keras.apply(model, ["INT2", "INT3", "E4M3", "INT9", "FP16"])
    # Codes and a scale of 4 bytes a channel: 21 codes in 3 channels and 12
    # codes in 4. FP16 has no scale.
    expected = {
        "INT2": (6 + 12, 3 + 16),
        "INT3": (11 + 12, 6 + 16),
        "E4M3": (21 + 12, 12 + 16),
        "INT9": (42 + 12, 24 + 16),
        "FP16": (42, 24),
    }
    cost = fliqs_keras.WeightBytes()
    for name, (table, _) in expected.items():
        for other, (_, other_head) in expected.items():
            chosen = {"table": name, "head": other}
            assert cost(model, chosen) == table + other_head


@pytest.mark.tensorflow
@pytest.mark.parametrize("name", ["INT2", "INT4"])
@pytest.mark.parametrize("columns", [4, 5])
def test_tables_take_what_the_file_holds(columns, name, tmp_path):
    x = keras.Input((3,), dtype="int32")
    model = keras.Model(x, layers.Embedding(100, columns)(x))
    model = fliqs_keras.apply(model, name)
    path = tmp_path / "model.tflite"
    report = fliqs_keras.export_tflite(model, path)
    # Of an odd number of columns nothing is looked up, and 2 bits are kept.
    bits = 2 if name == "INT2" and columns % 2 else 4
    codes = 100 * columns * bits // 8
    assert fliqs_keras.WeightBytes()(model) == codes + 4 * columns
    assert report.weight_bytes == codes
    buffers = read_model(path.read_bytes()).buffers
    sizes = [len(b.data) for b in buffers if b.data is not None]
    assert codes in sizes


@pytest.mark.parametrize(
    "arguments", [{"weight_storage": "small"}, {"mode": "float"}], ids=str
)
def test_unknown_arguments_are_refused(arguments):
    with pytest.raises(ValueError, match="Received"):
        fliqs_keras.WeightBytes(**arguments)


ASSIGNMENTS = 2
FORMATS = ["INT2", "INT4", "INT6", "INT8", "E2M1", "E4M3"]


def weight_bytes_of(path):
    """Codes and scales of weights, counted in the file."""
    model = read_model(path.read_bytes())
    graph = Graph(model, model.subgraphs[0])
    readers = graph.consumers()
    total = 0
    for op in graph.ops:
        for tensor in op.inputs:
            decoded = graph.kind(op) in ("CAST", "DEQUANTIZE")
            if decoded and graph.is_constant(tensor):
                values = model.buffers[
                    model.subgraphs[0].tensors[tensor].buffer
                ].data
                total += len(values)
                stored = graph.quantization(tensor)
                scales = [] if stored is None else stored.scale
                total += 4 * len(scales) if len(scales) > 1 else 0
                total += factor_bytes(graph, readers, op)
    return total


def factor_bytes(graph, readers, op):
    """Of the factors behind a look-up."""
    while True:
        (following,) = readers[op.outputs[0]]
        if graph.kind(following) == "MUL":
            return 4 * int(np.prod(graph.shape(following.inputs[1])))
        if graph.kind(following) not in ("CAST", "GATHER"):
            return 0
        op = following


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "network", ["conv_net", "narrow_resnet", "separable_net"]
)
def test_files_hold_these_bytes(network, tmp_path):
    keras.utils.set_random_seed(0)
    model = models.build(network, (16, 16, 1), 10)
    model = fliqs_keras.apply(model, FORMATS)
    images = np.random.default_rng(0).normal(size=(4, 16, 16, 1))
    fliqs_keras.calibrate(model, images.astype("float32"))
    names = list(fliqs_keras.FormatAssignment.from_model(model))
    generator = np.random.default_rng(0)
    path = tmp_path / "model.tflite"
    for _ in range(ASSIGNMENTS):
        chosen = dict(
            zip(names, generator.choice(FORMATS, len(names)), strict=True)
        )
        fliqs_keras.FormatAssignment(chosen).apply_to(model)
        fliqs_keras.export_tflite(model, path)
        expected = fliqs_keras.WeightBytes()(model)
        assert weight_bytes_of(path) == pytest.approx(expected, rel=0.01)


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
