"""The quantized layers of a Keras model, as the exporter reads them."""

from collections.abc import Callable, Mapping

import keras
import numpy as np
import tensorflow as tf

from fliqs_keras.export import converter
from fliqs_keras.export.specs import ActivationSpec, LayerSpec, WeightSpec
from fliqs_keras.quantized_layers import CallHook, QuantizedLayer
from fliqs_keras.quantizers import SwitchableQuantizer

__all__ = ["Snapshot"]


class Snapshot(CallHook):
    """The weights of quantized layers on their grids, and their formats.

    As the hook of a model that is traced, it puts these weights into the
    graph, and markers where inputs and outputs are quantized.

    Args:
        layers: The layers, as they now are.
        paths: Their paths in the model, by `id`.
        mark: Called with a tensor and a path, returns the tensor marked.
    """

    def __init__(
        self,
        layers: list[QuantizedLayer],
        paths: Mapping[int, str],
        mark: Callable[[tf.Tensor, str], tf.Tensor],
    ):
        self._layers = layers
        self._mark = mark
        self._paths = paths
        self._weights = {
            id(variable): keras.ops.convert_to_numpy(
                quantizer(layer.weight_value(variable), training=False)
            )
            for layer in layers
            for variable, quantizer in layer.quantized_weights()
        }
        self._held = {
            key: tf.Variable(value, trainable=False)
            if value.nbytes >= converter.LARGE_BYTES
            else value
            for key, value in self._weights.items()
        }

    def weight(self, layer, variable, quantizer):
        return tf.convert_to_tensor(self._held[id(variable)])

    def enter(self, layer, inputs):
        # A needless marker would keep an activation function from folding.
        # Where only weights are quantized, the marker finds them.
        if layer.input_quantizer is None and not layer.weight_quantizers:
            return inputs
        path = self._paths[id(layer)]

        def mark(x):
            if not tf.is_tensor(x):
                return x
            # What is quantized are numbers; what is looked up stays.
            if layer.input_quantizer is not None and not x.dtype.is_floating:
                x = tf.cast(x, "float32")
            return self._mark(x, path)

        return keras.tree.map_structure(mark, inputs)

    def input(self, layer, quantizer, inputs):
        return inputs

    def output(self, layer, quantizer, outputs):
        return self._mark(outputs, self._output_path(layer))

    def _output_path(self, layer: QuantizedLayer) -> str:
        return f"{self._paths[id(layer)]}:output"

    def specs(self) -> list[LayerSpec]:
        """Returns what the markers in the graph stand for."""
        inputs = [self._layer_spec(layer) for layer in self._layers]
        outputs = [
            LayerSpec(
                self._output_path(layer),
                (),
                _activation_spec(layer.output_quantizer),
            )
            for layer in self._layers
            if layer.output_quantizer is not None
        ]
        return inputs + outputs

    def _layer_spec(self, layer: QuantizedLayer) -> LayerSpec:
        weights = tuple(
            _weight_spec(
                self._weights[id(variable)],
                quantizer,
                quantizer.scale(layer.weight_value(variable)),
            )
            for variable, quantizer in layer.quantized_weights()
        )
        activation = _activation_spec(layer.input_quantizer)
        return LayerSpec(self._paths[id(layer)], weights, activation)


def _activation_spec(
    quantizer: SwitchableQuantizer | None,
) -> ActivationSpec | None:
    if quantizer is None or quantizer.format is None:
        return None
    return ActivationSpec(quantizer.format, float(quantizer.scale()))


def _weight_spec(
    snapped: np.ndarray, quantizer: SwitchableQuantizer, scale: np.ndarray
) -> WeightSpec:
    number_format = quantizer.format
    codes = snapped / scale
    if not number_format.is_pass_through:
        codes = _nearest_codes(codes, number_format.codes())
    axes = sorted(axis % snapped.ndim for axis in quantizer.channel_axes)
    if not axes or not number_format.scaled:
        return WeightSpec(number_format, codes, np.ones(1), None)
    # Several channel axes, as a depthwise kernel has, count as one.
    first, last = axes[0], axes[-1]
    if last - first >= len(axes):
        codes = np.moveaxis(codes, axes, range(len(axes)))
        first, last = 0, len(axes) - 1
    shape = codes.shape
    merged = codes.reshape(shape[:first] + (-1,) + shape[last + 1 :])
    return WeightSpec(number_format, merged, scale.reshape(-1), first)


def _nearest_codes(values: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Undoes the rounding of `code * scale / scale`."""
    above = np.clip(np.searchsorted(codes, values), 1, len(codes) - 1)
    below = above - 1
    is_below = values - codes[below] < codes[above] - values
    return codes[np.where(is_below, below, above)]
