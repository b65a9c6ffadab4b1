"""Where the layers of a model stand, and which of them stay in float."""

import itertools
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import keras

from fliqs_keras import _keras
from fliqs_keras.quantize_configs import SwitchableQuantizeConfig
from fliqs_keras.quantize_registry import NO_CONFIGS, find_quantize_config
from fliqs_keras.quantized_layers import QuantizedLayer

SwitchableConfigs = Mapping[str | type, SwitchableQuantizeConfig]


class Place(NamedTuple):
    """Where a layer stands in a model.

    Attributes:
        path: The names of the layers that it stands in and its own, joined
            by `/`; unique in the model.
        layer: The layer.
        lineage: The layers that it stands in and itself, by path.
    """

    path: str
    layer: keras.layers.Layer
    lineage: dict[str, keras.layers.Layer]


def walk_layers(
    model: keras.Model, own: SwitchableConfigs = NO_CONFIGS
) -> Iterator[Place]:
    """Yields every layer in a model, at every depth, once.

    Parts of a layer that has a quantize config, such as the cell of a
    recurrent layer, are not layers of the model.

    Args:
        model: The model.
        own: Configs besides those of the registry.
    """
    seen = set()
    taken = set()

    def visit(layer, prefix, lineage):
        for sublayer in _keras.sublayers(layer):
            if id(sublayer) in seen:
                continue
            seen.add(id(sublayer))
            path = _unique(prefix + sublayer.name, taken)
            place = Place(path, sublayer, {**lineage, path: sublayer})
            yield place
            is_whole = isinstance(sublayer, QuantizedLayer) or (
                find_quantize_config(sublayer, own, path) is not None
            )
            if not is_whole:
                yield from visit(sublayer, f"{path}/", place.lineage)

    yield from visit(model, "", {})


def layer_paths(model: keras.Model) -> dict[int, str]:
    """Returns the path of every layer in a model, by the layer's `id`."""
    return {id(place.layer): place.path for place in walk_layers(model)}


def _unique(name: str, taken: set[str]) -> str:
    names = itertools.chain(
        [name], (f"{name}_{number}" for number in itertools.count(1))
    )
    unique = next(n for n in names if n not in taken)
    taken.add(unique)
    return unique


class LeftOut(NamedTuple):
    """Weights that stay in float.

    Attributes:
        path: Path of the layer that holds them.
        layer: The layer.
        weights: The weights.
        reason: Why they stay in float.
    """

    path: str
    layer: keras.layers.Layer
    weights: list[keras.Variable]
    reason: str


ELEMENTWISE_LAYERS = (
    keras.layers.BatchNormalization,
    keras.layers.GroupNormalization,
    keras.layers.LayerNormalization,
    keras.layers.RMSNormalization,
    keras.layers.UnitNormalization,
    keras.layers.Normalization,
    keras.layers.PReLU,
)


def _unnamed_matrices(layer: QuantizedLayer) -> list[keras.Variable]:
    """Returns what a quantized layer and its parts multiply by in float."""
    known = [variable for variable, _ in layer.quantized_weights()]
    for switch in (*layer.quantizers(), *layer.size_masks()):
        known += switch.weights
    if isinstance(layer, keras.layers.RNN):
        known += keras.tree.flatten(layer.states or [])
    ids = {id(variable) for variable in known}
    return [
        weight
        for weight in layer.weights
        if id(weight) not in ids
        and len(weight.shape) > 1
        and not weight.name.endswith("bias")
    ]


def left_out(model: keras.Model) -> list[LeftOut]:
    """Returns the layers of a quantized model whose weights stay in float."""
    found = []
    top = Place(model.name, model, {})
    for path, layer, _ in itertools.chain([top], walk_layers(model)):
        is_quantized = isinstance(layer, QuantizedLayer)
        weights = (
            _unnamed_matrices(layer)
            if is_quantized
            else _keras.own_weights(layer)
        )
        if not weights:
            continue
        if is_quantized:
            reason = "not named by the layer's quantize config"
        elif isinstance(layer, ELEMENTWISE_LAYERS):
            reason = "elementwise, not a multiplication of matrices"
        elif find_quantize_config(layer) is not None:
            reason = (
                "was not quantized when `apply` was called: left out by the "
                "search space, or without a quantize config then"
            )
        else:
            name = getattr(layer, "float_class", type(layer)).__name__
            reason = f"no quantize config is registered for {name}"
        found.append(LeftOut(path, layer, weights, reason))
    return found
