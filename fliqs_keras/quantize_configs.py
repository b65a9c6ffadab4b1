"""Which tensors of a layer are quantized, and by which quantizer."""

import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from fliqs_keras._tfmot import QuantizeConfig
from fliqs_keras.following_quantizers import (
    ActivationQuantizer,
    WeightQuantizer,
)
from fliqs_keras.formats import Format, parse_format
from fliqs_keras.quantizers import SwitchableQuantizer

__all__ = ["SwitchableQuantizeConfig"]

# The decision of all activations of one fixed format.
ACTIVATIONS = "*:activations"
# What the name of a decision about the inputs of layers ends in.
INPUT = ":input"

# The way out for users of LoRA.
MERGE_ADAPTERS = (
    "Train the float model with adapters before `apply`; its `save_weights` "
    "merges them: `load_weights` of that into the model without adapters, and "
    "call `apply` on it"
)

Axes = Sequence[int]
Shape = tuple[int | None, ...]


def count_uses(shape: Shape, channel_axes: Axes, output_shape: Shape) -> int:
    """Counts the uses of all elements of a weight in one example."""
    if not channel_axes:
        return math.prod(shape) * math.prod(output_shape[1:-1])
    channels = math.prod(shape[axis] for axis in channel_axes)
    return math.prod(shape) * math.prod(output_shape[1:]) // channels


