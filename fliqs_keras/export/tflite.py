"""Export of a quantized Keras model to a LiteRT file."""

import functools
import os
from typing import Any

import keras

from fliqs_keras.export.checks import (
    check_agreement,
    check_calibrated,
    check_destination,
    check_groups,
    check_preparable,
    log_floats,
    log_sizes,
)
from fliqs_keras.export.converter import convert
from fliqs_keras.export.markers import mark
from fliqs_keras.export.patcher import patch
from fliqs_keras.export.report import ExportReport, storage_cost
from fliqs_keras.export.signature import input_specs
from fliqs_keras.export.snapshot import Snapshot
from fliqs_keras.export.verification import gather_inputs, verify_export
from fliqs_keras.files import write_atomically
from fliqs_keras.model_layers import layer_paths
from fliqs_keras.quantized_layers import quantized_layers

__all__ = ["export_tflite"]

_CHOICES = {
    "mode": ("dequantize", "integer"),
    "weight_storage": ("compact", "fast"),
}
# The mean difference that is still taken for the same numbers. Where the file
# rounds what Keras does not, or the other way round, steps differ.
_EXACT_TOLERANCE = 1e-3
_ROUNDED_TOLERANCE = 2e-2


def export_tflite(
    model: keras.Model,
    path: str | os.PathLike,
    *,
    mode: str = "dequantize",
    integer_io: bool = False,
    weight_storage: str = "compact",
    simulate_activations: bool = True,
    input_signature: Any = None,
    strip_names: bool = False,
    verify_data: Any = None,
) -> ExportReport:
    """Writes a quantized model to a LiteRT file of truly low-bit weights.

    The float graph is converted with its weights on their grids, and the
    file is rewritten so that each weight is stored as the codes of its
    format with their scales and each layer's input is quantized as in the
    Keras model. The file computes the numbers of the Keras model; a weight
    that has no low-bit storage stays float32 with the same values and is
    logged and reported.

    Args:
        model: A model from `fliqs_keras.apply`, trained or calibrated. Its
            present formats are exported. Of a search of sizes, take what
            `fliqs_keras.nas.extract` returns: the model itself has its
            largest size, which is logged.
        path: The file to write. An existing file is replaced, at the end.
        mode: `"dequantize"`: ops compute in float32 on dequantized weights
            and inputs. `"integer"`: ops whose input and output are quantized
            to integers of at most 8 bits, and whose weights are integers,
            compute in integers; the others as before.
        integer_io: Whether the file takes and returns 8-bit integers, as
            microcontrollers want it. Only in integer mode, for models whose
            inputs and outputs are quantized.
        weight_storage: `"compact"` for the fewest bytes, or `"fast"` for
            types that runtimes decode once and compute on with their fastest
            kernels. The report says what either costs.
        simulate_activations: Whether inputs in float formats are rounded to
            them, exactly, by float arithmetic; LiteRT computes in none of
            them. If not, these inputs stay float32: faster, and other numbers
            than those of the Keras model.
        input_signature: A `tf.TensorSpec` for each input, in the structure
            that the model is called with, such as one that fixes the batch
            size. Defaults to the model's inputs with an open batch size.
        strip_names: Whether tensors inside the file lose their names, which
            makes it smaller. Inputs and outputs keep theirs.
        verify_data: Inputs, as in `fliqs_keras.verify_export`, to compare the
            file with the Keras model on before it gets its name.

    Returns:
        An `ExportReport`.

    Raises:
        ValueError: If the model is not quantized, or cannot be converted or
            be run by LiteRT, if the activation thresholds of a layer were
            never set, if an argument is unknown, or if the Keras backend is
            not TensorFlow.
        RuntimeError: If the file disagrees with the Keras model on
            `verify_data`. What was at `path` is then still there.

    Example:

    >>> report = fliqs_keras.export_tflite(model, "model.tflite")
    >>> [(row.path, row.tensor_type) for row in report.layers]
    [('conv', 'INT8'), ('head', 'INT4')]
    """
    check_destination(path)
    _check_choices(mode=mode, weight_storage=weight_storage)
    if integer_io and mode != "integer":
        raise ValueError(
            "Expected `integer_io` in integer mode only. Received: "
            f"mode={mode!r}; pass mode='integer'"
        )
    layers = quantized_layers(model)
    check_calibrated(model, layers)
    check_groups(model)
    log_sizes(model)
    if verify_data is not None:
        _, verify_data = gather_inputs(model, verify_data)
    snapshot = Snapshot(layers, layer_paths(model), mark)
    specs = snapshot.specs()
    converted = convert(model, input_specs(model, input_signature), snapshot)
    patch_with = functools.partial(
        patch,
        converted,
        specs,
        mode=mode,
        simulate_floats=simulate_activations,
    )
    content, rows = patch_with(
        integer_io=integer_io,
        weight_storage=weight_storage,
        strip_names=strip_names,
    )
    # What the other choice costs is only known from what it becomes.
    costs = tuple(
        storage_cost(
            choice,
            rows
            if choice == weight_storage
            else patch_with(weight_storage=choice)[1],
        )
        for choice in _CHOICES["weight_storage"]
    )
    verification = None

    def check(temporary_path):
        nonlocal verification
        check_preparable(temporary_path)
        if verify_data is None:
            return
        is_exact = mode == "dequantize" and simulate_activations
        verification = verify_export(
            model,
            temporary_path,
            verify_data,
            tolerance=_EXACT_TOLERANCE if is_exact else _ROUNDED_TOLERANCE,
        )
        check_agreement(verification, path)

    write_atomically(path, content, check=check)
    report = ExportReport(
        layers=tuple(rows),
        file_bytes=len(content),
        mode=mode,
        weight_storage=weight_storage,
        storage_costs=costs,
        verification=verification,
    )
    log_floats(report)
    return report


def _check_choices(**choices: str) -> None:
    for name, value in choices.items():
        if value not in _CHOICES[name]:
            raise ValueError(
                f"Expected `{name}` to be one of {_CHOICES[name]}. "
                f"Received: {name}={value!r}"
            )
