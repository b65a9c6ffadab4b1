"""Export of a quantized Keras model to a LiteRT file."""

import dataclasses
import os
import tempfile

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from fliqs_keras import _keras
from fliqs_keras.assignments import decisions
from fliqs_keras.export.markers import mark
from fliqs_keras.export.patcher import patch
from fliqs_keras.export.results import LayerResult
from fliqs_keras.export.specs import ActivationSpec, LayerSpec, WeightSpec
from fliqs_keras.files import write_atomically
from fliqs_keras.quantized_layers import (
    CallHook,
    QuantizedLayer,
    quantized_layers,
    use_hook,
)
from fliqs_keras.quantizers import SwitchableQuantizer

__all__ = ["ExportReport", "export_tflite"]


@dataclasses.dataclass(frozen=True)
class ExportReport:
    """What became of each quantized weight in the file.

    Args:
        layers: A record for each weight: path, format, tensor type in the
            file, bytes, kernel, whether it was matched, and the reason if it
            stays in float.
        file_bytes: Size of the file.
    """

    layers: tuple[LayerResult, ...]
    file_bytes: int

    @property
    def left_in_float(self) -> tuple[LayerResult, ...]:
        """The weights that could not be stored in low bits."""
        return tuple(
            row
            for row in self.layers
            if row.format != "FP32"
            and (not row.matched or row.kernel == "float")
        )


class _ExportHook(CallHook):
    """Puts snapped weights and markers into the traced graph."""

    def __init__(self):
        self._weights = {}

    def prepare(self, layer: QuantizedLayer) -> None:
        """Computes the quantized weights before anything is traced."""
        for variable, quantizer in layer.quantized_weights():
            weight = _keras.master_value(variable)
            self._weights[id(variable)] = keras.ops.convert_to_numpy(
                quantizer(weight, training=False)
            )

    def snapped(self, variable: keras.Variable) -> np.ndarray:
        """Returns the quantized value of a variable."""
        return self._weights[id(variable)]

    def weight(self, layer, variable, quantizer):
        return tf.constant(self._weights[id(variable)])

    def input(self, layer, quantizer, inputs):
        return mark(inputs, layer.quantize_config.decision)

    def output(self, layer, quantizer, outputs):
        raise ValueError(
            "Expected a model without output quantizers. Received: layer "
            f"{layer.quantize_config.decision!r}, which has one. They are "
            "not exported yet"
        )


def export_tflite(model: keras.Model, path: str | os.PathLike) -> ExportReport:
    """Writes a quantized model to a LiteRT file of truly low-bit weights.

    The float graph is converted with its weights on their grids, and the
    file is rewritten so that each weight is stored as the codes of its
    format with their scales and each layer's input is quantized as in the
    Keras model. The file computes the numbers of the Keras model; a weight
    that has no low-bit storage stays float32 with the same values and is
    logged and reported.

    Args:
        model: A model from `fliqs_keras.apply`, trained or calibrated. Its
            present formats are exported.
        path: The file to write. An existing file is replaced, at the end.

    Returns:
        An `ExportReport`.

    Raises:
        ValueError: If the model is not quantized, if the activation
            thresholds of a layer were never set, or if the Keras backend is
            not TensorFlow.

    Example:

    >>> report = fliqs_keras.export_tflite(model, "model.tflite")
    >>> [(row.path, row.tensor_type) for row in report.layers]
    [('conv', 'INT8'), ('head', 'INT4')]
    """
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "Expected the TensorFlow backend to export from. Received: "
            f"{keras.backend.backend()!r}. Save the model, and load and export "
            "it under KERAS_BACKEND=tensorflow"
        )
    decisions(model)
    layers = quantized_layers(model)
    _check_calibrated(layers)
    hook = _ExportHook()
    for layer in layers:
        hook.prepare(layer)
    content, rows = patch(
        _convert(model, hook), [_layer_spec(layer, hook) for layer in layers]
    )
    write_atomically(path, content)
    report = ExportReport(layers=tuple(rows), file_bytes=len(content))
    for row in report.left_in_float:
        logging.warning(
            "Layer %r (%s) is stored as %s: %s",
            row.path,
            row.format,
            row.tensor_type,
            row.reason,
        )
    return report


def _check_calibrated(layers: list[QuantizedLayer]) -> None:
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


def _convert(model: keras.Model, hook: _ExportHook) -> bytes:
    """Converts the model with markers, in float32, to LiteRT."""
    with tempfile.TemporaryDirectory() as folder:
        with use_hook(hook):
            model.export(folder, format="tf_saved_model", verbose=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        converter.allow_custom_ops = True
        return converter.convert()


def _layer_spec(layer: QuantizedLayer, hook: _ExportHook) -> LayerSpec:
    weights = tuple(
        _weight_spec(hook.snapped(variable), quantizer)
        for variable, quantizer in layer.quantized_weights()
    )
    quantizer = layer.input_quantizer
    activation = None
    if quantizer is not None and quantizer.format is not None:
        activation = ActivationSpec(quantizer.format, float(quantizer.scale()))
    return LayerSpec(layer.quantize_config.decision, weights, activation)


def _weight_spec(
    snapped: np.ndarray, quantizer: SwitchableQuantizer
) -> WeightSpec:
    number_format = quantizer.format
    scale = quantizer.scale()
    codes = snapped / scale
    if not number_format.is_pass_through:
        codes = _nearest_codes(codes, number_format.codes())
    axes = sorted(axis % snapped.ndim for axis in quantizer.channel_axes)
    if not axes or not number_format.scaled:
        return WeightSpec(number_format, codes, np.ones(1), None)
    # Several channel axes, as a depthwise kernel has, count as one.
    merged = codes.reshape(codes.shape[: axes[0]] + (-1,))
    return WeightSpec(number_format, merged, scale.reshape(-1), axes[0])


def _nearest_codes(values: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Undoes the rounding of `code * scale / scale`."""
    above = np.clip(np.searchsorted(codes, values), 1, len(codes) - 1)
    below = above - 1
    is_below = values - codes[below] < codes[above] - values
    return codes[np.where(is_below, below, above)]
