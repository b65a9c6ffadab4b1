"""What an assignment costs."""

import abc
from collections.abc import Mapping
from typing import NamedTuple

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


class CostTerm(NamedTuple):
    """A part of a cost, which depends on one decision or on two.

    Attributes:
        decisions: The names of the decisions.
        values: What the part costs, with an axis for each decision and an
            entry for each of its formats.
    """

    decisions: tuple[str, ...]
    values: np.ndarray


class Cost(abc.ABC):
    """What an assignment costs: a sum over decisions and pairs of them.

    Derived classes give its terms, and so can be budgets of a search.

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
        choice = {
            decision.name: decision.choice_in(assignment)
            for decision in decisions(model)
        }
        return sum(
            float(term.values[tuple(choice[name] for name in term.decisions)])
            for term in self.terms(model)
        )

    @abc.abstractmethod
    def terms(self, model: keras.Model) -> list[CostTerm]:
        """Returns the parts that the cost of an assignment is the sum of.

        For example

            [CostTerm(("conv",), np.array([1.0, 2.0]))]

        Args:
            model: A model from `fliqs_keras.apply`.
        """

    def table(self, model: keras.Model) -> list[np.ndarray]:
        """Returns the cost of each option of each decision.

        The cost of an assignment is the sum of one entry of each row.

        Args:
            model: A model from `fliqs_keras.apply`.

        Returns:
            A float64 array for each decision, one entry an option.

        Raises:
            ValueError: If a part of the cost depends on two decisions.
        """
        rows = {d.name: np.zeros(len(d.formats)) for d in decisions(model)}
        for term in self.terms(model):
            if len(term.decisions) > 1:
                raise ValueError(
                    "Expected a cost that adds up over decisions. Received: "
                    f"a part that depends on {list(term.decisions)}, because "
                    "activations have decisions of their own. Use `terms`"
                )
            rows[term.decisions[0]] += term.values
        return list(rows.values())


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

    def terms(self, model: keras.Model) -> list[CostTerm]:
        # Where activations have a decision of their own, the part of a layer
        # depends on both.
        macs = macs_by_layer(model)
        bits = {
            decision.name: np.array([f.bits for f in decision.formats], float)
            for decision in decisions(model)
        }
        formats = {d.name: d.formats for d in decisions(model)}
        values: dict[tuple[str, ...], np.ndarray] = {}
        for layer in quantized_layers(model):
            config = layer.quantize_config
            # A layer that only quantizes activations multiplies nothing.
            if not layer.weight_quantizers:
                continue
            weight, names = config.decision, (config.decision,)
            if layer.input_quantizer is not None and config.input_decision:
                names += (config.input_decision,)
                used = np.outer(*(bits[name] for name in names))
            else:
                used = bits[weight] * [
                    config.input_bits(f) for f in formats[weight]
                ]
            used = used * macs.get(id(layer), 0) / 1e9
            values[names] = values.get(names, 0.0) + used
        return [CostTerm(*item) for item in values.items()]


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
    """Counts the multiply-accumulates of one example, by the layer's `id`."""
    counter = _MacCounter()
    with use_hook(counter):
        _keras.call_on_zeros(model)
    return counter.macs
