"""Which decisions each layer of a model follows."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import keras

from fliqs_keras import _keras
from fliqs_keras.layer_formats import (
    TIED,
    FormatsByLayer,
    split_decisions,
    take,
)
from fliqs_keras.model_layers import (
    ELEMENTWISE_LAYERS,
    layer_paths,
    walk_layers,
)
from fliqs_keras.quantize_configs import ACTIVATIONS
from fliqs_keras.quantized_layers import quantized_layers
from fliqs_keras.quantizers import SwitchableQuantizer


class LayerDecisions(NamedTuple):
    """The decisions that a layer follows.

    Attributes:
        weights: Name of that of its weights; `None` if it has none.
        activations: Name of that of its input and its output; `None` if
            these stay in float.
    """

    weights: str | None
    activations: str | None


def layer_decisions(model: keras.Model) -> dict[str, LayerDecisions]:
    """Returns the decisions of each quantized layer, by its path."""
    paths = layer_paths(model)
    return {
        paths[id(layer)]: LayerDecisions(
            _decision_of(layer.weight_quantizers),
            _decision_of(layer.activation_quantizers()),
        )
        for layer in quantized_layers(model)
        if layer.quantizers()
    }


def _decision_of(quantizers: list[SwitchableQuantizer]) -> str | None:
    return quantizers[0].decision if quantizers else None


def formats_by_layer(
    options: Mapping[str, Any], layers: Mapping[str, LayerDecisions]
) -> tuple[dict[str, Any], FormatsByLayer | None]:
    """Returns the formats of layers by their paths, as a search space does.

    Args:
        options: The options of decisions.
        layers: The decisions that each layer follows.

    Returns:
        The formats of weights, and those of activations. Beside the first
        stand the options of decisions that are none of a layer's own: sizes,
        and the format of every tensor.
    """
    followed = {name for pair in layers.values() for name in pair}
    weights = {
        name: option
        for name, option in options.items()
        if name not in followed or name == ACTIVATIONS
    }
    activations = {}
    are_apart = False
    for path, layer in layers.items():
        own = [name for name in layer if name not in (None, ACTIVATIONS)]
        if own:
            weights[path] = options[own[0]]
            are_apart |= own[0] != own[-1]
        if layer.activations in own:
            activations[path] = options[layer.activations]
    if are_apart:
        return weights, activations
    is_float = all(layer.activations is None for layer in layers.values())
    return weights, None if is_float else TIED


def names_tell(
    model: keras.Model,
    options: Mapping[str, Any],
    layers: Mapping[str, LayerDecisions],
) -> bool:
    """Whether the names of decisions, as patterns, tell all formats.

    Args:
        model: The quantized model.
        options: The options of its decisions.
        layers: The decisions that each of its layers follows.
    """
    found = formats_by_layer(options, layers)
    told = split_decisions(options)
    if not isinstance(found[1], Mapping) and found[1] != told[1]:
        return False
    for path, layer, lineage in walk_layers(model):
        if path in found[0]:
            is_told = all(
                take(patterns, lineage) == take(formats, lineage)
                for patterns, formats in zip(told, found, strict=True)
            )
        else:
            # What holds no matrix is not quantized, whatever selects it.
            is_told = (
                isinstance(layer, ELEMENTWISE_LAYERS)
                or not _keras.own_weights(layer)
                or not take(told[0], lineage)
            )
        if not is_told:
            return False
    return True
