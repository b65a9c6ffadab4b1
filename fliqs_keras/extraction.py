"""The small model that a search of sizes found, without masks."""

from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from fliqs_keras import _keras
from fliqs_keras._tfmot import QuantizeConfig
from fliqs_keras.adapted_state import copy_adapted_state
from fliqs_keras.channel_graph import ChannelGraph, Layout, class_of
from fliqs_keras.formats import Format
from fliqs_keras.own_classes import build_as, own_classes
from fliqs_keras.quantize import apply
from fliqs_keras.quantized_containers import hold_quantized_layers
from fliqs_keras.quantized_layers import (
    QuantizedLayer,
    as_float,
    quantize_layer,
    quantized_layers,
)
from fliqs_keras.quantizers import SwitchableQuantizer
from fliqs_keras.search_space import Formats, SearchSpace
from fliqs_keras.size_masks import BRANCH, WEIGHT, SizeMask

__all__ = ["extract"]

_WIDTH_ARGUMENTS = ("filters", "units")


def extract(
    model: keras.Model,
    search_space: SearchSpace | Formats | Mapping[str, Formats] | None = None,
    *,
    quantize_configs: Mapping[str | type, QuantizeConfig] | None = None,
    every_tensor: str | Format | None = None,
) -> keras.Model:
    """Returns the model that a search of sizes and formats found.

    A plain model of the sizes that the decisions stand on: smaller layers
    with the weights that are alive, without the blocks that are skipped and
    without masks. It stands on the same formats, with the same thresholds,
    and computes what `model` computes, but for the order of sums. Its formats
    can still be switched, and it is trained, saved and exported as any
    quantized model.

    Args:
        model: A model from `fliqs_keras.apply` with a search space that has
            an `architecture`. It is left as it is.
        search_space: A space of formats to quantize the small model with, in
            place of the formats of `model`, as `fliqs_keras.apply` does: to
            search formats after the architecture. Defaults to none.
        quantize_configs: As for `fliqs_keras.apply`, to go with
            `search_space`: those that `model` was quantized with go with its
            formats.
        every_tensor: As for `fliqs_keras.apply`, likewise.

    Returns:
        The model, not compiled.

    Raises:
        ValueError: If the model has no decisions about sizes, or if
            `quantize_configs` or `every_tensor` come without `search_space`.

    Example:

    >>> model.fit(x, y, callbacks=[search])
    >>> small = fliqs_keras.nas.extract(model)
    >>> fliqs_keras.export_tflite(small, "model.tflite")
    """
    if not any(layer.size_masks() for layer in quantized_layers(model)):
        raise ValueError(
            "Expected a model with decisions about sizes. Received: model "
            f"{model.name!r}, which has none. Call `fliqs_keras.apply` with "
            "`SearchSpace(architecture=...)`"
        )
    is_new = quantize_configs is not None or every_tensor is not None
    if search_space is None and is_new:
        raise ValueError(
            "Expected `search_space` together with `quantize_configs` or "
            "`every_tensor`, which say how to quantize anew. Received: "
            f"{every_tensor=}, {quantize_configs=} and no `search_space`. "
            "Without all of them the model stays quantized as it is"
        )
    alive = _Alive(model)
    small = _build_small(model, alive)
    pairs = [
        pair
        for small_layer in small.layers
        for pair in _pairs(model.get_layer(small_layer.name), small_layer)
    ]
    for pair in pairs:
        _copy_weights(*pair, alive)
        copy_adapted_state(*pair)
    if search_space is not None:
        return apply(
            small,
            search_space,
            quantize_configs=quantize_configs,
            every_tensor=every_tensor,
            inplace=True,
        )
    for pair in pairs:
        _copy_quantizers(*pair, alive)
    hold_quantized_layers(small)
    return small


class _Alive:
    """What of a model is alive at the sizes that it stands on.

    Args:
        model: The model.
    """

    def __init__(self, model: keras.Model):
        self._graph = ChannelGraph(model)

    def channels(self, layer: keras.Layer) -> np.ndarray:
        """Returns the positions of the output channels that are alive."""
        return self._positions(self._graph.makes[id(layer)])

    def made_by(self, layer: keras.Layer) -> int | None:
        """Returns how many channels a layer makes, if it makes any."""
        layout = self._graph.makes.get(id(layer))
        if layout is None or layer not in layout.parts[0].root.makers:
            return None
        return len(self._positions(layout))

    def of_variable(
        self, layer: keras.Layer, variable: keras.Variable
    ) -> dict[int, np.ndarray]:
        """Returns the positions of a variable that are alive, by axis."""
        rank = len(variable.shape)
        masks = _weight_masks(layer)
        if any(variable is v for v, _ in _quantized_weights(layer)):
            found: dict[int, np.ndarray] = {}
            for mask in masks:
                for axis in mask.axes:
                    both = found.get(axis % rank, True) & _is_alive(mask)
                    found[axis % rank] = both
            return {axis: np.flatnonzero(x) for axis, x in found.items()}
        layout = self._graph.makes.get(id(layer))
        if layout is not None and rank and layout.size == variable.shape[-1]:
            return {rank - 1: self._positions(layout)}
        # The biases of attention have the last axes of its kernels.
        return {
            axis - 3 + rank: np.flatnonzero(_is_alive(mask))
            for mask in masks
            if not mask.acts
            for axis in mask.axes
            if axis - 3 + rank >= 0
        }

    def _positions(self, layout: Layout) -> np.ndarray:
        start, positions = 0, []
        for part in layout.parts:
            size = part.size
            for maker in part.root.makers:
                for mask in _weight_masks(maker):
                    if not mask.acts:
                        size = min(size, _size(mask))
            positions.append(start + np.arange(size))
            start += part.size
        once = np.concatenate(positions)
        return np.concatenate(
            [once + start * repeat for repeat in range(layout.repeats)]
        )


