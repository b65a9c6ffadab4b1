"""From a model to a quantized model."""

from collections.abc import Mapping

import keras
from absl import logging

from fliqs_keras import _keras
from fliqs_keras._tfmot import QuantizeConfig
from fliqs_keras.adapted_state import copy_adapted_state
from fliqs_keras.architecture_plans import Masks, plan_sizes
from fliqs_keras.assignments import FormatAssignment
from fliqs_keras.formats import Format, parse_format
from fliqs_keras.layer_plans import LayerPlan, plan_layers
from fliqs_keras.model_layers import (
    ELEMENTWISE_LAYERS,
    Place,
    SwitchableConfigs,
    left_out,
    walk_layers,
)
from fliqs_keras.own_classes import own_classes
from fliqs_keras.quantize_configs import (
    ACTIVATIONS,
    SwitchableQuantizeConfig,
)
from fliqs_keras.quantize_registry import as_switchable, find_quantize_config
from fliqs_keras.quantized_containers import hold_quantized_layers
from fliqs_keras.quantized_layers import (
    make_quantizers,
    quantize_layer,
    quantized_layers,
)
from fliqs_keras.search_space import Formats, SearchSpace
from fliqs_keras.tensor_quantizers import place_tensor_quantizers

__all__ = ["apply"]


def apply(
    model: keras.Model,
    search_space: SearchSpace | Formats | Mapping[str, Formats],
    *,
    quantize_configs: Mapping[str | type, QuantizeConfig] | None = None,
    every_tensor: str | Format | None = None,
    inplace: bool = False,
) -> keras.Model:
    """Returns a copy of a model whose layers can switch number formats.

    Every layer of a class that has a quantize config quantizes its weights
    (symmetric, one scale an output channel) and its input (symmetric, one
    scale), to the format that its decision stands on: at first the widest of
    the search space. These are dense, einsum, embedding and recurrent layers
    and convolutions of all kinds, wherever they stand: in nested and
    subclassed models, in attention layers, wrappers and custom layers.
    Gradients pass straight through. The copy keeps the names and the weights
    of the layers and is compiled, trained and saved as any Keras model.
    Weights that stay in float are logged; `fliqs_keras.summary` lists them
    with the reasons.

    Activation thresholds are not known yet: the first training steps set
    them, or `fliqs_keras.calibrate`. Until then a quantized layer refuses to
    be evaluated.

    Args:
        model: A built `keras.Model`. It is left untouched, unless `inplace`.
        search_space: A `SearchSpace`, or a list of formats or format names.
            One format is plain quantization-aware training, and so is a
            `FormatAssignment`: each of its layers takes its format, and other
            layers are left in float. One of a model has its weights and its
            activations in the formats of that model, each layer on its own.
        quantize_configs: Quantize configs by the path, the name or the class
            of layers, which go before those of
            `fliqs_keras.register_quantize_config`.
        every_tensor: A format that every tensor between layers takes, in
            place of the formats of the layers that read it: each tensor,
            those of residual sums, of pooling and the output included, is
            quantized once, for all that read it. `"INT8"` lets
            `export_tflite(mode="integer")` compute in integers throughout.
            Only for functional and sequential models. Defaults to `None`:
            each layer quantizes its input to its own format. A
            `FormatAssignment` of a model that was made so says it itself.
        inplace: Whether `model` itself is quantized and returned. Needed for
            a subclassed model without a `get_config`.

    Returns:
        The quantized model. A copy is not compiled.

    Raises:
        ValueError: If the model is not a built Keras model, is quantized
            already, cannot be copied or has nothing to quantize, if a format
            is unknown, or if a config or a pattern fits no layer. The model
            is then unchanged.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> quantized = fliqs_keras.apply(model, ["INT4", "INT8"])
    """
    if isinstance(search_space, Mapping) and ACTIVATIONS in search_space:
        given = search_space[ACTIVATIONS]
        every_tensor = given if every_tensor is None else every_tensor
        others = {k: v for k, v in search_space.items() if k != ACTIVATIONS}
        if isinstance(search_space, FormatAssignment):
            others = FormatAssignment(others, layers=search_space.layers)
        search_space = others
    space = SearchSpace.of(search_space)
    tensor_format = None if every_tensor is None else parse_format(every_tensor)
    _check_model(model)
    if tensor_format is not None and space.activations != "tied":
        raise ValueError(
            "Expected `every_tensor`, which gives all activations one format, "
            "or a search space of formats for activations, not both. "
            f"Received: every_tensor={tensor_format.name!r} and {space}"
        )
    own = {k: as_switchable(v) for k, v in (quantize_configs or {}).items()}
    quantized = model if inplace else _copy_model(model)
    places = list(walk_layers(quantized, own))
    _check_own_configs(own, places)
    choices = _choose_configs(quantized, places, space, own, tensor_format)
    masks = plan_sizes(
        quantized, space.architecture, places, [c.layer for c in choices]
    )
    choices = _hold_masks(choices, places, masks)
    # All of them are made, and so checked, before any layer is changed.
    made = [
        make_quantizers(layer, config, masks.get(id(layer), ()))
        for layer, config in choices
    ]
    for choice, quantizers in zip(choices, made, strict=True):
        layer, config = choice
        quantize_layer(layer, config, quantizers, masks.get(id(layer), ()))
    hold_quantized_layers(quantized)
    # What was traced before computes in float.
    quantized.train_function = None
    quantized.test_function = None
    quantized.predict_function = None
    for layer in quantized_layers(quantized):
        for variable, quantizer in layer.quantized_weights():
            quantizer.set_thresholds(layer.weight_value(variable))
    _log_left_out(quantized)
    return quantized


