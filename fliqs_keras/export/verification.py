"""Compares an exported file with its Keras model."""

import dataclasses
import functools
import itertools
import os
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from fliqs_keras.export.onnx.running import run_onnx
from fliqs_keras.export.precision import in_float32
from fliqs_keras.export.running import run_tflite
from fliqs_keras.export.signature import (
    flatten_inputs,
    flatten_outputs,
    input_specs,
)

__all__ = ["OutputDifference", "VerificationReport", "verify_export"]

Outputs = Mapping[str, np.ndarray]

_TOLERANCE = 1e-3
# Keras differs from itself by so much from one compiler to another.
_NOISE_MARGIN = 2.0


@dataclasses.dataclass(frozen=True)
class OutputDifference:
    """How far one output is from that of the Keras model.

    Args:
        output: Name of the output.
        argmax_agreement: Part of the positions at which the largest element
            along the last axis is the same one; `None` if the last axis has
            one element.
        largest: Largest difference, as a part of the range of the output.
        mean: Mean difference, as a part of the range of the output.
    """

    output: str
    argmax_agreement: float | None
    largest: float
    mean: float


@dataclasses.dataclass(frozen=True)
class VerificationReport:
    """How far a file is from its Keras model.

    Args:
        examples: Number of examples that were run.
        tolerance: Mean difference up to which the file agrees.
        runs: The differences, an output each, of each way to run the file.
            LiteRT: `"xnnpack"`, with the default delegate, and `"builtin"`,
            by the runtime's own kernels. ONNX: `"optimized"`, the graph
            rewritten by the runtime, and `"plain"`, as it is in the file.
        keras_noise: Those of the Keras model compiled by XLA, from itself run
            op by op: what the order of additions alone makes. Empty where
            XLA cannot compile the model.
    """

    examples: int
    tolerance: float
    runs: Mapping[str, tuple[OutputDifference, ...]]
    keras_noise: tuple[OutputDifference, ...]

    @property
    def agrees(self) -> bool:
        """Whether each mean difference is within the tolerance.

        Or within twice Keras's own noise: a network of quantizers turns the
        last bit of a sum into a whole step wherever a value is near a tie.
        """
        noise = {row.output: row.mean for row in self.keras_noise}
        return all(
            np.isfinite(row.mean)
            and row.mean
            <= max(self.tolerance, _NOISE_MARGIN * noise.get(row.output, 0.0))
            for row in itertools.chain(*self.runs.values())
        )

    def render(self) -> str:
        """Returns the report as a table of text."""
        lines = [
            f"{self.examples} examples; differences as parts of the output "
            "range",
            f"{'':<10}{'output':<16}{'argmax':>8}{'largest':>10}{'mean':>10}",
        ]
        noise = {"noise": self.keras_noise}
        for label, rows in {**self.runs, **noise}.items():
            for row in rows:
                same = row.argmax_agreement
                argmax = "" if same is None else f"{same:.4f}"
                lines.append(
                    f"{label:<10}{row.output:<16}"
                    f"{argmax:>8}{row.largest:>10.1e}{row.mean:>10.1e}"
                )
        verdict = "agrees" if self.agrees else "DISAGREES"
        lines.append(f"{verdict} (tolerance {self.tolerance:.0e} of the mean)")
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.render()


def verify_export(
    model: keras.Model,
    path: str | os.PathLike,
    data: Any,
    *,
    batch_size: int = 64,
    tolerance: float = _TOLERANCE,
) -> VerificationReport:
    """Runs a file beside its Keras model and compares the outputs.

    A LiteRT file runs with and without the default delegate (XNNPACK), an
    ONNX file with and without the optimizations of onnxruntime. The Keras
    model runs op by op, and compiled by XLA to see how far it is
    from itself; in float32, as the file does, also if it is of mixed
    precision.

    Args:
        model: The model that was exported.
        path: The file.
        data: Inputs as the model takes them: an array, or a structure of
            arrays; or an iterable of batches such as a `tf.data.Dataset`,
            whose elements are inputs or tuples that begin with them.
        batch_size: Examples in one call.
        tolerance: Largest mean difference, as a part of the output range,
            with which the file agrees. Defaults to 1e-3. An export in integer
            mode rounds sums that the Keras model does not: allow more.

    Returns:
        A `VerificationReport`.

    Raises:
        ValueError: If the data is empty or does not fit the model, if the
            outputs of file and model are not of the same names and shapes, or
            if the Keras backend is not TensorFlow.

    Example:

    >>> report = fliqs_keras.verify_export(model, "model.tflite", x_test[:256])
    >>> report.agrees, report.runs["xnnpack"][0].argmax_agreement
    (True, 1.0)
    """
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "Expected the TensorFlow backend to verify a file on. Received: "
            f"{keras.backend.backend()!r}. Load the model under "
            "KERAS_BACKEND=tensorflow"
        )
    specs, inputs = _gather(model, data)
    fed = flatten_inputs(specs, inputs)
    with in_float32(model):
        expected = _run_keras(model, inputs, batch_size)
        compiled = _run_compiled(model, inputs, batch_size)
    runs = {}
    for name, run in _ways_to_run(path).items():
        outputs = run(path, fed, batch_size)
        if not isinstance(outputs, Mapping):
            outputs = {next(iter(expected)): outputs}
        runs[name] = _compare(outputs, expected)
    return VerificationReport(
        len(next(iter(fed.values()))),
        tolerance,
        runs,
        keras_noise=() if compiled is None else _compare(compiled, expected),
    )


