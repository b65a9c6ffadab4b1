"""How quantized weights and inputs get into a layer.

A built layer becomes an instance of a generated subclass of its own class.
That class runs the original `call` on the quantized input, in a scope in
which reads of the quantized variables return quantized tensors. The layer
keeps its name, its weights and its place in the model, and nothing needs to
know how its `call` reads them.
"""

import contextlib
import contextvars
import functools
import inspect
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import keras

from fliqs_keras import _keras
from fliqs_keras.own_classes import deserialize_float
from fliqs_keras.quantize_configs import (
    MERGE_ADAPTERS,
    SwitchableQuantizeConfig,
)
from fliqs_keras.quantizers import (
    SwitchableQuantizer,
    require_quantized_weights,
)
from fliqs_keras.size_masks import (
    BRANCH,
    INPUT,
    OUTPUT,
    WEIGHT,
    SizeMask,
    mask_all,
)

Tensor = Any


class CallHook:
    """What a quantized layer does to its tensors when it is called.

    The base class quantizes. Others, made active by `use_hook`, observe or
    replace: that is how ranges are calibrated, shapes are counted and models
    are exported, without a second way through a layer.
    """

    def weight(
        self,
        layer: keras.layers.Layer,
        variable: keras.Variable,
        quantizer: SwitchableQuantizer,
    ) -> Tensor:
        """Returns the tensor that reads of `variable` return."""
        return quantizer(layer.weight_value(variable))

    def enter(self, layer: keras.layers.Layer, inputs: Tensor) -> Tensor:
        """Returns the layer's first input, before it is quantized."""
        return inputs

    def input(
        self,
        layer: keras.layers.Layer,
        quantizer: SwitchableQuantizer,
        inputs: Tensor,
    ) -> Tensor:
        """Returns the tensor that the layer computes on."""
        return quantizer(inputs)

    def output(
        self,
        layer: keras.layers.Layer,
        quantizer: SwitchableQuantizer,
        outputs: Tensor,
    ) -> Tensor:
        """Returns the tensor that the layer returns."""
        return quantizer(outputs)

    def called(
        self, layer: keras.layers.Layer, inputs: Tensor, outputs: Tensor
    ) -> None:
        """Sees what the layer computed on and what it returns."""


_QUANTIZE = CallHook()
_hook = contextvars.ContextVar("fliqs_keras_call_hook", default=None)


@contextlib.contextmanager
def use_hook(hook: CallHook) -> Iterator[None]:
    """Makes `hook` the one that quantized layers call."""
    token = _hook.set(hook)
    try:
        yield
    finally:
        _hook.reset(token)


