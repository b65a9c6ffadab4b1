"""Names, shapes and structure of a model's inputs and outputs in a file."""

import re
from typing import Any

import keras
import tensorflow as tf

__all__ = ["flatten_inputs", "flatten_outputs", "input_specs"]

Structure = Any

_UNNAMEABLE = re.compile(r"[^A-Za-z0-9_./-]")


def input_specs(
    model: keras.Model, input_signature: Structure | None = None
) -> Structure:
    """Returns what a model takes, with the names that a file gives it.

    Those are the keys where the model takes a dictionary, else the names of
    its inputs, else `input_0` and so on; `_` stands for what a file cannot
    have in a name. The batch size stays open unless `input_signature` fixes
    it.

    Args:
        model: A built model.
        input_signature: Anything with a shape and a dtype for each input
            (`tf.TensorSpec`, `keras.InputSpec`, an array), in the structure
            that the model is called with. Defaults to the inputs that the
            model was built for.

    Returns:
        A `tf.TensorSpec` for each input, in that structure.

    Raises:
        ValueError: If the model does not know its inputs, or if
            `input_signature` is of another structure than they.
    """
    known = _known_inputs(model)
    if input_signature is None:
        input_signature = known
    if input_signature is None:
        raise ValueError(
            f"Expected model {model.name!r} to know its inputs. Received: a "
            "subclassed model of several inputs. Pass `input_signature`, a "
            "`tf.TensorSpec` for each of them"
        )
    if known is None:
        known = input_signature
    try:
        keras.tree.assert_same_structure(input_signature, known)
    except (ValueError, TypeError) as error:
        raise ValueError(
            "Expected `input_signature` in the structure of the inputs of "
            f"model {model.name!r}: {keras.tree.map_structure(str, known)}. "
            f"Received: {input_signature!r}"
        ) from error
    leaves = keras.tree.flatten(input_signature)
    specs = [
        tf.TensorSpec(leaf.shape, leaf.dtype or "float32", name)
        for name, leaf in zip(_input_names(known), leaves, strict=True)
    ]
    return keras.tree.pack_sequence_as(input_signature, specs)


def _known_inputs(model: keras.Model) -> Structure | None:
    if isinstance(model, keras.Sequential):
        return model.inputs[0]
    try:
        return model.input
    except AttributeError:
        shape = (model.get_build_config() or {}).get("input_shape")
        if not _is_shape(shape):
            return None
        return keras.InputSpec("float32", shape=(None, *shape[1:]))


def _is_shape(value: Any) -> bool:
    return isinstance(value, tuple | list) and all(
        size is None or isinstance(size, int) for size in value
    )


def _input_names(structure: Structure) -> list[str]:
    names = []
    leaves = keras.tree.flatten_with_path(structure)
    for number, (path, leaf) in enumerate(leaves):
        is_key = bool(path) and isinstance(path[-1], str)
        name = path[-1] if is_key else None
        if isinstance(leaf, keras.KerasTensor):
            name = name or leaf.name
        name = _UNNAMEABLE.sub("_", name or f"input_{number}")
        taken = {_as_argument(known) for known in names}
        is_taken = _as_argument(name) in taken
        names.append(f"{name}_{number}" if is_taken else name)
    return names


def _as_argument(name: str) -> str:
    """Returns what of a name TensorFlow tells from others."""
    return re.sub(r"\W", "_", name).lower()


def flatten_inputs(specs: Structure, inputs: Structure) -> dict[str, Any]:
    """Returns the inputs of a model by the names that a file gives them.

    Args:
        specs: What `input_specs` returned.
        inputs: A tensor or array for each of them, in the same structure.
    """
    names = [spec.name for spec in keras.tree.flatten(specs)]
    return dict(zip(names, keras.tree.flatten(inputs), strict=True))


def flatten_outputs(outputs: Structure) -> dict[str, Any]:
    """Returns the outputs of a model by the names that a file gives them.

    Those are the keys where the model returns a dictionary, and `output_0`
    and so on elsewhere.

    Args:
        outputs: What the model returned.
    """
    named = {}
    leaves = keras.tree.flatten_with_path(outputs)
    for number, (path, leaf) in enumerate(leaves):
        is_key = len(path) == 1 and isinstance(path[0], str)
        named[path[0] if is_key else f"output_{number}"] = leaf
    return named
