"""Runs an exported file."""

import os
from collections.abc import Mapping

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from fliqs_keras.export.batches import run_in_batches

__all__ = ["TfliteFile", "prepare", "run_tflite"]

_BUILTIN = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES


def run_tflite(
    path: str | os.PathLike,
    inputs: np.ndarray | Mapping[str, np.ndarray],
    batch_size: int = 64,
    *,
    xnnpack: bool = True,
) -> np.ndarray | dict[str, np.ndarray]:
    """Runs a LiteRT file on arrays.

    An 8-bit integer input or output is quantized, or dequantized, by its own
    scale, so that values are always those of the Keras model. Inputs of the
    integer type of the file are codes already.

    Args:
        path: The file.
        inputs: Examples, the batch first; a dictionary by the names of the
            inputs if there are several.
        batch_size: Examples in one call. A file of a fixed batch size is run
            at that one.
        xnnpack: Whether the default delegate may take over ops. Without, the
            runtime's built-in kernels compute everything.

    Returns:
        The output, the batch first; a dictionary by name if there are
        several.

    Raises:
        ValueError: If the file has other inputs than `inputs`, or if there
            are no examples.
    """
    file = TfliteFile(xnnpack, model_path=os.fspath(path))
    return run_in_batches(
        file.run, file.inputs, inputs, batch_size, file.fixed_batch_size
    )


class TfliteFile:
    """An open file, called by the names of its inputs and outputs.

    Args:
        xnnpack: Whether the default delegate may take over ops.
        **source: `model_path` or `model_content`, as LiteRT's interpreter
            takes them.

    Attributes:
        inputs: What LiteRT tells of the inputs, by name.
        fixed_batch_size: Examples in one call; `None` if any number may be.
    """

    def __init__(self, xnnpack: bool, **source: str | bytes):
        resolver = OpResolverType.AUTO if xnnpack else _BUILTIN
        interpreter = Interpreter(
            experimental_op_resolver_type=resolver, **source
        )
        self._runner = interpreter.get_signature_runner()
        self.inputs = self._runner.get_input_details()
        self._outputs = self._runner.get_output_details()
        signatures = [d["shape_signature"] for d in self.inputs.values()]
        sizes = {int(s[0]) for s in signatures if len(s)}
        is_fixed = bool(sizes) and min(sizes) > 0
        self.fixed_batch_size = max(sizes) if is_fixed else None

    def run(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Runs the file once; takes and returns arrays by name."""
        fed = {
            name: _quantize(x, self.inputs[name]) for name, x in batch.items()
        }
        outputs = self._runner(**fed)
        return {
            name: _dequantize(y, self._outputs[name])
            for name, y in outputs.items()
        }


def prepare(path: str | os.PathLike) -> None:
    """Has the built-in kernels look at what they are given, but not run.

    Of an open batch size, one example. Where other sizes are open, nothing is
    known of what kernels are given.

    Args:
        path: The file.

    Raises:
        RuntimeError: If a kernel does not take it.
    """
    interpreter = Interpreter(
        os.fspath(path), experimental_op_resolver_type=_BUILTIN
    )
    inputs = interpreter.get_input_details()
    if all(np.all(details["shape_signature"][1:] > 0) for details in inputs):
        interpreter.allocate_tensors()


def _quantize(x: np.ndarray, details: dict) -> np.ndarray:
    scale, zero_point = details["quantization"]
    dtype = details["dtype"]
    # Codes are taken as they are; other integers are read as numbers.
    if not scale or x.dtype == dtype:
        return x.astype(dtype)
    limits = np.iinfo(dtype)
    codes = np.rint(x / np.float32(scale)) + zero_point
    return np.clip(codes, limits.min, limits.max).astype(dtype)


def _dequantize(y: np.ndarray, details: dict) -> np.ndarray:
    scale, zero_point = details["quantization"]
    if not scale:
        return y
    return (y.astype(np.float32) - zero_point) * np.float32(scale)
