"""Runs an exported file beside its Keras model."""

import os

import numpy as np
from ai_edge_litert.interpreter import Interpreter

__all__ = ["run_tflite"]


def run_tflite(
    path: str | os.PathLike, inputs: np.ndarray, batch_size: int = 64
) -> np.ndarray:
    """Runs a LiteRT file of one input and one output on an array.

    Args:
        path: The file.
        inputs: Examples, the batch first.
        batch_size: Examples in one call.

    Returns:
        The outputs, the batch first.

    Raises:
        ValueError: If the file does not have one input and one output.
    """
    interpreter = Interpreter(model_path=os.fspath(path))
    (input_, *more_inputs) = interpreter.get_input_details()
    (output, *more_outputs) = interpreter.get_output_details()
    if more_inputs or more_outputs:
        raise ValueError(
            "Expected a file of one input and one output. Received: "
            f"{1 + len(more_inputs)} and {1 + len(more_outputs)}"
        )
    outputs = []
    for start in range(0, len(inputs), batch_size):
        batch = np.asarray(inputs[start : start + batch_size], input_["dtype"])
        interpreter.resize_tensor_input(input_["index"], batch.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(input_["index"], batch)
        interpreter.invoke()
        outputs.append(interpreter.get_tensor(output["index"]).copy())
    return np.concatenate(outputs)
