"""Runs an exported ONNX file, and shows what it rounds on the way."""

import os
from typing import Any

import numpy as np

from fliqs_keras.export.following import ObservedFile
from fliqs_keras.export.onnx.activations import PREFIX
from fliqs_keras.export.onnx.converter import require
from fliqs_keras.export.onnx.running import OnnxFile

__all__ = ["observe_onnx"]


def observe_onnx(
    path: str | os.PathLike, *, optimize: bool = True
) -> ObservedFile:
    """Opens an ONNX file, and a copy that returns what it quantizes.

    Args:
        path: The file.
        optimize: Whether the runtime may rewrite the graph.

    Returns:
        An `ObservedFile`, which shows the quantized activations.
    """
    onnx = require("onnx")
    model = onnx.load(os.fspath(path))
    exposed = _quantized_tensors(model.graph)
    known = {output.name for output in model.graph.output}
    for name in exposed:
        if name not in known:
            # The runtime infers the rest.
            model.graph.output.append(onnx.ValueInfoProto(name=name))
    file = OnnxFile(os.fspath(path), optimize=optimize)
    copy = OnnxFile(model.SerializeToString(), optimize=optimize)

    def observe(batch):
        found = copy.run(batch)
        return [
            found[name]
            if parameters is None
            else _dequantize(found[name], *parameters)
            for name, parameters in exposed.items()
        ]

    return ObservedFile(file.fixed_batch_size or 1, file.run, observe)


def _quantized_tensors(graph: Any) -> dict[str, tuple | None]:
    """Returns what the quantized activations of a graph are called.

    Each with its scale and zero point if it is one of codes. The codes are
    those to look at: the runtime computes on them, where it can, and not on
    what they stand for.
    """
    to_array = require("onnx").numpy_helper.to_array
    constants = {tensor.name: tensor for tensor in graph.initializer}
    last = {}
    for node in graph.node:
        is_decoding = node.op_type == "DequantizeLinear"
        for name in node.output:
            if name.startswith(PREFIX) and not is_decoding:
                last[name.rsplit("/", 1)[0]] = node
    found = {}
    for node in last.values():
        parameters = None
        if node.op_type == "QuantizeLinear":
            parameters = [to_array(constants[name]) for name in node.input[1:]]
        found[node.output[0]] = parameters
    return found


def _dequantize(
    codes: np.ndarray, scale: np.ndarray, zero_point: np.ndarray
) -> np.ndarray:
    return (codes.astype("float32") - zero_point.astype("float32")) * scale
