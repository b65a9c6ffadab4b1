"""What an assignment takes in time, by measurements of its ops."""

import math
import os

import keras

from fliqs_keras.costs import Cost, CostTerm, layer_terms
from fliqs_keras.files import read_json
from fliqs_keras.op_files import ModelOps, Op
from fliqs_keras.quantized_layers import quantized_layers

__all__ = ["LatencyTable"]


class LatencyTable(Cost):
    """Milliseconds of one example, by a table of measured ops.

    Each use of a quantized layer costs what its op was measured to take
    alone, its input's rounding included. What does not depend on the formats
    is left out, and so is what a runtime gains or loses where ops meet:
    compare assignments with it, and measure the one that is chosen.

    Args:
        path: A JSON file whose object `"milliseconds"` holds the time of each
            op by its name, that of its file from `fliqs_keras.export_ops`.
            `recipes.measure_latency` writes one for the machine that it runs
            on.

    Raises:
        ValueError: If the file holds anything else; when it is used, if it
            lacks an op of the model.

    Example:

    >>> cost = fliqs_keras.LatencyTable("latency.json")
    >>> search = fliqs_keras.FormatSearch(cost_target=2.5, cost=cost)
    """

    unit = "ms"

    def __init__(self, path: str | os.PathLike):
        self.path = os.fspath(path)
        content = read_json(path)
        times = content.get("milliseconds") if _is_object(content) else None
        if not _is_object(times) or not all(map(_is_time, times.values())):
            raise ValueError(
                "Expected an object 'milliseconds', from names of ops to "
                f"positive numbers, in {self.path!r}. Received: {content!r}"
            )
        self.milliseconds = times

    def terms(self, model: keras.Model) -> list[CostTerm]:
        if any(layer.size_masks() for layer in quantized_layers(model)):
            raise ValueError(
                "Expected a model of one architecture, whose ops were "
                f"measured. Received: model {model.name!r} with decisions "
                "about sizes. Search with another cost, and measure what "
                "`fliqs_keras.nas.extract` returns"
            )
        ops = ModelOps(model)

        def price(layer, weight, input_format):
            found = ops.of(layer, weight, input_format)
            return sum(self._time(op) for op in found)

        return layer_terms(model, price)

    def _time(self, op: Op) -> float:
        if op.name not in self.milliseconds:
            raise ValueError(
                f"Expected the time of every op of the model in {self.path!r}. "
                f"Received: none for {op.name!r} of layer {op.layer.path!r}. "
                "Write its file with `fliqs_keras.export_ops`, and measure it"
            )
        return self.milliseconds[op.name]


def _is_object(value: object) -> bool:
    return isinstance(value, dict)


def _is_time(value: object) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and 0 < value < math.inf
