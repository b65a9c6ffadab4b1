"""Classes that Keras does not find by their names."""

from collections.abc import Mapping
from typing import Any

import keras

from fliqs_keras import _keras


def own_classes(
    model: keras.Model, other_way_out: str = ""
) -> dict[str, type[keras.layers.Layer]]:
    """Returns the classes in a model that are not registered, by their names.

    In a `keras.saving.custom_object_scope` of them, the model is built anew
    from its config.

    Args:
        model: A float model.
        other_way_out: What can be done about classes of one name, besides
            registering them.

    Raises:
        ValueError: If two classes have one name.
    """
    classes = {}
    for layer in _keras.flatten_layers(model):
        cls = type(layer)
        name = cls.__name__
        if _is_own(cls) and classes.setdefault(name, cls) is not cls:
            raise ValueError(
                "Expected layer classes of different names. Received: two "
                f"classes {name!r}. Register them with Keras, by "
                "`keras.saving.register_keras_serializable(package)`"
                f"{other_way_out}"
            )
    return classes


def build_as(
    cls: type[keras.layers.Layer],
    config: dict[str, Any],
    classes: Mapping[str, type[keras.layers.Layer]],
) -> keras.layers.Layer:
    """Builds a layer or model from the config that its `get_config` returned.

    Unlike a scope of Keras, which ends those around it, this leaves what the
    caller says names stand for.

    Args:
        cls: The class.
        config: The config.
        classes: Classes that are not registered, by their names.
    """
    name = keras.saving.get_registered_name(cls)
    serialized = {
        "module": cls.__module__,
        "class_name": cls.__name__,
        "config": config,
        "registered_name": name,
    }
    return keras.saving.deserialize_keras_object(
        serialized, custom_objects={**classes, name: cls}
    )


def deserialize_float(
    generated: type[keras.layers.Layer], config: dict[str, Any]
) -> keras.layers.Layer:
    """Builds the float layer of a generated class from its serialized config.

    Args:
        generated: The class. It knows the float class, which need not be
            registered, unless it was found by its name alone.
        config: The config.
    """
    cls = getattr(generated, "float_class", None)
    is_named = cls is not None and _is_own(cls)
    return keras.saving.deserialize_keras_object(
        # What the caller says the name stands for goes first.
        config,
        custom_objects={cls.__name__: cls} if is_named else None,
    )


def _is_own(cls: type[keras.layers.Layer]) -> bool:
    """Whether a class is neither of Keras nor registered with it."""
    is_unregistered = keras.saving.get_registered_name(cls) == cls.__name__
    return is_unregistered and not cls.__module__.startswith("keras.")
