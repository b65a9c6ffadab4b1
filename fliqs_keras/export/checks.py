"""What every export checks, before and after."""

import os
import pathlib

import keras
from absl import logging

from fliqs_keras import _keras
from fliqs_keras.assignments import decisions
from fliqs_keras.export.report import ExportReport
from fliqs_keras.export.running import prepare
from fliqs_keras.export.verification import VerificationReport
from fliqs_keras.quantized_layers import QuantizedLayer


def check_destination(path: str | os.PathLike) -> None:
    """Checks that a file can be exported to a path.

    Raises:
        ValueError: If the Keras backend is not TensorFlow, or if the folder
            is not there.
    """
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "Expected the TensorFlow backend to export from. Received: "
            f"{keras.backend.backend()!r}. Save the model, and load and export "
            "it under KERAS_BACKEND=tensorflow"
        )
    folder = pathlib.Path(path).absolute().parent
    if not folder.is_dir() or pathlib.Path(path).is_dir():
        raise ValueError(
            "Expected the path of a file in a folder that exists. Received: "
            f"{os.fspath(path)!r}"
        )


def check_calibrated(model: keras.Model, layers: list[QuantizedLayer]) -> None:
    """Checks that a model is quantized and all its thresholds are set.

    Raises:
        ValueError: If not.
    """
    decisions(model)
    uncalibrated = [
        layer.quantize_config.decision
        for layer in layers
        if not all(quantizer.is_calibrated for quantizer in layer.quantizers())
    ]
    if uncalibrated:
        raise ValueError(
            "Expected a model whose activation thresholds are set. Received: "
            f"layers {uncalibrated} that have seen no data. Train the model, "
            "or call `fliqs_keras.calibrate(model, data)`"
        )


def check_groups(model: keras.Model) -> None:
    """Checks that runtimes have the convolutions of a model.

    The converters write grouped ones over volumes as if they had one group.

    Raises:
        ValueError: If not.
    """
    grouped = [
        layer.path
        for layer in _keras.flatten_layers(model)
        if isinstance(layer, keras.layers.Conv3D) and layer.groups > 1
    ]
    if grouped:
        raise ValueError(
            "Expected Conv3D layers of one group, as runtimes have no others. "
            f"Received: {grouped} of several. Split the channels, convolve "
            "the parts and concatenate them, or leave these layers out of the "
            "model and run them outside the file"
        )


def check_preparable(path: str | os.PathLike) -> None:
    """Checks that LiteRT has kernels that take what they are given.

    Raises:
        ValueError: If not.
    """
    try:
        prepare(path)
    except RuntimeError as error:
        raise ValueError(
            "Expected a model of ops that LiteRT can run. Received: "
            f"{error}. Replace the layer that needs them, or leave it out of "
            "the model and run it outside the file. If the model takes some "
            "batch sizes only, fix one by `input_signature`"
        ) from error


def log_sizes(model: keras.Model) -> None:
    """Logs that a model is exported at its largest, if it could be smaller."""
    sized = [d.name for d in decisions(model) if not d.is_about_format]
    if sized:
        logging.warning(
            "Model %r is exported at its largest size, with zeros where %s "
            "leave nothing. Export what `fliqs_keras.nas.extract` returns.",
            model.name,
            sized,
        )


def check_agreement(
    verification: VerificationReport, path: str | os.PathLike
) -> None:
    """Checks that a file computes what the Keras model does.

    Raises:
        RuntimeError: If not.
    """
    if not verification.agrees:
        raise RuntimeError(
            "Expected a file that computes what the Keras model does. "
            f"Received:\n{verification}\n{os.fspath(path)!r} was not written. "
            "Export without `verify_data` to look into the file"
        )


def log_floats(report: ExportReport) -> None:
    """Logs the weights that could not be stored in low bits."""
    for row in report.left_in_float:
        logging.warning(
            "Layer %r (%s) is stored as %s: %s",
            row.path,
            row.format,
            row.tensor_type,
            row.reason,
        )