def _ways_to_run(path: str | os.PathLike) -> dict[str, Callable]:
    with open(path, "rb") as file:
        is_litert = file.read(8)[4:] == b"TFL3"
    if is_litert:
        return {
            "xnnpack": run_tflite,
            "builtin": functools.partial(run_tflite, xnnpack=False),
        }
    return {
        "optimized": run_onnx,
        "plain": functools.partial(run_onnx, optimize=False),
    }


def _gather(model: keras.Model, data: Any) -> tuple[Any, Any]:
    """The specs of the inputs, and their values in that structure."""
    try:
        specs = input_specs(model)
    except ValueError:
        specs = input_specs(model, data)
    data = _in_structure(data, specs)
    if not _has_structure(data, specs):
        batches = [b[0] if isinstance(b, tuple) else b for b in data]
        batches = [_in_structure(b, specs) for b in batches]
        if not batches:
            raise ValueError(
                "Expected data of at least one batch. Received: none"
            )
        for batch in batches:
            keras.tree.assert_same_structure(batch, specs)
        data = keras.tree.map_structure(
            lambda *parts: np.concatenate([np.asarray(p) for p in parts]),
            *batches,
        )
    data = keras.tree.map_structure(
        lambda spec, x: np.asarray(x, spec.dtype.as_numpy_dtype), specs, data
    )
    counts = {len(x) for x in keras.tree.flatten(data)}
    if len(counts) != 1 or 0 in counts:
        raise ValueError(
            "Expected as many examples for each input, at least one. "
            f"Received: {sorted(counts)}"
        )
    return specs, data


def _in_structure(data: Any, specs: Any) -> Any:
    """Returns an array for a single input as the model wraps it."""
    # Keras takes it so, too: of a model made of a list of one input.
    if hasattr(data, "shape") and len(keras.tree.flatten(specs)) == 1:
        return keras.tree.pack_sequence_as(specs, [data])
    return data


def _has_structure(data: Any, specs: Any) -> bool:
    try:
        keras.tree.assert_same_structure(data, specs)
    except (ValueError, TypeError):
        return False
    return all(hasattr(x, "shape") for x in keras.tree.flatten(data))


def _run_keras(
    model: Callable, inputs: Any, batch_size: int
) -> dict[str, np.ndarray]:
    """Runs the model, on batches of one size."""
    count = len(keras.tree.flatten(inputs)[0])
    size = min(batch_size, count)
    batches = []
    for start in range(0, count, size):
        # The last batch is filled up with examples that come before it.
        start = min(start, count - size)
        batch = keras.tree.map_structure(
            lambda x, start=start: x[start : start + size], inputs
        )
        outputs = flatten_outputs(model(batch, training=False))
        batches.append({name: np.asarray(y) for name, y in outputs.items()})
    overlap = -count % size
    return {
        name: np.concatenate(
            [*(b[name] for b in batches[:-1]), batches[-1][name][overlap:]]
        )
        for name in batches[0]
    }


def _run_compiled(
    model: keras.Model, inputs: Any, batch_size: int
) -> dict[str, np.ndarray] | None:
    """The outputs of the model compiled by XLA, where it can be."""
    compiled = tf.function(model, jit_compile=True, autograph=False)
    try:
        return _run_keras(compiled, inputs, batch_size)
    except tf.errors.OpError as error:
        logging.info("XLA cannot compile the model: %s", error)
        return None


def _compare(
    actual: Outputs, expected: Outputs
) -> tuple[OutputDifference, ...]:
    shapes = {name: y.shape for name, y in expected.items()}
    actual_shapes = {name: y.shape for name, y in actual.items()}
    if actual_shapes != shapes:
        raise ValueError(
            f"Expected a file of the model's outputs, {shapes}. Received: one "
            f"that returns {actual_shapes}"
        )
    return tuple(
        _difference(name, actual[name], expected[name]) for name in expected
    )


def _difference(
    name: str, actual: np.ndarray, expected: np.ndarray
) -> OutputDifference:
    agreement = None
    if expected.ndim > 1 and expected.shape[-1] > 1:
        agreement = float(np.mean(actual.argmax(-1) == expected.argmax(-1)))
    actual, expected = actual.astype("f8"), expected.astype("f8")
    finite = expected[np.isfinite(expected)]
    output_range = (np.ptp(finite) if finite.size else 0.0) or 1.0
    # Equal infinities agree; what is not a number agrees with nothing.
    with np.errstate(invalid="ignore"):
        difference = np.where(actual == expected, 0, np.abs(actual - expected))
    difference[np.isnan(difference)] = np.inf
    return OutputDifference(
        name,
        agreement,
        largest=float(difference.max() / output_range),
        mean=float(difference.mean() / output_range),
    )
