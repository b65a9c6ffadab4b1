"""Runs an exported file."""

import os
from collections.abc import Mapping

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType

__all__ = ["run_tflite"]


def run_tflite(
    path: str | os.PathLike,
    inputs: np.ndarray | Mapping[str, np.ndarray],
    batch_size: int = 64,
    *,
    xnnpack: bool = True,
) -> np.ndarray | dict[str, np.ndarray]:
    """Runs a LiteRT file on arrays.

    An 8-bit integer input or output is quantized, or dequantized, by its own
    scale, so that values are always those of the Keras model.

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
    outputs = _File(path, xnnpack).run(inputs, batch_size)
    return next(iter(outputs.values())) if len(outputs) == 1 else outputs


class _File:
    """An open file, called by the names of its inputs and outputs."""

    def __init__(self, path: str | os.PathLike, xnnpack: bool):
        resolver = (
            OpResolverType.AUTO
            if xnnpack
            else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        )
        interpreter = Interpreter(
            model_path=os.fspath(path), experimental_op_resolver_type=resolver
        )
        self._runner = interpreter.get_signature_runner()
        self._inputs = self._runner.get_input_details()
        self._outputs = self._runner.get_output_details()

    def run(
        self,
        inputs: np.ndarray | Mapping[str, np.ndarray],
        batch_size: int,
    ) -> dict[str, np.ndarray]:
        if not isinstance(inputs, Mapping) and len(self._inputs) == 1:
            inputs = {name: inputs for name in self._inputs}
        if not isinstance(inputs, Mapping) or set(inputs) != set(self._inputs):
            raise ValueError(
                f"Expected arrays for the inputs {sorted(self._inputs)} of "
                f"the file. Received: {_describe(inputs)}"
            )
        count = len(next(iter(inputs.values())))
        if not count:
            raise ValueError("Expected at least one example. Received: none")
        batch_size = self._fixed_batch_size() or min(batch_size, count)
        batches = [
            self._run_batch(
                {k: x[start : start + batch_size] for k, x in inputs.items()},
                batch_size,
            )
            for start in range(0, count, batch_size)
        ]
        return {
            name: np.concatenate([batch[name] for batch in batches])[:count]
            for name in self._outputs
        }

    def _fixed_batch_size(self) -> int | None:
        signatures = [d["shape_signature"] for d in self._inputs.values()]
        sizes = {int(s[0]) for s in signatures if len(s)}
        return max(sizes) if sizes and min(sizes) > 0 else None

    def _run_batch(
        self, inputs: Mapping[str, np.ndarray], size: int
    ) -> dict[str, np.ndarray]:
        fed = {
            name: _quantize(_fill_up(np.asarray(x), size), self._inputs[name])
            for name, x in inputs.items()
        }
        outputs = self._runner(**fed)
        return {
            name: _dequantize(y, self._outputs[name])
            for name, y in outputs.items()
        }


def _describe(inputs: np.ndarray | Mapping[str, np.ndarray]) -> str:
    if isinstance(inputs, Mapping):
        return f"arrays for {sorted(inputs)}"
    return f"one array of shape {np.shape(inputs)}"


def _fill_up(batch: np.ndarray, size: int) -> np.ndarray:
    """Repeats the last example, so that no other shape is compiled for."""
    missing = size - len(batch)
    if not missing:
        return batch
    return np.concatenate([batch, np.repeat(batch[-1:], missing, axis=0)])


def _quantize(x: np.ndarray, details: dict) -> np.ndarray:
    scale, zero_point = details["quantization"]
    dtype = details["dtype"]
    if not scale or np.issubdtype(x.dtype, np.integer):
        return x.astype(dtype)
    limits = np.iinfo(dtype)
    codes = np.rint(x / np.float32(scale)) + zero_point
    return np.clip(codes, limits.min, limits.max).astype(dtype)


def _dequantize(y: np.ndarray, details: dict) -> np.ndarray:
    scale, zero_point = details["quantization"]
    if not scale:
        return y.copy()
    return (y.astype(np.float32) - zero_point) * np.float32(scale)
