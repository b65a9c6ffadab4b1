"""Saying which layers of a model are meant: by pattern, class or function."""

import fnmatch
from collections.abc import Callable, Iterable, Mapping, Sequence

import keras

Selector = str | type | Callable[[str, keras.layers.Layer], bool]
Lineage = Mapping[str, keras.layers.Layer]

_KERAS = "keras.layers."


def as_selectors(
    name: str, value: Selector | Sequence[Selector]
) -> tuple[Selector, ...]:
    """Returns selectors, one or several, as a tuple.

    Args:
        name: Name of the argument that holds them, for the error.
        value: A pattern of layer paths, a layer class, a function
            `select(path, layer) -> bool`, or a list of such.

    Raises:
        ValueError: If one is of another kind.
    """
    is_single = isinstance(value, str) or callable(value)
    is_list = isinstance(value, Iterable) and not is_single
    selectors = tuple(value) if is_list else (value,)
    for selector in selectors:
        if isinstance(selector, keras.layers.Layer):
            raise ValueError(
                f"Expected `{name}` to hold patterns, layer classes or "
                f"functions. Received: the layer {selector!r}. Name it by its "
                f"path, {(selector.path or selector.name)!r}"
            )
        if not isinstance(selector, str) and not callable(selector):
            raise ValueError(
                f"Expected `{name}` to hold patterns, layer classes or "
                f"functions. Received: {selector!r}"
            )
    return selectors


def selects_any(selectors: Iterable[Selector], lineage: Lineage) -> bool:
    """Whether one of the selectors selects a layer."""
    return any(selects(selector, lineage) for selector in selectors)


def selects(selector: Selector, lineage: Lineage) -> bool:
    """Whether a selector selects a layer, or a layer that it stands in.

    Args:
        selector: The selector.
        lineage: The layers that the layer stands in and, last, itself, each
            by its path.
    """
    return any(_matches(selector, *place) for place in lineage.items())


def _matches(selector: Selector, path: str, layer: keras.layers.Layer) -> bool:
    if isinstance(selector, str):
        return path == selector or fnmatch.fnmatchcase(path, selector)
    if isinstance(selector, type):
        return isinstance(layer, selector)
    return bool(selector(path, layer))


def selector_to_json(selector: Selector) -> str | dict[str, str]:
    """Returns a selector as JSON holds it: a class by its registered name.

    Raises:
        ValueError: If it is a function, or a class that is not registered.
    """
    if isinstance(selector, str):
        return selector
    if not isinstance(selector, type):
        raise ValueError(
            "Expected patterns and layer classes, which JSON can hold. "
            f"Received: the function {selector!r}. Give the paths that it "
            "selects as patterns: `space.decisions(model)` names them"
        )
    if getattr(keras.layers, selector.__name__, None) is selector:
        return {"class": _KERAS + selector.__name__}
    name = keras.saving.get_registered_name(selector)
    if keras.saving.get_registered_object(name) is not selector:
        raise ValueError(
            "Expected layer classes that are registered with Keras. Received: "
            f"{selector!r}. Decorate it with "
            "`keras.saving.register_keras_serializable()`, or select its "
            "layers by a pattern"
        )
    return {"class": name}


def selector_from_json(value: str | dict[str, str]) -> Selector:
    """Returns what `selector_to_json` wrote.

    Raises:
        ValueError: If the class is not known here.
    """
    if isinstance(value, str):
        return value
    is_class = isinstance(value, dict) and isinstance(value.get("class"), str)
    name = value["class"] if is_class else ""
    if name.startswith(_KERAS):
        found = getattr(keras.layers, name.removeprefix(_KERAS), None)
    else:
        found = keras.saving.get_registered_object(name)
    if not isinstance(found, type):
        raise ValueError(
            'Expected a pattern, or {"class": name} with a registered name. '
            f"Received: {value!r}. Import the module that registers the class "
            "first"
        )
    return found
