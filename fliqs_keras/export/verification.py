"""Compares an exported file with its Keras model."""

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from fliqs_keras.calibration import check_no_pair
from fliqs_keras.export.differences import (
    OutputDifference,
    Outputs,
    compare,
    distance,
)
from fliqs_keras.export.following import EXAMPLES, ObservedFile, follow
from fliqs_keras.export.observing import observe_tflite
from fliqs_keras.export.onnx.observing import observe_onnx
from fliqs_keras.export.onnx.running import run_onnx
from fliqs_keras.export.precision import in_float32
from fliqs_keras.export.running import run_tflite
from fliqs_keras.export.signature import (
    flatten_inputs,
    flatten_outputs,
    input_specs,
)

__all__ = [
    "LayerwiseDifference",
    "OutputDifference",
    "VerificationReport",
    "verify_export",
]

_TOLERANCE = 1e-3
# Of the tolerance, at the quantizers of an ONNX file, which rounds nothing but
# what Keras rounds. Of right files the excess was below 1e-10, of convolutions
# in INT4 whose biases onnxruntime had rounded, above 1e-5.
_ONNX_SHARE = 1e-2
_SHOWN = 3


@dataclasses.dataclass(frozen=True)
class LayerwiseDifference:
    """How far a file is from a Keras model that takes its codes.

    Keras continues on what the file has at each quantizer, so that each part
    of the network is compared on inputs that are the same.

    Args:
        outputs: The differences, an output each.
        quantizers: By the path of each quantizer, how far the values of the
            file are from being a rounding of what Keras rounds, as a part of
            the largest: the mean, or a third of the root mean square if that
            is more. Zero where codes differ in ties alone.
    """

    outputs: tuple[OutputDifference, ...]
    quantizers: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class VerificationReport:
    """How far a file is from its Keras model.

    Args:
        examples: Number of examples that were run.
        tolerance: Difference up to which the file agrees.
        runs: The differences, an output each, of each way to run the file.
            LiteRT: `"xnnpack"`, with the default delegate, and `"builtin"`,
            by the runtime's own kernels. ONNX: `"optimized"`, in a session of
            default options, in which onnxruntime rewrites the graph, and
            `"plain"`, as it is in the file.
        layerwise: For the runs whose outputs differ by more than the
            tolerance, the differences from one quantizer to the next.
        quantizer_tolerance: Difference of a quantizer up to which it agrees.
            Defaults to `tolerance`.
    """

    examples: int
    tolerance: float
    runs: Mapping[str, tuple[OutputDifference, ...]]
    layerwise: Mapping[str, LayerwiseDifference]
    quantizer_tolerance: float | None = None

    @property
    def agrees(self) -> bool:
        """Whether each run agrees: as a whole, or layer by layer.

        A network of quantizers turns the last bit of a sum into a whole step
        wherever a value is near a tie, and what follows differs. So outputs
        may differ by more than the tolerance, if on the codes of the file
        neither outputs nor quantizers do.
        """
        return all(
            _within(rows, self.tolerance) or self._agrees_layerwise(name)
            for name, rows in self.runs.items()
        )

    def _agrees_layerwise(self, run: str) -> bool:
        found = self.layerwise.get(run)
        limit = self._quantizer_limit
        return (
            found is not None
            and _within(found.outputs, self.tolerance)
            and all(x <= limit for x in found.quantizers.values())
        )

    @property
    def _quantizer_limit(self) -> float:
        given = self.quantizer_tolerance
        return self.tolerance if given is None else given

    def render(self) -> str:
        """Returns the report as a table of text."""
        titles = f"{'argmax':>8}{'largest':>10}{'mean':>10}{'rms':>10}"
        lines = [
            f"{self.examples} examples; differences as parts of the output",
            f"{'':<10}{'output':<16}{titles}",
        ]
        for run, rows in self.runs.items():
            lines += [f"{run:<10}{_render(row)}" for row in rows]
        for run, found in self.layerwise.items():
            lines.append(f"{run}, continued on the codes of the file:")
            lines += [f"{'':<10}{_render(row)}" for row in found.outputs]
            for path, excess in _largest(found.quantizers):
                lines.append(f"{'':<10}{path:<44}{excess:>10.1e}")
        verdict = "agrees" if self.agrees else "DISAGREES"
        limits = f"{self.tolerance:.0e} of the rms"
        if self.layerwise:
            limits += f", {self._quantizer_limit:.0e} at a quantizer"
        lines.append(f"{verdict} (tolerance {limits})")
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.render()


def _within(rows: Sequence[OutputDifference], tolerance: float) -> bool:
    return all(np.isfinite(row.rms) and row.rms <= tolerance for row in rows)


def _render(row: OutputDifference) -> str:
    same = row.argmax_agreement
    argmax = "" if same is None else f"{same:.4f}"
    differences = (row.largest, row.mean, row.rms)
    columns = "".join(f"{difference:>10.1e}" for difference in differences)
    return f"{row.output:<16}{argmax:>8}{columns}"


