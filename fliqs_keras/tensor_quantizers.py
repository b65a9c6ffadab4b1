"""Where quantizers stand if each tensor of a graph has one of its own.

Runtimes compute in integers where all tensors around an op are codes. So in
place of the inputs of layers the outputs are quantized, once for all that
read them: but for what the exporter folds into the op before it, and for ops
that only move values.
"""

import collections
from collections.abc import Callable
from typing import NamedTuple

import keras
from absl import logging
from keras import layers

from fliqs_keras import _keras

_LINEAR = (
    layers.Conv1D,
    layers.Conv2D,
    layers.Conv3D,
    layers.Conv1DTranspose,
    layers.Conv2DTranspose,
    layers.Conv3DTranspose,
    layers.Dense,
    layers.DepthwiseConv1D,
    layers.DepthwiseConv2D,
    layers.EinsumDense,
    layers.SeparableConv1D,
    layers.SeparableConv2D,
)
# Their outputs are values of their inputs, or zeros, and the exporter moves
# codes through them.
_MOVING = (
    layers.ActivityRegularization,
    layers.Cropping1D,
    layers.Cropping2D,
    layers.Cropping3D,
    layers.Dropout,
    layers.Flatten,
    layers.Identity,
    layers.MaxPooling1D,
    layers.MaxPooling2D,
    layers.MaxPooling3D,
    layers.Permute,
    layers.Reshape,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.SpatialDropout3D,
    layers.ZeroPadding1D,
    layers.ZeroPadding2D,
    layers.ZeroPadding3D,
)
_RELUS = (keras.activations.relu, keras.activations.relu6)


class QuantizerPlaces(NamedTuple):
    """Which quantizers of activations a layer has.

    Attributes:
        input: Whether its input is quantized: if it has weights to quantize,
            and nothing before it could quantize what it reads.
        output: Whether its output is.
    """

    input: bool
    output: bool


def place_tensor_quantizers(
    model: keras.Model, has_weights: Callable[[keras.Operation], bool]
) -> dict[int, QuantizerPlaces]:
    """Decides where each tensor of a model is quantized.

    Args:
        model: A functional or sequential model.
        has_weights: Whether an operation has weights that are quantized.

    Returns:
        The places by the `id` of each layer in the graph. Layers within other
        layers, as those of attention, are not among them.

    Raises:
        ValueError: If the model has no graph.
    """
    graph = _keras.graph_calls(model)
    if graph is None:
        raise ValueError(
            "Expected a functional or sequential model, whose graph shows "
            f"its tensors, for `every_tensor`. Received: model "
            f"{model.name!r} ({type(model).__name__})"
        )
    calls, returned = graph
    readers = collections.defaultdict(list)
    for call in calls:
        for tensor in call.inputs:
            readers[tensor].append(call)
    quantized: set[int] = set()
    folded: set[int] = set()
    at_input: set[int] = set()
    at_output: set[int] = set()
    for call in calls:
        layer = call.operation
        if has_weights(layer) and call.inputs[0] not in quantized:
            at_input.add(id(layer))
        if _moves_values(layer):
            if quantized >= set(call.inputs):
                quantized |= set(call.outputs)
        elif _folds(call, readers, returned, folded):
            folded |= set(call.outputs)
        elif _is_single_layer(layer) and call.are_floats[0]:
            at_output.add(id(layer))
            quantized.add(call.outputs[0])
    operations = {id(call.operation): call.operation for call in calls}
    _log_open([x for x in operations.values() if not _is_single_layer(x)])
    return {
        key: QuantizerPlaces(key in at_input, key in at_output)
        for key in operations
    }


def _moves_values(operation: keras.Operation) -> bool:
    return isinstance(operation, _MOVING) or (
        isinstance(operation, layers.UpSampling2D)
        and operation.interpolation == "nearest"
    )


def _is_single_layer(operation: keras.Operation) -> bool:
    is_layer = isinstance(operation, layers.Layer)
    return is_layer and not _keras.sublayers(operation)


def _log_open(operations: list[keras.Operation]) -> None:
    if operations:
        logging.warning(
            "Outputs of %s stay in float, and so do the ops that read them, "
            "because they are no single layers.",
            [operation.name for operation in operations],
        )


def _folds(
    call: _keras.GraphCall,
    readers: dict[int, list[_keras.GraphCall]],
    returned: set[int],
    folded: set[int],
) -> bool:
    """Whether the exporter makes a call and the one behind it a single op."""
    (output, *others) = call.outputs
    if others or output in returned or len(readers[output]) != 1:
        return False
    layer, follower = call.operation, readers[output][0].operation
    is_linear = (
        isinstance(layer, _LINEAR)
        and layer.activation is keras.activations.linear
    )
    if isinstance(follower, layers.BatchNormalization):
        return is_linear
    is_norm = isinstance(layer, layers.BatchNormalization)
    is_norm = is_norm and folded >= set(call.inputs)
    is_sum = isinstance(layer, layers.Add)
    return _is_relu(follower) and (is_linear or is_norm or is_sum)


def _is_relu(operation: keras.Operation) -> bool:
    """Whether a runtime applies it within the op before."""
    if isinstance(operation, layers.Activation):
        return operation.activation in _RELUS
    return (
        isinstance(operation, layers.ReLU)
        and operation.max_value in (None, 6)
        and not operation.negative_slope
        and not operation.threshold
    )
