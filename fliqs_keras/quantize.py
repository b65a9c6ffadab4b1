"""From a model to a quantized model."""

from collections.abc import Iterator, Sequence

import keras
from absl import logging

from fliqs_keras import _keras
from fliqs_keras.formats import Format
from fliqs_keras.quantize_configs import find_quantize_config
from fliqs_keras.quantized_layers import quantize_layer, quantized_layers
from fliqs_keras.search_space import SearchSpace

__all__ = ["apply"]


def apply(
    model: keras.Model,
    search_space: SearchSpace | str | Format | Sequence[str | Format],
) -> keras.Model:
    """Returns a copy of a model whose layers can switch number formats.

    Every dense and convolutional layer of the copy quantizes its weights
    (symmetric, one scale an output channel) and its input (symmetric, one
    scale), to the format that its decision stands on: at first the widest of
    the search space. Gradients pass straight through. The copy keeps the
    names and the weights of the layers and is compiled, trained and saved as
    any Keras model. Layers that hold weights but are left in float are
    logged with the reason.

    Activation thresholds are not known yet: the first training steps set
    them, or `fliqs_keras.calibrate`. Until then a quantized layer outputs
    NaN.

    Args:
        model: A built `keras.Model`. It is left untouched.
        search_space: A `SearchSpace`, a list of formats or format names, or
            one format: plain quantization-aware training.

    Returns:
        The quantized copy, not compiled.

    Raises:
        ValueError: If the model is not a built Keras model, is quantized
            already, or has nothing to quantize, or if a format is unknown.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> quantized = fliqs_keras.apply(model, ["INT4", "INT8"])
    """
    space = SearchSpace.of(search_space)
    _check_model(model)
    quantized = _copy_model(model)
    left_out = []
    for path, layer in _leaf_layers(quantized):
        config = find_quantize_config(layer)
        if config is not None:
            quantize_layer(layer, config.for_decision(space.formats, path))
        elif layer.weights:
            left_out.append((path, type(layer).__name__))
    layers = quantized_layers(quantized)
    if not layers:
        raise ValueError(
            "Expected a model with at least one Dense, Conv or DepthwiseConv "
            f"layer to quantize. Received: model {model.name!r} with layers "
            f"{[type(layer).__name__ for layer in model.layers]}"
        )
    for layer in layers:
        for variable, quantizer in layer.quantized_weights():
            weight = _keras.master_value(variable)
            quantizer.set_thresholds(weight, quantizer.range_of(weight))
    for path, class_name in left_out:
        logging.info(
            "Layer %r stays in float: no quantize config for class %s.",
            path,
            class_name,
        )
    return quantized


def _check_model(model: keras.Model) -> None:
    if not isinstance(model, keras.Model):
        raise ValueError(
            "Expected a `keras.Model`. Received: "
            f"{type(model).__name__}. Wrap the layers in a model first"
        )
    if not model.built:
        raise ValueError(
            "Expected a model that is built, because the weights are read. "
            f"Received: model {model.name!r}, which is not. Call "
            "`model.build(input_shape)`, or the model on some data, first"
        )
    if quantized_layers(model):
        raise ValueError(
            "Expected a float model. Received: model "
            f"{model.name!r}, to which `apply` was applied already. Start "
            "from the float model, or set other formats by "
            "`FormatAssignment.apply_to`"
        )


def _copy_model(model: keras.Model) -> keras.Model:
    # `clone_model` would rename the inputs. Classes that are not registered
    # are found by their names.
    classes = {
        type(layer).__name__: type(layer)
        for layer in _keras.flatten_layers(model)
    }
    with keras.saving.custom_object_scope(
        {
            k: v
            for k, v in classes.items()
            if not v.__module__.startswith("keras.")
        }
    ):
        copy = type(model).from_config(model.get_config())
    if not copy.built:
        copy.build_from_config(model.get_build_config())
    copy.set_weights(model.get_weights())
    return copy


def _leaf_layers(
    model: keras.Model,
) -> Iterator[tuple[str, keras.layers.Layer]]:
    """Yields each layer that computes, with its path of layer names."""
    seen = set()
    paths = set()

    def visit(layer, path):
        for sublayer in _keras.sublayers(layer):
            if id(sublayer) in seen:
                continue
            seen.add(id(sublayer))
            name = f"{path}/{sublayer.name}" if path else sublayer.name
            if find_quantize_config(sublayer) is None:
                yield from visit(sublayer, name)
            if not _keras.sublayers(sublayer):
                yield _unique(name, paths), sublayer

    yield from visit(model, "")


def _unique(name: str, taken: set[str]) -> str:
    unique = name
    number = 1
    while unique in taken:
        unique = f"{name}_{number}"
        number += 1
    taken.add(unique)
    return unique
