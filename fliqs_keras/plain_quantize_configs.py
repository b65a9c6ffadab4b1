"""Any tfmot `QuantizeConfig`, as one of ours."""

from collections.abc import Sequence
from typing import Any

import keras

from fliqs_keras._tfmot import QuantizeConfig
from fliqs_keras.formats import Format
from fliqs_keras.quantize_configs import SwitchableQuantizeConfig, count_uses
from fliqs_keras.quantizers import SwitchableQuantizer


@keras.saving.register_keras_serializable(package="fliqs_keras")
class PlainQuantizeConfig(SwitchableQuantizeConfig):
    """Lets any tfmot `QuantizeConfig` say how a layer is quantized.

    Only the interface of tfmot is asked for. The config brings its own
    quantizers, `SwitchableQuantizer`s with their formats, in place of those
    of the search space.

    Args:
        config: The tfmot `QuantizeConfig`.
        formats: Those of the search space, not used.
        decision: Name of the decision that the quantizers belong to.
        quantize_output: Whether the output is, where the config says so.
    """

    def __init__(
        self,
        config: QuantizeConfig,
        *,
        formats: Sequence[str | Format] = (),
        decision: str | None = None,
        quantize_output: bool = True,
    ):
        super().__init__(
            (),
            quantize_input=False,
            quantize_output=quantize_output,
            formats=formats,
            decision=decision,
        )
        self.config = config

    def for_decision(self, formats, decision):
        # Not by way of its config: it need not be one that Keras can save.
        return PlainQuantizeConfig(
            self.config,
            formats=formats,
            decision=decision,
            quantize_output=self.quantize_output,
        )

    def with_float_activations(self):
        return PlainQuantizeConfig(
            self.config,
            formats=self.formats,
            decision=self.decision,
            quantize_output=False,
        )

    def _with(self, **changed):
        raise ValueError(
            "Expected a `fliqs_keras.SwitchableQuantizeConfig` where the "
            "search space gives activations formats of their own. Received: a "
            f"{type(self.config).__name__} for layer {self.decision!r}, which "
            "brings its own quantizers. Derive it from "
            "`fliqs_keras.SwitchableQuantizeConfig`, or leave the layer out "
            "with `SearchSpace(exclude=...)`"
        )

    def get_weights_and_quantizers(self, layer):
        self._refuse_activations(layer)
        pairs = self.config.get_weights_and_quantizers(layer)
        return [(weight, self._adopt(layer, q)) for weight, q in pairs]

    def get_output_quantizers(self, layer):
        if not self.quantize_output:
            return []
        quantizers = self.config.get_output_quantizers(layer)
        return [self._adopt(layer, q) for q in quantizers]

    def count_macs(self, layer, input_shape, output_shape):
        return sum(
            count_uses(weight.shape, quantizer.channel_axes, output_shape)
            for weight, quantizer in self.config.get_weights_and_quantizers(
                layer
            )
        )

    def _refuse_activations(self, layer: keras.layers.Layer) -> None:
        if self.config.get_activations_and_quantizers(layer):
            raise ValueError(
                "Expected a quantize config without activation quantizers, "
                "because activations are quantized where they are read. "
                f"Received: {type(self.config).__name__} for layer "
                f"{layer.name!r}, whose `get_activations_and_quantizers` "
                "returns some. Return [] from it, and the quantizer from "
                "`get_output_quantizers` if the output must be quantized"
            )

    def _adopt(
        self, layer: keras.layers.Layer, quantizer: Any
    ) -> SwitchableQuantizer:
        if not isinstance(quantizer, SwitchableQuantizer):
            raise ValueError(
                "Expected a quantize config to return `SwitchableQuantizer`s. "
                f"Received: a {type(quantizer).__name__} from "
                f"{type(self.config).__name__} for layer {layer.name!r}, "
                "which Keras 3 cannot run. Derive the config from "
                "`fliqs_keras.SwitchableQuantizeConfig`, or return "
                "`fliqs_keras.WeightQuantizer(formats, channel_axes)` for a "
                "weight and `fliqs_keras.ActivationQuantizer(formats)` for an "
                "output"
            )
        quantizer.decision = self.decision
        return quantizer

    def get_config(self):
        return {
            "config": keras.saving.serialize_keras_object(self.config),
            "formats": [f.name for f in self.formats],
            "decision": self.decision,
            "quantize_output": self.quantize_output,
        }

    @classmethod
    def from_config(cls, config):
        inner = config["config"]
        if isinstance(inner, dict):
            inner = keras.saving.deserialize_keras_object(inner)
        return cls(**{**config, "config": inner})
