"""How layers that hide their sublayers are saved, loaded and cloned.

A functional or sequential model is written down layer by layer, so quantized
layers in it look after themselves. An attention layer, a wrapper or a
subclassed model is written down by its own arguments alone, and would come
back with float sublayers, silently. So it becomes an instance of a generated
subclass, too, whose config is that of the float layer and a *plan*: which of
its sublayers, by their positions, have which quantize config. The plan is
carried out as soon as the sublayers exist.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import keras

from fliqs_keras import _keras
from fliqs_keras.own_classes import deserialize_float
from fliqs_keras.quantized_layers import (
    QuantizedLayer,
    as_float,
    generated_class,
    quantize_layer,
)
from fliqs_keras.size_masks import SizeMask

Plan = list[dict[str, Any]]
Position = tuple[int, ...]


class QuantizedContainer:
    """What a container's generated class adds to the container's own."""

    _pending: Callable[[], None] | None = None

    def __call__(self, *args, **kwargs):
        outputs = super().__call__(*args, **kwargs)
        if self._pending is not None and self._carry_out_plan():
            is_symbolic = any(
                isinstance(x, keras.KerasTensor)
                for x in keras.tree.flatten(outputs)
            )
            if not is_symbolic:
                outputs = super().__call__(*args, **kwargs)
        return outputs

    def get_config(self):
        plan = _read_plan(self)
        with as_float(self):
            layer = keras.saving.serialize_keras_object(self)
        # Keras compiles the outer layer, which is the one that is trained.
        layer.pop("compile_config", None)
        return {"name": self.name, "layer": layer, "plan": plan}

    @classmethod
    def from_config(cls, config):
        layer = deserialize_float(cls, config["layer"])
        become_container(layer)
        # A function, because Keras tracks lists.
        layer._pending = functools.partial(_carry_out, config["plan"], layer)
        layer._carry_out_plan()
        return layer

    def _carry_out_plan(self) -> bool:
        """Quantizes the sublayers, if they exist by now."""
        is_done = self._pending()
        if is_done:
            self._pending = None
        return is_done

    def load_own_variables(self, store):
        if self._pending is not None:
            raise ValueError(
                f"Expected layer {self.name!r} to be built before its weights "
                "are loaded. Received: a layer whose sublayers do not exist "
                "yet. Create them in its `build`, or call the model on a "
                "batch of data first"
            )
        super().load_own_variables(store)


_REGISTERED_NAME = "fliqs_keras>QuantizedContainer"
keras.saving.get_custom_objects()[_REGISTERED_NAME] = QuantizedContainer


@functools.lru_cache(maxsize=None)
def _container_class(base: type) -> type:
    return generated_class(
        QuantizedContainer, base, "Quantized", _REGISTERED_NAME
    )


def become_container(layer: keras.layers.Layer) -> None:
    """Turns a layer that hides its sublayers into one that saves them."""
    layer.__class__ = _container_class(type(layer))


def hold_quantized_layers(layer: keras.layers.Layer) -> bool:
    """Turns every layer that hides quantized ones into one that saves them.

    Args:
        layer: A layer or model, some of whose sublayers are quantized.

    Returns:
        Whether the layer is or holds a quantized layer.
    """
    if isinstance(layer, QuantizedLayer):
        return True
    # All of them: `any` would stop at the first.
    found = [hold_quantized_layers(s) for s in _keras.sublayers(layer)]
    if not any(found):
        return False
    is_done = isinstance(layer, QuantizedContainer)
    if not is_done and not _keras.holds_layers_openly(layer):
        become_container(layer)
    return True


def _positions(
    layer: keras.layers.Layer,
) -> Iterator[tuple[Position, keras.layers.Layer]]:
    """Yields each sublayer, at every depth, with its position."""
    for index, sublayer in enumerate(_keras.sublayers(layer)):
        yield (index,), sublayer
        if not isinstance(sublayer, QuantizedLayer):
            for position, deeper in _positions(sublayer):
                yield (index, *position), deeper


def _read_plan(container: keras.layers.Layer) -> Plan:
    return [
        {
            "position": list(position),
            "class": layer.float_class.__name__,
            "quantize_config": keras.saving.serialize_keras_object(
                layer.quantize_config
            ),
            "size_masks": [mask.get_config() for mask in layer.size_masks()],
        }
        for position, layer in _positions(container)
        if isinstance(layer, QuantizedLayer)
    ]


def _carry_out(plan: Plan, container: keras.layers.Layer) -> bool:
    """Quantizes sublayers as a plan says.

    Returns:
        Whether it was done, which takes sublayers that are built.

    Raises:
        ValueError: If they are not those that the plan was made for.
    """
    layers = dict(_positions(container))
    planned = [layers.get(tuple(entry["position"])) for entry in plan]
    if not all(layer is not None and layer.built for layer in planned):
        return False
    for entry, layer in zip(plan, planned, strict=True):
        float_class = getattr(layer, "float_class", type(layer))
        if float_class.__name__ != entry["class"]:
            raise ValueError(
                f"Expected layer {container.name!r} to hold the sublayers it "
                f"was saved with: a {entry['class']} at position "
                f"{entry['position']}. Received: {float_class.__name__}. Load "
                "it with the code of the layer that it was saved with"
            )
        # A layer that stands in several places is quantized once.
        if not isinstance(layer, QuantizedLayer):
            quantize_layer(
                layer,
                keras.saving.deserialize_keras_object(entry["quantize_config"]),
                masks=[SizeMask(**m) for m in entry.get("size_masks", ())],
            )
    hold_quantized_layers(container)
    return True