def _choose_configs(
    model: keras.Model,
    places: list[Place],
    space: SearchSpace,
    own: SwitchableConfigs,
    tensor_format: Format | None,
) -> list[LayerPlan]:
    """Returns the layers to quantize, each with its config and formats."""
    choices = plan_layers(model, space, own, places)
    if tensor_format is None:
        return choices
    return _quantize_every_tensor(
        model, choices, places, space, own, tensor_format
    )


def _quantize_every_tensor(
    model: keras.Model,
    choices: list[LayerPlan],
    places: list[Place],
    space: SearchSpace,
    own: SwitchableConfigs,
    tensor_format: Format,
) -> list[LayerPlan]:
    """Has activations quantized where they are made, to one format.

    Layers with a config of the caller's are left as that says, and layers
    within others, as those of attention, quantize their inputs.
    """
    chosen = {id(choice.layer): choice.config for choice in choices}
    tensors = place_tensor_quantizers(model, lambda x: id(x) in chosen)
    result = []
    for place in places:
        layer = place.layer
        config = chosen.get(id(layer))
        at = tensors.get(id(layer))
        if config is None:
            is_left_out = find_quantize_config(
                layer, own, place.path
            ) is not None or not space.admits(place.lineage)
            if is_left_out or not at or not at.output:
                continue
            config = SwitchableQuantizeConfig(()).for_decision((), place.path)
        keys = {place.path, layer.name, *type(layer).__mro__}
        if keys.isdisjoint(own):
            # Embeddings read ids, which are no numbers.
            reads_numbers = config.quantize_input
            config = config.with_activations(
                input=reads_numbers and (at.input if at else True),
                output=at is not None and at.output,
                format=tensor_format,
            )
        result.append(LayerPlan(layer, config))
    return result


def _hold_masks(
    choices: list[LayerPlan], places: list[Place], masks: Masks
) -> list[LayerPlan]:
    """Adds the layers that are not quantized but have a size, as sums do."""
    chosen = {id(choice.layer) for choice in choices}
    config = SwitchableQuantizeConfig((), quantize_input=False)
    return choices + [
        LayerPlan(place.layer, config)
        for place in places
        if id(place.layer) in masks and id(place.layer) not in chosen
    ]


def _check_own_configs(own: SwitchableConfigs, places: list[Place]) -> None:
    for key in own:
        if isinstance(key, type):
            is_used = any(isinstance(p.layer, key) for p in places)
        else:
            is_used = any(key in (p.path, p.layer.name) for p in places)
        if not is_used:
            raise ValueError(
                "Expected every key of `quantize_configs` to be a path, a "
                "name or a class of a layer of the model. Received: "
                f"{key!r}, which is none of {[p.path for p in places]}"
            )


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
    # `clone_model` would rename the inputs.
    classes = own_classes(
        model,
        ", or have `fliqs_keras.apply` quantize the model itself, with "
        "`inplace=True`",
    )
    try:
        with keras.saving.custom_object_scope(classes):
            copy = type(model).from_config(model.get_config())
        if not copy.built:
            copy.build_from_config(model.get_build_config())
            copy.built = True
        copy.set_weights(model.get_weights())
    except (NotImplementedError, TypeError, ValueError) as error:
        raise ValueError(
            "Expected a model that can be copied: built anew from its "
            f"`get_config` and `get_build_config`. Received: model "
            f"{model.name!r} ({type(model).__name__}), for which this failed "
            f"({error}). Have `fliqs_keras.apply` quantize the model itself, "
            "with `inplace=True`"
        ) from error
    layers = zip(
        _keras.flatten_layers(model), _keras.flatten_layers(copy), strict=True
    )
    for layer, layer_copy in layers:
        copy_adapted_state(layer, layer_copy)
        # From the top down, because a layer sets those below it, too.
        if layer.trainable != layer_copy.trainable:
            layer_copy.trainable = layer.trainable
    # Weights can be frozen one by one, too, which no config says.
    for weight, weight_copy in zip(model.weights, copy.weights, strict=True):
        if weight.trainable != weight_copy.trainable:
            weight_copy.trainable = weight.trainable
    return copy


def _log_left_out(model: keras.Model) -> None:
    for row in left_out(model):
        is_expected = isinstance(row.layer, ELEMENTWISE_LAYERS)
        logging.log(
            logging.DEBUG if is_expected else logging.WARNING,
            "Weights %s of layer %r stay in float: %s.",
            [weight.name for weight in row.weights],
            row.path,
            row.reason,
        )
