"""Tables of what a quantized model is made of."""

import dataclasses
import math

import keras

from fliqs_keras import _keras
from fliqs_keras.assignments import decisions
from fliqs_keras.macs import count_by_layer
from fliqs_keras.model_layers import LeftOut, layer_paths, left_out
from fliqs_keras.quantized_layers import QuantizedLayer, quantized_layers
from fliqs_keras.quantizers import SwitchableQuantizer

__all__ = ["ModelSummary", "summary"]

_READ_OUTSIDE = (
    "quantized, but also read outside of the layer, where they are in float "
    "and cost nothing"
)


@dataclasses.dataclass(frozen=True)
class LayerRow:
    """A layer that holds weights.

    Args:
        path: Path of the layer.
        layer_class: Name of its class, as it was before `apply`.
        weight_format: Format of its quantized weights, or `None`.
        activation_format: Format of its input, its output or both, or
            `None`.
        parameters: Number of elements of its weights.
        macs: Multiply-accumulates of one example, or `None` where the model
            does not know the shapes of its inputs.
        bytes: Bytes of its weights: those that are quantized in their
            formats, without scales; all others in float32.
        reason: Why weights of it stay in float; empty if they do not.
    """

    path: str
    layer_class: str
    weight_format: str | None
    activation_format: str | None
    parameters: int
    macs: int | None
    bytes: int
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class ModelSummary:
    """The layers of a quantized model; what `print` shows is a table.

    Args:
        quantized: The layers that are quantized.
        left_out: The layers whose weights stay in float.
    """

    quantized: tuple[LayerRow, ...]
    left_out: tuple[LayerRow, ...]

    def render(self) -> str:
        """Returns the table as text."""
        header = (
            "layer",
            "class",
            "weights",
            "activations",
            "parameters",
            "MACs",
            "bytes",
        )
        lines = align([header, *(cells_of(row) for row in self.quantized)])
        total = sum(row.bytes for row in (*self.quantized, *self.left_out))
        lines += ["", f"Bytes of all weights: {total:,}"]
        if self.left_out:
            header = ("left in float", "class", "parameters", "reason")
            rows = [
                (r.path, r.layer_class, f"{r.parameters:,}", r.reason)
                for r in self.left_out
            ]
            lines += ["", *align([header, *rows])]
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.render()


def summary(model: keras.Model) -> ModelSummary:
    """Returns a table of a quantized model, layer by layer.

    For each layer its class, the formats that it stands on, parameters,
    multiply-accumulates and bytes; then every layer whose weights stay in
    float, or are read in float by others, with the reason.

    Where sizes can be switched, too, all numbers are those of the largest:
    for those of the sizes that were found, pass what `fliqs_keras.nas.extract`
    returns.

    Args:
        model: A model from `fliqs_keras.apply`.

    Returns:
        A `ModelSummary`, which prints as a table.

    Raises:
        ValueError: If the model is not quantized.

    Example:

    >>> print(fliqs_keras.summary(model))
    """
    decisions(model)
    try:
        macs, read_outside = count_by_layer(model)
    except _keras.UnknownShapeError:
        macs, read_outside = {}, []
    paths = layer_paths(model)
    left = left_out(model)
    elsewhere = {id(weight) for row in left for weight in row.weights}
    quantized = [
        _quantized_row(layer, paths[id(layer)], macs.get(id(layer)), elsewhere)
        for layer in quantized_layers(model)
    ]
    # A sum may have no more than a size: whether its block is skipped.
    quantized = [r for r in quantized if r.parameters or r.activation_format]
    left += [
        LeftOut(paths[id(layer)], layer, weights, _READ_OUTSIDE)
        for layer, weights in read_outside
    ]
    others = [
        LayerRow(
            path=row.path,
            layer_class=_class_name(row.layer),
            weight_format=None,
            activation_format=None,
            parameters=_size(row.weights),
            macs=None,
            bytes=4 * _size(row.weights),
            reason=row.reason,
        )
        for row in left
    ]
    return ModelSummary(tuple(quantized), tuple(others))


def _quantized_row(
    layer: QuantizedLayer, path: str, macs: int | None, elsewhere: set[int]
) -> LayerRow:
    switches = (*layer.quantizers(), *layer.size_masks())
    state = {id(w) for switch in switches for w in switch.weights}
    others = state | elsewhere
    weights = [w for w in layer.weights if id(w) not in others]
    bits = 32 * _size(weights)
    formats = []
    for variable, quantizer in layer.quantized_weights():
        formats.append(_format_name(quantizer))
        if quantizer.format is not None:
            bits -= (32 - quantizer.format.bits) * _size([variable])
    return LayerRow(
        path=path,
        layer_class=_class_name(layer),
        weight_format=", ".join(dict.fromkeys(formats)) or None,
        activation_format=_format_name(
            next(iter(layer.activation_quantizers()), None)
        ),
        parameters=_size(weights),
        macs=macs,
        bytes=math.ceil(bits / 8),
    )


def _format_name(quantizer: SwitchableQuantizer | None) -> str | None:
    if quantizer is None:
        return None
    return "float" if quantizer.format is None else quantizer.format.name


def _class_name(layer: keras.layers.Layer) -> str:
    return getattr(layer, "float_class", type(layer)).__name__


def _size(weights: list[keras.Variable]) -> int:
    return sum(math.prod(weight.shape) for weight in weights)


def cells_of(row: LayerRow) -> tuple[str, ...]:
    """Returns the cells of a row of the table of quantized layers."""
    return (
        row.path,
        row.layer_class,
        row.weight_format or "-",
        row.activation_format or "-",
        f"{row.parameters:,}",
        "?" if row.macs is None else f"{row.macs:,}",
        f"{row.bytes:,}",
    )


def align(rows: list[tuple[str, ...]]) -> list[str]:
    """Pads the cells of a table: words to the left, numbers to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    is_number = [cell[:1].isdigit() for cell in rows[-1]]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(row, widths, is_number, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return lines