def _build_small(model: keras.Model, alive: _Alive) -> keras.Model:
    with as_float(model):
        config = model.get_config()
        classes = own_classes(model)
    layers = {layer.name: layer for layer in model.layers}
    for entry in config["layers"]:
        # They are built anew, for other shapes.
        entry.pop("build_config", None)
        # The input of a sequential model is none of its layers.
        if (layer := layers.get(entry["config"]["name"])) is not None:
            _shrink(entry, layer, alive)
    return build_as(class_of(model), config, classes)


def _shrink(entry: dict[str, Any], layer: keras.Layer, alive: _Alive) -> None:
    """Gives the config of a layer the sizes that are alive."""
    config = entry["config"]
    made = alive.made_by(layer)
    for argument in _WIDTH_ARGUMENTS:
        if made is not None and argument in config:
            config[argument] = made
    # That of a scalar is empty.
    if (config.get("target_shape") or [-1])[-1] != -1:
        config["target_shape"] = [
            *config["target_shape"][:-1],
            len(alive.channels(layer)),
        ]
    if isinstance(layer, keras.layers.MultiHeadAttention):
        for mask in _weight_masks(layer.output_dense):
            config["num_heads"] = _size(mask)
    for mask in _weight_masks(layer):
        # Those of channels count their axis from the end.
        if mask.axes[0] == 0 and "kernel_size" in config:
            config["kernel_size"] = [_size(mask)] * len(mask.axes)
    for mask in _masks(layer):
        if mask.subject == BRANCH and not _size(mask):
            _leave_out_branch(entry, *mask.axes)


def _leave_out_branch(entry: dict[str, Any], branch: int) -> None:
    """Turns a sum into what hands its shortcut on."""
    identity = keras.layers.Identity(name=entry["config"]["name"])
    entry.update(keras.saving.serialize_keras_object(identity))
    (node,) = entry["inbound_nodes"]
    summands = (node["args"] or [node["kwargs"].pop("inputs")])[0]
    node["args"] = [summands[1 - branch]]


def _pairs(
    layer: keras.Layer, counterpart: keras.Layer
) -> Iterator[tuple[keras.Layer, keras.Layer]]:
    """Yields the layers that hold weights, each with its counterpart."""
    yield layer, counterpart
    if not isinstance(layer, QuantizedLayer):
        for pair in zip(
            _keras.sublayers(layer), _keras.sublayers(counterpart), strict=True
        ):
            yield from _pairs(*pair)


def _copy_weights(
    layer: keras.Layer, counterpart: keras.Layer, alive: _Alive
) -> None:
    """Copies what is alive of the weights."""
    state = {
        id(weight)
        for switch in (*_quantizers(layer), *_masks(layer))
        for weight in switch.weights
    }
    is_quantized = isinstance(layer, QuantizedLayer)
    own = layer.weights if is_quantized else _keras.own_weights(layer)
    small = (
        counterpart.weights if is_quantized else _keras.own_weights(counterpart)
    )
    own = [weight for weight in own if id(weight) not in state]
    for weight, small_weight in zip(own, small, strict=True):
        value = ops.convert_to_numpy(_keras.master_value(weight))
        small_weight.assign(_take(value, alive.of_variable(layer, weight)))
        # Weights can be frozen one by one.
        if weight.trainable != small_weight.trainable:
            small_weight.trainable = weight.trainable


def _copy_quantizers(
    layer: keras.Layer, counterpart: keras.Layer, alive: _Alive
) -> None:
    """Quantizes a layer as it was, with what is alive of the thresholds."""
    if not _quantizers(layer):
        return
    quantize_layer(counterpart, layer.quantize_config)
    for quantizer, new in zip(
        layer.quantizers(), counterpart.quantizers(), strict=True
    ):
        new.index.assign(quantizer.index)
    for quantizer, new in zip(
        layer.activation_quantizers(),
        counterpart.activation_quantizers(),
        strict=True,
    ):
        new.shares.assign(quantizer.shares)
        new.range.assign(quantizer.range)
    for (variable, quantizer), (small_variable, new) in zip(
        layer.quantized_weights(), counterpart.quantized_weights(), strict=True
    ):
        found = quantizer.thresholds_for(layer.weight_value(variable))
        kept = {
            axis + 1: positions
            for axis, positions in alive.of_variable(layer, variable).items()
            # Only channels have thresholds of their own.
            if found.shape[1:] and found.shape[axis + 1] > 1
        }
        found = _take(ops.convert_to_numpy(found), kept)
        new.keep_thresholds(counterpart.weight_value(small_variable), found)


def _take(value: np.ndarray, alive: dict[int, np.ndarray]) -> np.ndarray:
    for axis, positions in alive.items():
        value = np.take(value, positions, axis)
    return value


def _masks(layer: keras.Layer) -> list[SizeMask]:
    return layer.size_masks() if isinstance(layer, QuantizedLayer) else []


def _weight_masks(layer: keras.Layer) -> list[SizeMask]:
    return [mask for mask in _masks(layer) if mask.subject == WEIGHT]


def _quantizers(layer: keras.Layer) -> list[SwitchableQuantizer]:
    return layer.quantizers() if isinstance(layer, QuantizedLayer) else []


def _quantized_weights(layer: keras.Layer) -> list:
    is_quantized = isinstance(layer, QuantizedLayer)
    return layer.quantized_weights() if is_quantized else []


def _size(mask: SizeMask) -> int:
    return mask.options[int(ops.convert_to_numpy(mask.index))]


def _is_alive(mask: SizeMask) -> np.ndarray:
    return np.array(mask.ranks) < _size(mask)