class QuantizedLayer:
    """What a layer's generated class adds to the layer's own class.

    Attributes:
        quantize_config: The `SwitchableQuantizeConfig`.
        input_quantizer: The quantizer of the first input, or `None`.
        output_quantizer: The quantizer of the first output, or `None`.
        quantized_weights: A function that returns the quantized variables,
            each with its quantizer.
        size_masks: A function that returns the layer's `SizeMask`s.
    """

    def call(self, *args, **kwargs):
        hook = _hook.get() or _QUANTIZE
        args, kwargs, inputs = self._quantize_input(hook, args, kwargs)
        substitutes = []
        for variable, quantizer in self.quantized_weights():
            weight = hook.weight(self, variable, quantizer)
            dtypes = variable.dtype, self.variable_dtype
            weight = keras.ops.cast(weight, keras.backend.result_type(*dtypes))
            substitutes.append((variable, weight))
        with _keras.SubstituteScope(substitutes) as scope:
            outputs = super().call(*args, **kwargs)
        for loss in scope.losses:
            self.add_loss(loss)
        if self.output_quantizer is not None:
            first, *others = _as_list(outputs)
            first = hook.output(self, self.output_quantizer, first)
            outputs = type(outputs)([first, *others]) if others else first
        hook.called(self, inputs, keras.tree.flatten(outputs)[0])
        return outputs

    def weight_value(self, variable: keras.Variable) -> Tensor:
        """Returns a quantized variable before it is quantized, masked."""
        # In the precision of scales, whatever that of the variable.
        value = keras.ops.cast(_keras.master_value(variable), "float32")
        return mask_all(self.size_masks(), WEIGHT, value)

    def _quantize_input(self, hook, args, kwargs):
        """Returns the arguments, and the first tensor of the first one."""
        args = list(args)
        name = _first_argument(type(self).float_class)
        if not args and name not in kwargs:
            name = next(iter(kwargs))
        holder, key = (args, 0) if args else (kwargs, name)
        holder[key] = hook.enter(self, holder[key])
        for mask in self.size_masks():
            if mask.subject == BRANCH:
                holder[key] = list(holder[key])
                (branch,) = mask.axes
                holder[key][branch] = mask(holder[key][branch])
        if self.input_quantizer is not None:
            holder[key] = keras.tree.map_structure(
                lambda x: hook.input(self, self.input_quantizer, x),
                holder[key],
            )
        return args, kwargs, keras.tree.flatten(holder[key])[0]

    @property
    def weight_quantizers(self) -> list[SwitchableQuantizer]:
        """A quantizer for each quantized variable."""
        return [quantizer for _, quantizer in self.quantized_weights()]

    def activation_quantizers(self) -> list[SwitchableQuantizer]:
        """Returns the quantizers of the input and of the output."""
        quantizers = (self.input_quantizer, self.output_quantizer)
        return [q for q in quantizers if q is not None]

    def quantizers(self) -> list[SwitchableQuantizer]:
        """Returns all quantizers of the layer."""
        return [*self.weight_quantizers, *self.activation_quantizers()]

    def enable_lora(self, *args, **kwargs):
        """Refuses low-rank adapters: quantizers see variables, not sums."""
        raise ValueError(
            f"Expected layer {self.name!r} to stay as `apply` made it. "
            f"Received: `enable_lora`. {MERGE_ADAPTERS}"
        )

    def load_own_variables(self, store):
        if _keras.own_weights(self):
            require_quantized_weights(self.path, store)
        super().load_own_variables(store)

    def get_config(self):
        with as_float(self):
            layer = keras.saving.serialize_keras_object(self)
        return {
            "name": self.name,
            "layer": layer,
            "quantize_config": keras.saving.serialize_keras_object(
                self.quantize_config
            ),
            "size_masks": [mask.get_config() for mask in self.size_masks()],
        }

    @classmethod
    def from_config(cls, config):
        # The class that Keras found may have been generated for another base:
        # all of them share one registered name, and `layer` says which it is.
        layer = deserialize_float(cls, config["layer"])
        quantize_config = keras.saving.deserialize_keras_object(
            config["quantize_config"]
        )
        masks = [SizeMask(**mask) for mask in config.get("size_masks", ())]
        quantize_layer(layer, quantize_config, masks=masks)
        return layer

    def get_build_config(self):
        # `from_config` returns a layer that is built.
        return None


@functools.lru_cache(maxsize=None)
def _first_argument(layer_class: type) -> str:
    """Returns the name of the first argument of the `call` of a class."""
    _, *names = inspect.signature(layer_class.call).parameters
    return names[0] if names else ""


def _as_list(x: Any) -> list:
    return list(x) if isinstance(x, list | tuple) else [x]


def generated_class(
    mixin: type, base: type, prefix: str, registered_name: str
) -> type:
    """Returns the subclass of a layer class that a mixin comes first in.

    All classes of one mixin are registered under one name, so that a file
    can be loaded before any of them was generated; `from_config` reads from
    the config which layer it is.
    """
    generated = type(
        f"{prefix}{base.__name__}",
        (mixin, base),
        {"float_class": base, "__doc__": base.__doc__},
    )
    package, name = registered_name.split(">")
    return keras.saving.register_keras_serializable(package, name)(generated)


@contextlib.contextmanager
def as_float(layer: keras.layers.Layer) -> Iterator[None]:
    """Gives a layer and all its sublayers their own classes back.

    Keras then writes them down as what they were before `apply`.
    """
    generated = [
        (sublayer, type(sublayer))
        for sublayer in _keras.flatten_layers(layer)
        if hasattr(type(sublayer), "float_class")
    ]
    try:
        for sublayer, cls in generated:
            sublayer.__class__ = cls.float_class
        yield
    finally:
        for sublayer, cls in generated:
            sublayer.__class__ = cls


_REGISTERED_NAME = "fliqs_keras>QuantizedLayer"
keras.saving.get_custom_objects()[_REGISTERED_NAME] = QuantizedLayer


@functools.lru_cache(maxsize=None)
def _quantized_class(base: type) -> type:
    return generated_class(QuantizedLayer, base, "Quantized", _REGISTERED_NAME)


class LayerQuantizers(NamedTuple):
    """What a config asks for: checked, not yet part of the layer."""

    weights: list[tuple[keras.Variable, SwitchableQuantizer]]
    input: SwitchableQuantizer | None
    output: SwitchableQuantizer | None


