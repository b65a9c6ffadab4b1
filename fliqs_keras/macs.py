"""How many multiplications a model takes, by its real shapes."""

from typing import NamedTuple

import keras
from absl import logging

from fliqs_keras import _keras
from fliqs_keras.float_hook import FloatHook
from fliqs_keras.quantized_layers import (
    QuantizedLayer,
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
    """Counts the multiply-accumulates of one example, by `id` of the layer.

    Those with weights that are read outside of their layers do not count,
    which is logged.
    """
    count = count_by_layer(model)
    if count.read_outside:
        logging.warning(
            "Weights %s are also read outside of their layers: these reads are "
            "in float and do not count as multiplications.",
            [v.path for _, read in count.read_outside for v in read],
        )
    return count.macs


class LayerCount(NamedTuple):
    """What one example takes.

    Attributes:
        macs: Multiply-accumulates, by `id` of the layer.
        read_outside: Layers with those of their quantized weights that are
            read outside of their call, where they are in float.
    """

    macs: dict[int, int]
    read_outside: list[tuple[QuantizedLayer, list[keras.Variable]]]


def count_by_layer(model: keras.Model) -> LayerCount:
    """Runs a model once on an example of zeros, and counts."""
    counter = _MacCounter(_keras.batch_of_zeros(model))
    with use_hook(counter), _keras.ReadingScope() as scope:
        _keras.call_on_zeros(model)
    read_outside = []
    for layer in quantized_layers(model):
        weights = [variable for variable, _ in layer.quantized_weights()]
        if read := [w for w in weights if id(w) in scope.read]:
            read_outside.append((layer, read))
    return LayerCount(counter.macs, read_outside)


class _MacCounter(FloatHook):
    """Counts multiply-accumulates in place of quantizing.

    Args:
        batch: How many examples the model is called on.
    """

    def __init__(self, batch: int):
        self.batch = batch
        self.macs: dict[int, int] = {}

    def weight(self, layer, variable, quantizer):
        # Within a scope of its own: the layer may read it.
        with keras.StatelessScope():
            return super().weight(layer, variable, quantizer)

    def called(self, layer, inputs, outputs):
        config = layer.quantize_config
        macs = config.count_macs(layer, inputs.shape, outputs.shape)
        # The model may have folded positions into the first axis.
        macs = macs * inputs.shape[0] // self.batch
        self.macs[id(layer)] = self.macs.get(id(layer), 0) + macs
