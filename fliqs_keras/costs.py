"""What an assignment costs."""

from collections.abc import Mapping

import keras
import numpy as np

from fliqs_keras import _keras
from fliqs_keras.assignments import FormatAssignment, decisions
from fliqs_keras.formats import Format, parse_format
from fliqs_keras.quantized_layers import (
    CallHook,
    use_hook,
)

__all__ = ["BitOps"]


class BitOps:
    """Bit operations of one example, in units of 1e9 (GBOPs), as FLIQS counts.

    The sum over quantized layers of

        multiply-accumulates * bits of the weight * bits of the input / 1e9

    where a float of N bits counts as an integer of N bits. Biases, batch
    normalization and everything else that is not quantized do not count; a
    layer that is called several times counts each time.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> BitOps()(fliqs_keras.apply(model, "INT8")) * 1e9
    512.0
    """

    unit = "GBOPs"

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
            The cost in GBOPs.

        Raises:
            ValueError: If the model is not quantized, or if the assignment
                does not fit it.
        """
        if assignment is None:
            assignment = FormatAssignment.from_model(model)
        table = self.table(model)
        total = 0.0
        for decision, row in zip(decisions(model), table, strict=True):
            if decision.name not in assignment:
                raise ValueError(
                    "Expected an assignment for every decision of the model. "
                    f"Received: none for {decision.name!r}"
                )
            chosen = parse_format(assignment[decision.name])
            total += float(row[decision.index_of(chosen)])
        return total

    def table(self, model: keras.Model) -> list[np.ndarray]:
        """Returns the cost of each option of each decision.

        The cost of an assignment is the sum of one entry of each row.

        Args:
            model: A model from `fliqs_keras.apply`.

        Returns:
            A float64 array for each decision, one entry an option.
        """
        macs = count_macs(model)
        rows = []
        for decision in decisions(model):
            bits = np.array([f.bits for f in decision.formats], dtype="float64")
            rows.append(macs[decision.name] * bits**2 / 1e9)
        return rows


class _MacCounter(CallHook):
    """Counts multiply-accumulates in place of quantizing."""

    def __init__(self):
        self.macs: dict[str, int] = {}

    def weight(self, layer, variable, quantizer):
        return _keras.master_value(variable)

    def input(self, layer, quantizer, inputs):
        return inputs

    def output(self, layer, quantizer, outputs):
        return outputs

    def called(self, layer, inputs, outputs):
        config = layer.quantize_config
        macs = config.count_macs(layer, inputs.shape, outputs.shape)
        self.macs[config.decision] = self.macs.get(config.decision, 0) + macs


def count_macs(model: keras.Model) -> dict[str, int]:
    """Counts the multiply-accumulates of one example, for each decision.

    The model is run once on an example of zeros, so that every use of a layer
    counts with the shapes it really has.

    Args:
        model: A model from `fliqs_keras.apply`.

    Returns:
        A dictionary from decision to multiply-accumulates.
    """
    counter = _MacCounter()
    with use_hook(counter):
        _keras.call_on_zeros(model)
    return {d.name: counter.macs.get(d.name, 0) for d in decisions(model)}