def make_quantizers(
    layer: keras.layers.Layer,
    config: SwitchableQuantizeConfig,
    masks: Sequence[SizeMask] = (),
) -> LayerQuantizers:
    """Makes the quantizers of a layer, which stays as it is.

    Args:
        layer: A layer whose variables exist.
        config: Its config, with formats.
        masks: Its sizes that can be switched.

    Raises:
        ValueError: If the layer is quantized already, by Keras or here, or
            if the config or the masks do not fit it.
    """
    if getattr(layer, "quantization_mode", None) is not None:
        raise ValueError(
            f"Expected float layers. Received: layer {layer.name!r}, which "
            f"Keras quantized to {layer.quantization_mode!r}. Apply to the "
            "model as it was before `model.quantize`"
        )
    weights = config.get_weights_and_quantizers(layer)
    has_masks = any(mask.subject == WEIGHT for mask in masks)
    if has_masks and [v is layer.kernel for v, _ in weights] != [True]:
        raise ValueError(
            "Expected layers of which the kernel alone is quantized, to "
            f"choose their size. Received: layer {layer.name!r}, of which "
            f"{[v.name for v, _ in weights]} are. Leave it out of the "
            "architecture"
        )
    outputs = config.get_output_quantizers(layer)
    if len(outputs) > 1:
        raise ValueError(
            "Expected at most one output quantizer. Received: "
            f"{len(outputs)} for layer {layer.name!r}"
        )
    made = LayerQuantizers(
        weights, config.get_input_quantizer(layer), next(iter(outputs), None)
    )
    formats = {}
    for quantizer in [q for _, q in weights] + [q for q in made[1:] if q]:
        first = formats.setdefault(quantizer.decision, quantizer.formats)
        if quantizer.formats != first:
            raise ValueError(
                "Expected the quantizers of one decision to hold the same "
                f"formats. Received: {[f.name for f in first]} and "
                f"{[f.name for f in quantizer.formats]} for layer "
                f"{layer.name!r}"
            )
    return made


def quantize_layer(
    layer: keras.layers.Layer,
    config: SwitchableQuantizeConfig,
    quantizers: LayerQuantizers | None = None,
    masks: Sequence[SizeMask] = (),
) -> None:
    """Turns a built layer into a quantized one, in place.

    Args:
        layer: A layer whose variables exist.
        config: Its config, with formats.
        quantizers: What `make_quantizers` returned for them.
        masks: Its sizes that can be switched.
    """
    made = quantizers or make_quantizers(layer, config)
    with _keras.unlocked(layer), _name_scopes(layer.path or layer.name):
        for variable, quantizer in made.weights:
            quantizer.build(variable.shape)
        for quantizer in made[1:]:
            if quantizer is not None:
                quantizer.build(())
        layer.quantize_config = config
        # Not a list, of which a TensorFlow checkpoint would save nothing.
        for number, (_, quantizer) in enumerate(made.weights):
            setattr(layer, f"weight_quantizer_{number}", quantizer)
        layer.input_quantizer = made.input
        layer.output_quantizer = made.output
        for number, mask in enumerate(masks):
            mask.build(())
            setattr(layer, f"size_mask_{number}", mask)
    # Behind a function, because Keras tracks what it finds in attributes, and
    # the variables have their places already.
    layer.quantized_weights = functools.partial(list, made.weights)
    layer.size_masks = functools.partial(list, masks)
    for quantizer, subject in ((made.input, INPUT), (made.output, OUTPUT)):
        if any(mask.subject == subject for mask in masks) and quantizer:
            quantizer.alive_part = functools.partial(mask_all, masks, subject)
    if isinstance(layer, keras.layers.RNN):
        # `Bidirectional` hands the weights of two layers to a fused kernel,
        # past the layers and so past their quantizers.
        layer.use_cudnn = False
    layer.__class__ = _quantized_class(type(layer))


@contextlib.contextmanager
def _name_scopes(path: str) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for name in path.split("/"):
            stack.enter_context(keras.name_scope(name))
        yield


def quantized_layers(model: keras.layers.Layer) -> list[QuantizedLayer]:
    """Returns the quantized layers of a model, in the order of its layers."""
    found = []
    seen = set()

    def visit(layer):
        if id(layer) in seen:
            return
        seen.add(id(layer))
        if isinstance(layer, QuantizedLayer):
            found.append(layer)
            return
        for sublayer in _keras.sublayers(layer):
            visit(sublayer)

    visit(model)
    return found
