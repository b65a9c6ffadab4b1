"""What the activations of an assignment take in memory."""

import collections
import math
from collections.abc import Mapping

import keras

from fliqs_keras import _keras
from fliqs_keras.assignments import FormatAssignment, choices_in, decisions
from fliqs_keras.costs import Cost
from fliqs_keras.formats import Format
from fliqs_keras.quantized_layers import QuantizedLayer
from fliqs_keras.quantizers import SwitchableQuantizer

__all__ = ["ActivationBytes"]

_FLOAT_BITS = 32
# They can write over what they read.
_IN_PLACE = (
    keras.layers.Activation,
    keras.layers.BatchNormalization,
    keras.layers.Dropout,
    keras.layers.Flatten,
    keras.layers.Identity,
    keras.layers.ReLU,
    keras.layers.Reshape,
)


class ActivationBytes(Cost):
    """Peak bytes of the activations of one example, each in its format.

    What a device needs that keeps each tensor as the codes of its format, as
    microcontrollers do: the largest sum, over the calls of the graph in their
    order, of the tensors that are read, made, or still to be read. A tensor
    that nothing quantizes takes 32 bits an element, one that several layers
    quantize what the widest of them reads. Activation functions, batch
    normalization and reshapes write over their input where nothing else reads
    it. The order of calls and the padding of memory are a runtime's own.

    A peak does not add up over decisions, so it is for reports, and no budget
    of a search. Sizes must be decided: of a model that has a choice of them,
    take what `fliqs_keras.nas.extract` returns.

    Example:

    >>> x = keras.Input((4,))
    >>> y = keras.layers.Dense(8)(keras.layers.Dense(2)(x))
    >>> ActivationBytes()(fliqs_keras.apply(keras.Model(x, y), "INT8"))
    34.0
    """

    unit = "bytes"

    def terms(self, model: keras.Model):
        raise ValueError(
            "Expected a cost that adds up over decisions. Received: "
            "ActivationBytes, the peak of many sums. Call it on a model that "
            "was searched, or give the search another budget"
        )

    def __call__(
        self,
        model: keras.Model,
        assignment: Mapping[str, str | Format] | None = None,
    ) -> float:
        """Returns the peak of a functional or sequential model.

        Args:
            model: A model from `fliqs_keras.apply`.
            assignment: Formats of its decisions. Defaults to the formats
                that the model stands on.

        Raises:
            ValueError: If the model is not quantized, has no graph, has
                decisions about sizes or tensors of unknown shape, or if the
                assignment does not fit it.
        """
        graph = _keras.graph_calls(model)
        if graph is None:
            raise ValueError(
                "Expected a functional or sequential model, whose graph shows "
                f"its tensors. Received: model {model.name!r} "
                f"({type(model).__name__})"
            )
        found = decisions(model)
        if not all(d.is_about_format for d in found):
            raise ValueError(
                "Expected a model of one architecture, whose tensors have one "
                f"size each. Received: model {model.name!r} with decisions "
                "about sizes. Call it on what `fliqs_keras.nas.extract` "
                "returns"
            )
        if assignment is None:
            assignment = FormatAssignment.from_model(model)
        choice = choices_in(assignment, found)
        formats = {d.name: d.options[choice[d.name]] for d in found}
        calls, returned = graph
        return _peak(model, calls, returned, formats)


def _peak(
    model: keras.Model,
    calls: list[_keras.GraphCall],
    returned: set[int],
    formats: Mapping[str, Format],
) -> float:
    # The inputs are the first tensors.
    elements = {i: _count(x.shape) for i, x in enumerate(model.inputs)}
    for call in calls:
        elements |= zip(call.outputs, map(_count, call.shapes), strict=True)
    last_use = dict.fromkeys(returned, len(calls))
    for position, call in enumerate(calls):
        for tensor in call.inputs:
            last_use[tensor] = max(position, last_use.get(tensor, 0))
    bits = _bits(calls, formats)
    sizes = {t: n * bits.get(t, _FLOAT_BITS) / 8 for t, n in elements.items()}
    live = set(range(len(model.inputs)))
    peak = sum(sizes[tensor] for tensor in live)
    for position, call in enumerate(calls):
        done = {t for t in live if last_use.get(t, 0) <= position}
        live |= set(call.outputs)
        needed = sum(sizes[tensor] for tensor in live)
        if isinstance(call.operation, _IN_PLACE) and done >= set(call.inputs):
            read, made = sizes[call.inputs[0]], sizes[call.outputs[0]]
            needed -= min(read, made)
        peak = max(peak, needed)
        live -= done
    return float(peak)


def _count(shape: tuple[int | None, ...]) -> int:
    if None in shape[1:]:
        raise ValueError(
            "Expected tensors of known shape but for the batch. Received: one "
            f"of shape {shape}. Build the model with a fixed input shape"
        )
    return math.prod(shape[1:])


def _bits(
    calls: list[_keras.GraphCall], formats: Mapping[str, Format]
) -> dict[int, int]:
    """Returns the bits of an element of each tensor."""
    read = collections.defaultdict(list)
    made = {}
    for call in calls:
        layer = call.operation
        is_quantized = isinstance(layer, QuantizedLayer)
        quantizer = layer.input_quantizer if is_quantized else None
        for tensor in call.inputs:
            is_rounded = tensor in call.first_argument
            reads = quantizer if is_rounded else None
            read[tensor].append(_bits_of(reads, formats))
        output = layer.output_quantizer if is_quantized else None
        if output is not None:
            made[call.outputs[0]] = _bits_of(output, formats)
        elif isinstance(layer, _IN_PLACE) and call.inputs[0] in made:
            made[call.outputs[0]] = made[call.inputs[0]]
    return {tensor: max(bits) for tensor, bits in read.items()} | made


def _bits_of(
    quantizer: SwitchableQuantizer | None, formats: Mapping[str, Format]
) -> int:
    if quantizer is None:
        return _FLOAT_BITS
    return formats[quantizer.decision].bits