def _largest(quantizers: Mapping[str, float]) -> list[tuple[str, float]]:
    """The quantizers that differ most, a few; what is no number first."""

    def key(item):
        return -np.nan_to_num(item[1], nan=np.inf)

    return sorted(quantizers.items(), key=key)[:_SHOWN]


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
    ONNX file with and without the optimizations of onnxruntime, and the Keras
    model op by op; in float32, as the file does, also if it is of mixed
    precision. Where the outputs differ by more than the tolerance, the few
    examples that differ most are compared from one quantizer to the next, too:
    a last bit of a sum may turn a code, and all that follows.

    Args:
        model: The model that was exported.
        path: The file.
        data: Inputs as the model takes them: an array, or a structure of
            arrays; or an iterable of batches such as a `tf.data.Dataset`,
            whose elements are inputs or tuples that begin with them. Not a
            pair of inputs and targets.
        batch_size: Examples in one call.
        tolerance: Largest root mean square of the difference, as a part of
            that of the output around its mean, with which the file agrees;
            layer by layer, also largest difference of a quantizer, of which
            ONNX files have a hundredth. Defaults to 1e-3. An export in integer
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
    specs, inputs = gather_inputs(model, data)
    fed = flatten_inputs(specs, inputs)
    runs, layerwise = {}, {}
    with in_float32(model):
        expected = _run_keras(model, inputs, batch_size)
        for name, way in _ways_to_run(path).items():
            outputs = way.run(path, fed, batch_size)
            if not isinstance(outputs, Mapping):
                outputs = {next(iter(expected)): outputs}
            runs[name] = compare(outputs, expected)
            if not _within(runs[name], tolerance):
                worst = _take_worst(inputs, outputs, expected)
                layerwise[name] = _follow(model, way.observe(path), worst, fed)
    share = 1.0 if _is_litert(path) else _ONNX_SHARE
    return VerificationReport(
        len(next(iter(fed.values()))),
        tolerance,
        runs,
        layerwise,
        quantizer_tolerance=share * tolerance,
    )


class _Way(NamedTuple):
    """How a file is run: for its outputs, and for all that it computes."""

    run: Callable[..., Any]
    observe: Callable[..., ObservedFile]


def _is_litert(path: str | os.PathLike) -> bool:
    with open(path, "rb") as file:
        return file.read(8)[4:] == b"TFL3"


def _ways_to_run(path: str | os.PathLike) -> dict[str, _Way]:
    run, observe, option, names = (
        (run_tflite, observe_tflite, "xnnpack", ("xnnpack", "builtin"))
        if _is_litert(path)
        else (run_onnx, observe_onnx, "optimize", ("optimized", "plain"))
    )
    return {
        name: _Way(
            functools.partial(run, **{option: value}),
            functools.partial(observe, **{option: value}),
        )
        for name, value in zip(names, (True, False), strict=True)
    }


def _take_worst(inputs: Any, actual: Outputs, expected: Outputs) -> Any:
    """Returns the examples whose outputs differ most, a few."""
    count = len(keras.tree.flatten(inputs)[0])
    worst = np.zeros(count)
    for name, y in expected.items():
        difference, unit = distance(actual[name], y)
        # Of outputs without examples, all of them may be to blame.
        if len(difference) == count:
            largest = difference.reshape(count, -1).max(axis=1, initial=0)
            worst = np.maximum(worst, largest / unit)
    first = np.sort(np.argsort(-worst, kind="stable")[:EXAMPLES])
    return keras.tree.map_structure(lambda x: x[first], inputs)


def _follow(
    model: keras.Model, file: ObservedFile, inputs: Any, names: Sequence[str]
) -> LayerwiseDifference:
    def run_keras(batch):
        return _run_keras(model, batch, file.batch_size)

    actual, expected, quantizers = follow(file, run_keras, inputs, list(names))
    if len(actual) == 1:
        actual = dict(zip(expected, actual.values(), strict=True))
    return LayerwiseDifference(compare(actual, expected), quantizers)


def gather_inputs(model: keras.Model, data: Any) -> tuple[Any, Any]:
    """Returns the specs of a model's inputs, and data in that structure.

    Raises:
        ValueError: If the data is empty, does not fit the model, or is a tuple
            of several that are not its inputs.
    """
    try:
        specs = input_specs(model)
    except ValueError:
        specs = input_specs(model, data)
    data = _in_structure(data, specs)
    if not _has_structure(data, specs):
        check_no_pair(data)
        batches = [b[0] if isinstance(b, tuple) else b for b in data]
        batches = [_in_structure(b, specs) for b in batches]
        if not batches:
            raise ValueError(
                "Expected data of at least one batch. Received: none"
            )
        for batch in batches:
            if not _has_structure(batch, specs):
                raise ValueError(
                    "Expected inputs, or batches of them, in the structure "
                    "that the model takes: "
                    f"{keras.tree.map_structure(str, specs)}. Received: "
                    f"{type(data).__name__} of {type(batch).__name__}"
                )
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
    """Returns inputs as the model wraps them, of what else Keras takes.

    That is an array for a list of one input, and a tuple, or a dictionary by
    name, for a list of several.
    """
    leaves = keras.tree.flatten(specs)
    if hasattr(data, "shape"):
        parts = [data]
    elif isinstance(data, Mapping) and isinstance(specs, list | tuple):
        parts = [data.get(spec.name) for spec in leaves]
    elif isinstance(data, list | tuple) and len(leaves) > 1:
        parts = list(data)
    else:
        return data
    is_whole = all(hasattr(part, "shape") for part in parts)
    if len(parts) != len(leaves) or not is_whole:
        return data
    return keras.tree.pack_sequence_as(specs, parts)


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
