"""How many multiplications a model takes, by its real shapes."""

import keras

from fliqs_keras import _keras
from fliqs_keras.quantized_layers import (
    CallHook,
    quantized_layers,
    use_hook,
)


def count_macs(model: keras.Model) -> dict[str, int]:
    """Counts the multiply-accumulates of an example, by decision on weights.

    The model is run once on an example of zeros, so that every use of a layer
    counts with the shapes it really has.

    Args:
        model: A model from `fliqs_keras.apply`.

    Returns:
        A dictionary from decision to multiply-accumulates.
    """
    by_layer = macs_by_layer(model)
    macs: dict[str, int] = {}
    for layer in quantized_layers(model):
        if not layer.weight_quantizers:
            continue
        name = layer.quantize_config.decision
        macs[name] = macs.get(name, 0) + by_layer.get(id(layer), 0)
    return macs


def macs_by_layer(model: keras.Model) -> dict[int, int]:
    """Counts the multiply-accumulates of one example, by `id` of the layer."""
    counter = _MacCounter()
    with use_hook(counter):
        _keras.call_on_zeros(model)
    return counter.macs


class _MacCounter(CallHook):
    """Counts multiply-accumulates in place of quantizing."""

    def __init__(self):
        self.macs: dict[int, int] = {}

    def weight(self, layer, variable, quantizer):
        return layer.weight_value(variable)

    def input(self, layer, quantizer, inputs):
        return inputs

    def output(self, layer, quantizer, outputs):
        return outputs

    def called(self, layer, inputs, outputs):
        config = layer.quantize_config
        macs = config.count_macs(layer, inputs.shape, outputs.shape)
        self.macs[id(layer)] = self.macs.get(id(layer), 0) + macs