@keras.saving.register_keras_serializable(package="fliqs_keras")
class SwitchableQuantizeConfig(QuantizeConfig):
    """Says how a layer is quantized; a tfmot `QuantizeConfig`.

    The defaults fit a layer that multiplies its input by `layer.kernel`
    whose last axis holds the output channels. Subclasses may override any
    method; one with arguments of its own must pass `formats` and `decision`
    on, and be registered with Keras, as anything that is saved.

    Args:
        weights: Names of the attributes that hold the weights, dotted if
            they belong to a part of the layer (`"cell.kernel"`).
        channel_axes: Axes of the output channels, each of which has a scale
            of its own: of all the weights, or a dictionary by their names.
        quantize_input: Whether the layer's first input is quantized too.
        quantize_output: Whether the layer's output is quantized. Fully
            integer graphs need it where no quantized layer reads the output.
        activation_format: A fixed format of the input and the output, in
            place of those of the decision. Defaults to `None`.
        formats: Formats that the layer may take. `fliqs_keras.apply` fills
            them in from the search space.
        decision: Name of the decision that chooses among `formats`.
            `fliqs_keras.apply` fills it in.
        input_formats: Formats of the input and the output, where they have a
            decision of their own. Filled in from the search space, too.
            Defaults to none: they take the format of the weights.
        input_decision: Name of that decision.

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
        channel_axes: Axes | Mapping[str, Axes] = (-1,),
        *,
        quantize_input: bool = True,
        quantize_output: bool = False,
        activation_format: str | Format | None = None,
        formats: Sequence[str | Format] = (),
        decision: str | None = None,
        input_formats: Sequence[str | Format] = (),
        input_decision: str | None = None,
    ):
        if isinstance(weights, str):
            raise ValueError(
                "Expected `weights` to be a sequence of attribute names. "
                f"Received: weights={weights!r}. Pass [{weights!r}]"
            )
        self.weights = tuple(weights)
        if not isinstance(channel_axes, Mapping):
            channel_axes = dict.fromkeys(self.weights, channel_axes)
        missing = sorted(set(self.weights) - set(channel_axes))
        if missing:
            raise ValueError(
                "Expected `channel_axes` to hold the axes of every weight. "
                f"Received: none for {missing}"
            )
        self.channel_axes = {k: tuple(v) for k, v in channel_axes.items()}
        self.quantize_input = quantize_input
        self.quantize_output = quantize_output
        self.activation_format = (
            None
            if activation_format is None
            else parse_format(activation_format)
        )
        self.formats = tuple(parse_format(f) for f in formats)
        self.decision = decision
        self.input_formats = tuple(parse_format(f) for f in input_formats)
        self.input_decision = input_decision

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

    def with_activations(
        self, *, input: bool, output: bool, format: Format
    ) -> "SwitchableQuantizeConfig":
        """Returns a copy that quantizes given activations to one format.

        Raises:
            ValueError: If a class derived from this one cannot be told.
        """
        return self._with(
            quantize_input=input,
            quantize_output=output,
            activation_format=format.name,
        )

    def for_input_decision(
        self, formats: Sequence[Format], decision: str
    ) -> "SwitchableQuantizeConfig":
        """Returns a copy whose activations have a decision of their own.

        Raises:
            ValueError: If a class derived from this one cannot be told.
        """
        return self._with(
            input_formats=[f.name for f in formats], input_decision=decision
        )

    def with_float_activations(self) -> "SwitchableQuantizeConfig":
        """Returns a copy that quantizes weights only.

        Raises:
            ValueError: If a class derived from this one cannot be told.
        """
        if not self.quantize_input and not self.quantize_output:
            return self
        return self._with(quantize_input=False, quantize_output=False)

    def _with(self, **changed: Any) -> "SwitchableQuantizeConfig":
        config = self.get_config()
        if missing := sorted(set(changed) - set(config)):
            raise ValueError(
                "Expected a quantize config that passes the arguments of "
                f"`SwitchableQuantizeConfig` on. Received: a "
                f"{type(self).__name__} whose `get_config` lacks {missing}. "
                "Take `**kwargs` in its `__init__`, and begin its "
                "`get_config` with that of its base"
            )
        return type(self).from_config({**config, **changed})

    def get_weights_and_quantizers(
        self, layer: keras.layers.Layer
    ) -> list[tuple[keras.Variable, SwitchableQuantizer]]:
        """Returns the variables to quantize, each with a new quantizer."""
        return [
            (
                self.get_weight(layer, name),
                WeightQuantizer(
                    self.formats,
                    self.get_channel_axes(layer, name),
                    decision=self.decision,
                    name=f"{name.replace('.', '_')}_quantizer",
                ),
            )
            for name in self.weights
        ]

    def get_weight(
        self, layer: keras.layers.Layer, name: str
    ) -> keras.Variable:
        """Returns the variable that a layer holds under a name.

        Raises:
            ValueError: If there is none. Under LoRA a kernel is no variable
                but a sum.
        """
        if getattr(layer, "lora_enabled", False):
            raise ValueError(
                f"Expected layer {layer.name!r} without low-rank adapters. "
                f"Received: a layer with `enable_lora`. {MERGE_ADAPTERS}"
            )
        try:
            weight = operator.attrgetter(name)(layer)
        except AttributeError:
            weight = None
        if not isinstance(weight, keras.Variable):
            raise ValueError(
                f"Expected layer {layer.name!r} ({type(layer).__name__}) to "
                f"hold a variable {name!r}. Received: {type(weight).__name__}. "
                "Name the attributes of its variables in "
                "`SwitchableQuantizeConfig(weights=...)`, or leave the layer "
                "out with `SearchSpace(exclude=...)`"
            )
        return weight

    def get_channel_axes(
        self, layer: keras.layers.Layer, name: str
    ) -> tuple[int, ...]:
        """Returns the axes of the output channels of a weight."""
        return self.channel_axes[name]

    def get_input_quantizer(
        self, layer: keras.layers.Layer
    ) -> SwitchableQuantizer | None:
        """Returns a new quantizer for the layer's first input, or `None`."""
        if not self.quantize_input:
            return None
        return self._activation_quantizer("input_quantizer")

    def _activation_quantizer(self, name: str) -> ActivationQuantizer:
        if self.activation_format is None:
            return ActivationQuantizer(
                self.input_formats or self.formats,
                decision=self.input_decision or self.decision,
                name=name,
            )
        return ActivationQuantizer(
            [self.activation_format], decision=ACTIVATIONS, name=name
        )

    def get_activations_and_quantizers(self, layer):
        """Returns nothing: activations are quantized where they are read."""
        return []

    def set_quantize_weights(self, layer, quantize_weights):
        """Does nothing: weights are substituted while the layer is called."""

    def set_quantize_activations(self, layer, quantize_activations):
        """Does nothing: activations are quantized where they are read."""

    def get_output_quantizers(
        self, layer: keras.layers.Layer
    ) -> list[SwitchableQuantizer]:
        """Returns a new quantizer for the layer's output, or none."""
        if not self.quantize_output:
            return []
        return [self._activation_quantizer("output_quantizer")]

    def count_macs(
        self, layer: keras.layers.Layer, input_shape: Shape, output_shape: Shape
    ) -> int:
        """Counts the multiplications of one example in one call.

        Each weight is used once for each element of the output that belongs
        to its output channel (the last axis of the output, where no axes are
        given), which holds for dense layers and for convolutions, strided,
        grouped and depthwise ones included.

        Args:
            layer: The layer.
            input_shape: Shape of its first input, the batch first.
            output_shape: Shape of its first output, the batch first.

        Returns:
            The number of multiply-accumulates.
        """
        return sum(
            count_uses(
                self.get_weight(layer, name).shape,
                self.get_channel_axes(layer, name),
                output_shape,
            )
            for name in self.weights
        )

    def get_config(self) -> dict[str, Any]:
        return {
            "weights": list(self.weights),
            "channel_axes": {k: list(v) for k, v in self.channel_axes.items()},
            "quantize_input": self.quantize_input,
            "quantize_output": self.quantize_output,
            "activation_format": self.activation_format
            and self.activation_format.name,
            "formats": [f.name for f in self.formats],
            "decision": self.decision,
            "input_formats": [f.name for f in self.input_formats],
            "input_decision": self.input_decision,
        }
