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
from collections.abc import Iterator
from typing import Any

import keras

from fliqs_keras import _keras
from fliqs_keras.quantize_configs import SwitchableQuantizeConfig
from fliqs_keras.quantizers import SwitchableQuantizer

Tensor = Any

_REGISTERED_NAME = "fliqs_keras>QuantizedLayer"


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
        return quantizer(_keras.master_value(variable))

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
        self, layer: keras.layers.Layer, inputs: Tensor, outputs: Tensor
    ) -> None:
        """Sees what the layer was called with and what it returned."""


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
        weight_quantizers: A quantizer for each quantized variable.
        input_quantizer: The quantizer of the first input, or `None`.
    """

    def call(self, inputs, *args, **kwargs):
        hook = _hook.get() or _QUANTIZE
        inputs = hook.enter(self, inputs)
        if self.input_quantizer is not None:
            inputs = hook.input(self, self.input_quantizer, inputs)
        substitutes = [
            (variable, hook.weight(self, variable, quantizer))
            for variable, quantizer in self.quantized_weights()
        ]
        with _keras.SubstituteScope(substitutes) as scope:
            outputs = super().call(inputs, *args, **kwargs)
        for loss in scope.losses:
            self.add_loss(loss)
        hook.output(self, inputs, outputs)
        return outputs

    def quantized_weights(
        self,
    ) -> list[tuple[keras.Variable, SwitchableQuantizer]]:
        """Returns the quantized variables, each with its quantizer."""
        return list(
            zip(self._quantized_variables, self.weight_quantizers, strict=True)
        )

    def quantizers(self) -> list[SwitchableQuantizer]:
        """Returns all quantizers of the layer."""
        inputs = [] if self.input_quantizer is None else [self.input_quantizer]
        return [*self.weight_quantizers, *inputs]

    def get_config(self):
        # Keras names a class by where it stands. The generated class stands
        # nowhere, so the layer is written down as one of its own class.
        generated = type(self)
        self.__class__ = generated.__base_class__
        try:
            layer = keras.saving.serialize_keras_object(self)
        finally:
            self.__class__ = generated
        return {
            "name": self.name,
            "layer": layer,
            "quantize_config": keras.saving.serialize_keras_object(
                self.quantize_config
            ),
        }

    @classmethod
    def from_config(cls, config):
        # The class that Keras found may have been generated for another base:
        # all of them share one registered name, and `layer` says which it is.
        layer = keras.saving.deserialize_keras_object(config["layer"])
        quantize_config = keras.saving.deserialize_keras_object(
            config["quantize_config"]
        )
        quantize_layer(layer, quantize_config)
        return layer

    def get_build_config(self):
        # `from_config` returns a layer that is built.
        return None


# So that a file can be loaded before any class was generated.
keras.saving.get_custom_objects()[_REGISTERED_NAME] = QuantizedLayer


@functools.lru_cache(maxsize=None)
def _quantized_class(base: type) -> type:
    generated = type(
        f"Quantized{base.__name__}",
        (QuantizedLayer, base),
        {"__base_class__": base, "__doc__": base.__doc__},
    )
    package, name = _REGISTERED_NAME.split(">")
    return keras.saving.register_keras_serializable(package, name)(generated)


def quantize_layer(
    layer: keras.layers.Layer, config: SwitchableQuantizeConfig
) -> None:
    """Turns a built layer into a quantized one, in place.

    Args:
        layer: A layer whose variables exist.
        config: Its config, with formats.
    """
    pairs = config.get_weights_and_quantizers(layer)
    input_quantizer = config.get_input_quantizer(layer)
    with _keras.unlocked(layer), _name_scopes(layer.path):
        for variable, quantizer in pairs:
            quantizer.build(variable.shape)
        if input_quantizer is not None:
            input_quantizer.build(())
        layer.quantize_config = config
        layer.weight_quantizers = [quantizer for _, quantizer in pairs]
        layer.input_quantizer = input_quantizer
    # Not an attribute that Keras tracks: the variables are the layer's own.
    layer._quantized_variables = tuple(variable for variable, _ in pairs)
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
