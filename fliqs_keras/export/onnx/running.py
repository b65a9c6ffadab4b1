"""Runs an exported ONNX file."""

import os
from collections.abc import Mapping

import numpy as np

from fliqs_keras.export.onnx.converter import require

__all__ = ["EXACT_OPTIONS", "run_onnx"]

EXACT_OPTIONS = {
    # Where only the weights of a dense layer are quantized, its input would
    # be rounded to 8 bits.
    "session.qdq_matmulnbits_accuracy_level": "1",
}


def run_onnx(
    path: str | os.PathLike,
    inputs: np.ndarray | Mapping[str, np.ndarray],
    batch_size: int = 64,
    *,
    optimize: bool = True,
) -> np.ndarray | dict[str, np.ndarray]:
    """Runs an ONNX file on arrays, with onnxruntime on the CPU.

    The session has the entries of `EXACT_OPTIONS`, without which onnxruntime
    trades the right numbers for speed.

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
    runtime = require("onnxruntime")
    options = runtime.SessionOptions()
    for key, value in EXACT_OPTIONS.items():
        options.add_session_config_entry(key, value)
    if not optimize:
        options.graph_optimization_level = (
            runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
        )
    session = runtime.InferenceSession(
        os.fspath(path), options, providers=["CPUExecutionProvider"]
    )
    names = [x.name for x in session.get_inputs()]
    if not isinstance(inputs, Mapping) and len(names) == 1:
        inputs = {names[0]: inputs}
    if not isinstance(inputs, Mapping) or set(inputs) != set(names):
        received = sorted(inputs) if isinstance(inputs, Mapping) else "an array"
        raise ValueError(
            f"Expected arrays for the inputs {sorted(names)} of the file. "
            f"Received: {received}"
        )
    count = len(next(iter(inputs.values())))
    if not count:
        raise ValueError("Expected at least one example. Received: none")
    batches = [
        session.run(None, {k: x[i : i + batch_size] for k, x in inputs.items()})
        for i in range(0, count, batch_size)
    ]
    outputs = {
        output.name: np.concatenate(parts)
        for output, parts in zip(
            session.get_outputs(), zip(*batches, strict=True), strict=True
        )
    }
    return next(iter(outputs.values())) if len(outputs) == 1 else outputs
