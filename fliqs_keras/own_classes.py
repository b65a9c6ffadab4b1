"""Classes that Keras does not find by their names."""

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
        if is_own(cls) and classes.setdefault(name, cls) is not cls:
            raise ValueError(
                "Expected layer classes of different names. Received: two "
                f"classes {name!r}. Register them with Keras, by "
                "`keras.saving.register_keras_serializable(package)`"
                f"{other_way_out}"
            )
    return classes


def is_own(cls: type[keras.layers.Layer]) -> bool:
    """Whether a class is neither of Keras nor registered with it."""
    is_unregistered = keras.saving.get_registered_name(cls) == cls.__name__
    return is_unregistered and not cls.__module__.startswith("keras.")
