"""What an assignment costs."""

import abc
from collections.abc import Mapping

import keras
import numpy as np

from fliqs_keras import _keras
from fliqs_keras.assignments import FormatAssignment, decisions
from fliqs_keras.formats import Format
from fliqs_keras.quantized_layers import (
    CallHook,
    quantized_layers,
    use_hook,
)

__all__ = ["BitOps", "Cost"]


class Cost(abc.ABC):
    """What an assignment costs: a sum over the decisions of a model.

    Derived classes fill a table, and so can be budgets of a search.

    Attributes:
        unit: Name of the unit.
    """

    unit: str

    def __call__(
        self,
        model: keras.Model,
        assignment: Mapping[str, str | Format] | None = None,
    ) -> float:
        """Returns the cost of a model.

        Args:
            model: A model from `fliqs_keras.apply`.
            assignment: Formats of its decisions. Defaults to the formats
                that the model stands on.

        Returns:
            The cost in `unit`.

        Raises:
            ValueError: If the model is not quantized, or if the assignment
                does not fit it.
        """
        if assignment is None:
            assignment = FormatAssignment.from_model(model)
        table = self.table(model)
        total = 0.0
        for decision, row in zip(decisions(model), table, strict=True):
            total += float(row[decision.choice_in(assignment)])
        return total

    @abc.abstractmethod
    def table(self, model: keras.Model) -> list[np.ndarray]:
        """Returns the cost of each option of each decision.

        The cost of an assignment is the sum of one entry of each row.

        Args:
            model: A model from `fliqs_keras.apply`.

        Returns:
            A float64 array for each decision, one entry an option.
        """


class BitOps(Cost):
    """Bit operations of one example, in units of 1e9 (GBOPs), as FLIQS counts.

    The sum over quantized layers of

        multiply-accumulates * bits of the weight * bits of the input / 1e9

    where a float of N bits counts as an integer of N bits, and an input that
    is not quantized has 32. Biases, batch normalization and everything else
    that is not quantized do not count; a layer that is called several times
    counts each time.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> BitOps()(fliqs_keras.apply(model, "INT8")) * 1e9
    512.0
    """

    unit = "GBOPs"

    def table(self, model: keras.Model) -> list[np.ndarray]:
        macs = _macs_by_layer(model)
        rows = {d.name: np.zeros(len(d.formats)) for d in decisions(model)}
        for layer in quantized_layers(model):
            config = layer.quantize_config
            # A layer that only quantizes activations multiplies nothing.
            if config.decision in rows:
                bits = [f.bits * config.input_bits(f) for f in config.formats]
                used = macs.get(id(layer), 0)
                rows[config.decision] += used * np.array(bits) / 1e9
        return list(rows.values())


class _MacCounter(CallHook):
    """Counts multiply-accumulates in place of quantizing."""

    def __init__(self):
        self.macs: dict[int, int] = {}

    def weight(self, layer, variable, quantizer):
        return _keras.master_value(variable)

    def input(self, layer, quantizer, inputs):
        return inputs

    def output(self, layer, quantizer, outputs):
        return outputs

    def called(self, layer, inputs, outputs):
        config = layer.quantize_config
        macs = config.count_macs(layer, inputs.shape, outputs.shape)
        self.macs[id(layer)] = self.macs.get(id(layer), 0) + macs


def count_macs(model: keras.Model) -> dict[str, int]:
    """Counts the multiply-accumulates of one example, for each decision.

    The model is run once on an example of zeros, so that every use of a layer
    counts with the shapes it really has.

    Args:
        model: A model from `fliqs_keras.apply`.

    Returns:
        A dictionary from decision to multiply-accumulates.
    """
    macs = {decision.name: 0 for decision in decisions(model)}
    by_layer = _macs_by_layer(model)
    for layer in quantized_layers(model):
        name = layer.quantize_config.decision
        macs[name] = macs.get(name, 0) + by_layer.get(id(layer), 0)
    return macs


def _macs_by_layer(model: keras.Model) -> dict[int, int]:
    counter = _MacCounter()
    with use_hook(counter):
        _keras.call_on_zeros(model)
    return counter.macs
