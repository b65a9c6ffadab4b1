"""Export of a quantized Keras model to an ONNX file."""

import os
from typing import Any

import keras

from fliqs_keras.export.checks import (
    check_agreement,
    check_calibrated,
    check_destination,
    check_groups,
    log_floats,
    log_sizes,
)
from fliqs_keras.export.onnx.converter import convert, mark, require
from fliqs_keras.export.onnx.patcher import patch
from fliqs_keras.export.report import ExportReport
from fliqs_keras.export.signature import input_specs
from fliqs_keras.export.snapshot import Snapshot
from fliqs_keras.export.verification import gather_inputs, verify_export
from fliqs_keras.files import write_atomically
from fliqs_keras.model_layers import layer_paths
from fliqs_keras.quantized_layers import quantized_layers

__all__ = ["export_onnx"]


def export_onnx(
    model: keras.Model,
    path: str | os.PathLike,
    *,
    input_signature: Any = None,
    verify_data: Any = None,
) -> ExportReport:
    """Writes a quantized model to an ONNX file of truly low-bit weights.

    Weights are stored as the codes of their formats behind DequantizeLinear;
    inputs of layers go through QuantizeLinear and DequantizeLinear, and
    through float arithmetic in formats that runtimes lack. Runtimes compute
    on the codes where they can.

    The file has the lowest version of ONNX that its types allow: opset 18,
    19 with E4M3 and E5M2, 21 with INT4 and 16-bit integers, 25 with INT2.

    Needs the extra `onnx`.

    Args:
        model: A model from `fliqs_keras.apply`, trained or calibrated. Its
            present formats are exported. Of a search of sizes, take what
            `fliqs_keras.nas.extract` returns: the model itself has its
            largest size, which is logged.
        path: The file to write. An existing file is replaced, at the end.
        input_signature: A `tf.TensorSpec` for each input, in the structure
            that the model is called with. Defaults to the model's inputs
            with an open batch size.
        verify_data: Inputs, as in `fliqs_keras.verify_export`, to compare the
            file with the Keras model on before it gets its name.

    Returns:
        An `ExportReport`.

    Raises:
        ImportError: If onnx or tf2onnx is not installed.
        ValueError: If the model is not quantized or cannot be converted, if
            the activation thresholds of a layer were never set, if an output
            is called as an input, or if the Keras backend is not TensorFlow.
        RuntimeError: If the file disagrees with the Keras model on
            `verify_data`. What was at `path` is then still there.

    Example:

    >>> report = fliqs_keras.export_onnx(model, "model.onnx")
    >>> [(row.path, row.tensor_type) for row in report.layers]
    [('conv', 'INT8'), ('head', 'INT4')]
    """
    check_destination(path)
    layers = quantized_layers(model)
    check_calibrated(model, layers)
    check_groups(model)
    log_sizes(model)
    if verify_data is not None:
        _, verify_data = gather_inputs(model, verify_data)
    snapshot = Snapshot(layers, layer_paths(model), mark)
    converted = convert(model, input_specs(model, input_signature), snapshot)
    rows = patch(converted, snapshot.specs())
    require("onnx").checker.check_model(converted)
    content = converted.SerializeToString()
    verification = None

    def verify(temporary_path):
        nonlocal verification
        verification = verify_export(model, temporary_path, verify_data)
        check_agreement(verification, path)

    write_atomically(
        path, content, check=None if verify_data is None else verify
    )
    report = ExportReport(
        layers=tuple(rows), file_bytes=len(content), verification=verification
    )
    log_floats(report)
    return report
