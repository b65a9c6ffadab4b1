"""Nodes and constants for an ONNX graph."""

from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np

from fliqs_keras.export.onnx.converter import require

__all__ = ["NodeWriter"]

# Of QuantizeLinear and DequantizeLinear of these types.
_FIRST_OPSETS = {
    np.dtype(ml_dtypes.float8_e4m3fn): 19,
    np.dtype(ml_dtypes.float8_e5m2): 19,
    np.dtype(ml_dtypes.int4): 21,
    np.dtype(np.int16): 21,
    np.dtype(ml_dtypes.int2): 25,
}


class NodeWriter:
    """Writes nodes and constants for a graph.

    Args:
        prefix: What the names of new tensors begin with.

    Attributes:
        nodes: The nodes so far.
        constants: The constants so far, as `TensorProto`s.
        opset: The first version of ONNX that takes them all.
    """

    def __init__(self, prefix: str):
        self._onnx = require("onnx")
        self._names = _count_up(prefix)
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.opset = 0

    def constant(self, value: np.ndarray) -> str:
        """Adds a constant; returns its name."""
        name = next(self._names)
        value = np.asarray(value)
        tensor = self._onnx.numpy_helper.from_array(value, name)
        self.constants.append(tensor)
        self.opset = max(self.opset, _FIRST_OPSETS.get(value.dtype, 0))
        return name

    def node(self, kind: str, *inputs: str | np.float32, **attributes) -> str:
        """Adds a node of tensors (by name) and numbers; returns its output."""
        names = [x if isinstance(x, str) else self.constant(x) for x in inputs]
        output = next(self._names)
        self.nodes.append(
            self._onnx.helper.make_node(kind, names, [output], **attributes)
        )
        return output

    def cast(self, x: str, tensor_type: str) -> str:
        """Adds a Cast to a type, such as `"FLOAT"`."""
        if tensor_type.startswith("FLOAT8"):
            self.opset = max(self.opset, 19)
        to = getattr(self._onnx.TensorProto, tensor_type)
        return self.node("Cast", x, to=to)


def _count_up(prefix: str) -> Iterator[str]:
    number = 0
    while True:
        yield f"{prefix}/{number}"
        number += 1
