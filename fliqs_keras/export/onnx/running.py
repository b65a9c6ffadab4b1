"""Runs an exported ONNX file."""

import os
from collections.abc import Mapping

import numpy as np

from fliqs_keras.export.batches import run_in_batches
from fliqs_keras.export.onnx.converter import require

__all__ = ["OnnxFile", "run_onnx"]


def run_onnx(
    path: str | os.PathLike,
    inputs: np.ndarray | Mapping[str, np.ndarray],
    batch_size: int = 64,
    *,
    optimize: bool = True,
) -> np.ndarray | dict[str, np.ndarray]:
    """Runs an ONNX file on arrays, with onnxruntime on the CPU.

    The session is one of default options, unless `optimize` is `False`.

    Args:
        path: The file.
        inputs: Examples, the batch first; a dictionary by the names of the
            inputs if there are several.
        batch_size: Examples in one call.
        optimize: Whether the runtime may rewrite the graph, such as to
            compute on codes.

    Returns:
        The output, the batch first; a dictionary by name if there are
        several.

    Raises:
        ImportError: If onnxruntime is not installed.
        ValueError: If the file has other inputs than `inputs`, or if there
            are no examples.
    """
    file = OnnxFile(os.fspath(path), optimize=optimize)
    return run_in_batches(
        file.run, file.inputs, inputs, batch_size, file.fixed_batch_size
    )


class OnnxFile:
    """An open file, called by the names of its inputs and outputs.

    Args:
        source: Its path or its content.
        optimize: Whether the runtime may rewrite the graph.

    Attributes:
        inputs: Names of the inputs.
        fixed_batch_size: Examples in one call; `None` if any number may be.
    """

    def __init__(self, source: str | bytes, *, optimize: bool):
        runtime = require("onnxruntime")
        options = runtime.SessionOptions()
        if not optimize:
            options.graph_optimization_level = (
                runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
            )
        self._session = runtime.InferenceSession(
            source, options, providers=["CPUExecutionProvider"]
        )
        types = {x.name: x.type for x in self._session.get_inputs()}
        self.inputs = list(types)
        self._dtypes = {name: _dtype(kind) for name, kind in types.items()}
        self._outputs = [x.name for x in self._session.get_outputs()]
        sizes = [x.shape[0] for x in self._session.get_inputs() if x.shape]
        # An open size has a name, or none.
        fixed = [size for size in sizes if isinstance(size, int)]
        is_fixed = bool(sizes) and len(fixed) == len(sizes)
        self.fixed_batch_size = max(fixed) if is_fixed else None

    def run(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Runs the file once; takes and returns arrays by name."""
        fed = {name: x.astype(self._dtypes[name]) for name, x in batch.items()}
        found = self._session.run(None, fed)
        return dict(zip(self._outputs, found, strict=True))


def _dtype(kind: str) -> np.dtype:
    """Returns what NumPy calls a type such as `tensor(float)`."""
    name = kind.removeprefix("tensor(").removesuffix(")")
    return np.dtype({"float": "float32", "double": "float64"}.get(name, name))
