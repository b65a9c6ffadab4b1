"""Which tensors of a layer are quantized, and by which quantizer."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from fliqs_keras._tfmot import QuantizeConfig
from fliqs_keras.formats import Format, parse_format
from fliqs_keras.quantizers import (
    ActivationQuantizer,
    SwitchableQuantizer,
    WeightQuantizer,
)

__all__ = ["SwitchableQuantizeConfig"]

Shape = tuple[int | None, ...]


@keras.saving.register_keras_serializable(package="fliqs_keras")
class SwitchableQuantizeConfig(QuantizeConfig):
    """Says how a layer is quantized; a tfmot `QuantizeConfig`.

    The defaults fit a layer that multiplies its input by `layer.kernel`
    whose last axis holds the output channels.

    Args:
        weights: Names of the attributes that hold the weights.
        channel_axes: Axes of the output channels in each of the weights.
        quantize_input: Whether the layer's input is quantized too.
        formats: Formats that the layer may take. `fliqs_keras.apply` fills
            them in from the search space.
        decision: Name of the decision that chooses among `formats`.
            `fliqs_keras.apply` fills it in.

    Example:

    >>> layer = keras.layers.Dense(2)
    >>> layer.build((None, 3))
    >>> config = SwitchableQuantizeConfig(formats=["INT4", "INT8"])
    >>> [(variable, quantizer)] = config.get_weights_and_quantizers(layer)
    >>> variable.name, [f.name for f in quantizer.formats]
    ('kernel', ['INT4', 'INT8'])
    """

    def __init__(
        self,
        weights: Sequence[str] = ("kernel",),
        channel_axes: Sequence[int] = (-1,),
        *,
        quantize_input: bool = True,
        formats: Sequence[str | Format] = (),
        decision: str | None = None,
    ):
        self.weights = tuple(weights)
        self.channel_axes = tuple(channel_axes)
        self.quantize_input = quantize_input
        self.formats = tuple(parse_format(f) for f in formats)
        self.decision = decision

    def for_decision(
        self, formats: Sequence[Format], decision: str
    ) -> "SwitchableQuantizeConfig":
        """Returns a copy with the formats and the decision filled in."""
        return type(self).from_config(
            {
                **self.get_config(),
                "formats": [f.name for f in formats],
                "decision": decision,
            }
        )

    def get_weights_and_quantizers(
        self, layer: keras.layers.Layer
    ) -> list[tuple[keras.Variable, SwitchableQuantizer]]:
        """Returns the variables to quantize, each with a new quantizer."""
        return [
            (
                getattr(layer, name),
                WeightQuantizer(
                    self.formats,
                    self.channel_axes,
                    decision=self.decision,
                    name=f"{name}_quantizer",
                ),
            )
            for name in self.weights
        ]

    def get_input_quantizer(
        self, layer: keras.layers.Layer
    ) -> SwitchableQuantizer | None:
        """Returns a new quantizer for the layer's first input, or `None`."""
        if not self.quantize_input:
            return None
        return ActivationQuantizer(
            self.formats, decision=self.decision, name="input_quantizer"
        )

    def get_activations_and_quantizers(self, layer):
        """Returns nothing: activations are quantized where they are read."""
        return []

    def set_quantize_weights(self, layer, quantize_weights):
        """Does nothing: weights are substituted while the layer is called."""

    def set_quantize_activations(self, layer, quantize_activations):
        """Does nothing: activations are quantized where they are read."""

    def get_output_quantizers(self, layer):
        """Returns nothing: outputs are quantized where they are read."""
        return []

    def count_macs(
        self, layer: keras.layers.Layer, input_shape: Shape, output_shape: Shape
    ) -> int:
        """Counts the multiplications of one example in one call.

        Each weight is used once at each position of the output, which holds
        for dense layers and for convolutions, strided, grouped and depthwise
        ones included.

        Args:
            layer: The layer.
            input_shape: Shape of its input, the batch first.
            output_shape: Shape of its output, the batch first.

        Returns:
            The number of multiply-accumulates.
        """
        is_channels_first = (
            getattr(layer, "data_format", None) == "channels_first"
        )
        positions = (
            output_shape[2:] if is_channels_first else output_shape[1:-1]
        )
        weights = sum(
            int(np.prod(getattr(layer, n).shape)) for n in self.weights
        )
        return int(np.prod(positions)) * weights

    def get_config(self) -> dict[str, Any]:
        return {
            "weights": list(self.weights),
            "channel_axes": list(self.channel_axes),
            "quantize_input": self.quantize_input,
            "formats": [f.name for f in self.formats],
            "decision": self.decision,
        }


_KERNEL = SwitchableQuantizeConfig()
# A depthwise kernel ends in (input channels, multiplier): one output channel
# for each pair.
_DEPTHWISE = SwitchableQuantizeConfig(channel_axes=(-2, -1))

_CONFIGS: dict[type, SwitchableQuantizeConfig] = {
    keras.layers.Dense: _KERNEL,
    keras.layers.Conv1D: _KERNEL,
    keras.layers.Conv2D: _KERNEL,
    keras.layers.Conv3D: _KERNEL,
    keras.layers.DepthwiseConv1D: _DEPTHWISE,
    keras.layers.DepthwiseConv2D: _DEPTHWISE,
}


def find_quantize_config(
    layer: keras.layers.Layer,
) -> SwitchableQuantizeConfig | None:
    """Returns the config of the layer's class or nearest base, if any."""
    for base in type(layer).__mro__:
        if base in _CONFIGS:
            return _CONFIGS[base]
    return None
