"""An assignment as a recipe for ai-edge-quantizer."""

import re
from collections.abc import Mapping
from typing import Any

from fliqs_keras.assignments import FormatAssignment
from fliqs_keras.formats import Format, parse_format
from fliqs_keras.quantize_configs import ACTIVATIONS

__all__ = ["to_ai_edge_quantizer_recipe"]

# What the runtime has kernels of; other widths are kept in the next type.
_CHECKED_WIDTHS = (4, 8)
_FP16 = parse_format("FP16")
# The converter gives the outputs of a file this name in place of their op's.
_OUTPUT_NAME = "^StatefulPartitionedCall"


def to_ai_edge_quantizer_recipe(
    assignment: Mapping[str, str | Format],
    activation_bits: int | None = None,
) -> list[dict[str, Any]]:
    """Returns a recipe with which ai-edge-quantizer quantizes a float file.

    For those who have a float LiteRT file and their own calibration: each
    layer's weights take the bits of its format, symmetric and with a scale a
    channel. The scales are ai-edge-quantizer's own, so the file does not
    compute the numbers of the Keras model, as one from `export_tflite` does.

    Layers are found by their names in the names of tensors, as the converter
    writes them when a Keras model is exported; the layer that gives the
    model's output, whose name is lost, is taken to be the last of the
    assignment.

    Args:
        assignment: Formats by the path of layers: integers of at most 8 bits,
            FP16, and FP32 for layers that stay in float. Decisions on inputs,
            on all tensors and on sizes are left out.
        activation_bits: 8 or 16: activations are quantized too, to integers
            with ranges from calibration, except in layers of FP16. Defaults
            to `None`: they stay float, and weights are decoded.

    Returns:
        A list of dictionaries of plain values, which JSON can hold, for
        `ai_edge_quantizer.quantizer.Quantizer.load_quantization_recipe`.

    Raises:
        ValueError: If a format is of another kind, `activation_bits` of
            another number, or a decision one of a pattern.

    Example:

    >>> recipe = fliqs_keras.to_ai_edge_quantizer_recipe({"conv": "INT4"})
    >>> recipe[0]["op_config"]["weight_tensor_config"]["num_bits"]
    4
    """
    if activation_bits not in (None, 8, 16):
        raise ValueError(
            "Expected `activation_bits` to be 8, 16 or None. Received: "
            f"activation_bits={activation_bits!r}"
        )
    formats = _formats_of_weights(assignment)
    recipe = []
    for position, (path, number_format) in enumerate(formats.items()):
        rule = _rule(path, number_format, activation_bits)
        # The converter numbers the names of layers. Without the number,
        # "dense_1" would be the tensor of "dense".
        names = [rf"(^|[/;]){re.escape(path)}_\d+([/;]|$)"]
        if position == len(formats) - 1:
            names.append(_OUTPUT_NAME)
        recipe.append({"regex": "|".join(names), "operation": "*", **rule})
    return recipe


def _formats_of_weights(
    assignment: Mapping[str, str | Format],
) -> dict[str, Format]:
    options, _ = FormatAssignment(assignment).by_layer()
    formats = {
        name: option
        for name, option in options.items()
        if isinstance(option, Format) and name != ACTIVATIONS
    }
    if patterns := [name for name in formats if {"*", "?"} & set(name)]:
        raise ValueError(
            "Expected formats by the paths of layers, by which tensors are "
            f"found. Received: formats of {patterns}. Take those of the layers "
            "from `FormatAssignment.from_model(fliqs_keras.apply(model, "
            "assignment))`"
        )
    return formats


def _rule(
    path: str, number_format: Format, activation_bits: int | None
) -> dict[str, Any]:
    if number_format.is_pass_through:
        return {"algorithm_key": "no_quantize", "op_config": {}}
    if number_format == _FP16:
        weights = {"num_bits": 16, "symmetric": True, "dtype": "FLOAT"}
        return {
            "algorithm_key": "float_casting",
            "op_config": _op_config(weights, "FLOAT"),
        }
    if not number_format.is_integer or number_format.bits > 8:
        raise ValueError(
            "Expected formats that ai-edge-quantizer has: INT2 to INT8, FP16 "
            f"and FP32. Received: {number_format} for {path!r}. "
            "`fliqs_keras.export_tflite` stores every format"
        )
    weights = {
        "num_bits": number_format.bits,
        "symmetric": True,
        "granularity": "CHANNELWISE",
        "dtype": "INT",
    }
    precision = "FLOAT" if activation_bits is None else "INTEGER"
    config = _op_config(weights, precision)
    config["skip_checks"] = number_format.bits not in _CHECKED_WIDTHS
    if activation_bits is not None:
        config["activation_tensor_config"] = {
            "num_bits": activation_bits,
            # The runtime's 16-bit kernels know no zero point.
            "symmetric": activation_bits == 16,
            "granularity": "TENSORWISE",
            "dtype": "INT",
        }
    return {"algorithm_key": "min_max_uniform_quantize", "op_config": config}


def _op_config(weights: dict[str, Any], precision: str) -> dict[str, Any]:
    return {
        "weight_tensor_config": weights,
        "compute_precision": precision,
        "explicit_dequantize": precision == "FLOAT",
    }
