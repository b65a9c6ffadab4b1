"""Exports every kind of layer in every format, and tabulates what came out.

    python -m recipes.export_table --output=docs/export_table.md

One model with a branch for each kind of layer is quantized to one format,
calibrated on normal random numbers, exported and compared with Keras, with
and without the runtime's delegate. It takes about ten minutes.
"""

import collections
import itertools
import pathlib
import tempfile
from typing import NamedTuple

import keras
import numpy as np
from absl import flags, logging
from keras import layers

import fliqs_keras
from recipes import command_line

FORMATS = (
    "INT2 INT3 INT4 INT6 INT8 INT12 INT16 E2M1 E2M3 E3M2 E4M3 E5M2 FP16 BF16"
).split()
# What is exported, by the name of its column.
CHOICES = {
    "compact": {},
    "fast": {"weight_storage": "fast"},
    "integer": {"mode": "integer", "weight_storage": "fast"},
}
_SHAPES = {
    "vector": (12,),
    "sequence": (7, 8),
    "image": (9, 9, 8),
    "volume": (5, 5, 5, 4),
    "tokens": (6,),
}
_KINDS = {
    "Dense": ("vector", lambda: layers.Dense(8)),
    "Dense on 3D": ("sequence", lambda: layers.Dense(8)),
    "EinsumDense": (
        "sequence",
        lambda: layers.EinsumDense("abc,cde->abde", (None, 2, 4)),
    ),
    "Embedding": ("tokens", lambda: layers.Embedding(11, 8)),
    "MultiHeadAttention": ("sequence", lambda: _Attention()),
    "LSTM": ("sequence", lambda: layers.LSTM(4)),
    "GRU": ("sequence", lambda: layers.GRU(4)),
    "Conv1D": ("sequence", lambda: layers.Conv1D(8, 3)),
    "Conv1D causal": (
        "sequence",
        lambda: layers.Conv1D(8, 3, padding="causal", dilation_rate=2),
    ),
    "Conv2D": ("image", lambda: layers.Conv2D(8, 3, 2, padding="same")),
    "Conv2D 1x1": ("image", lambda: layers.Conv2D(8, 1)),
    "Conv2D dilated": ("image", lambda: layers.Conv2D(8, 3, dilation_rate=2)),
    "Conv2D grouped": ("image", lambda: layers.Conv2D(8, 3, groups=2)),
    "Conv3D": ("volume", lambda: layers.Conv3D(4, 3)),
    "Conv1DTranspose": ("sequence", lambda: layers.Conv1DTranspose(8, 3, 2)),
    "Conv2DTranspose": ("image", lambda: layers.Conv2DTranspose(8, 3, 2)),
    "Conv3DTranspose": ("volume", lambda: layers.Conv3DTranspose(4, 3)),
    "DepthwiseConv1D": ("sequence", lambda: layers.DepthwiseConv1D(3)),
    "DepthwiseConv2D": (
        "image",
        lambda: layers.DepthwiseConv2D(3, depth_multiplier=2),
    ),
    "SeparableConv2D": ("image", lambda: layers.SeparableConv2D(8, 3)),
}

_OUTPUT = flags.DEFINE_string(
    "output", "docs/export_table.md", "File to write the table to."
)


class _Attention(layers.Layer):
    """Self-attention, which takes the sequence twice."""

    def build(self, input_shape):
        self.attention = layers.MultiHeadAttention(2, 4)
        self.attention.build(input_shape, input_shape)

    def call(self, x):
        return self.attention(x, x)


class Cell(NamedTuple):
    """What became of one kind of layer.

    Args:
        tensor_types: Types of its weights in the file.
        kernels: How the file computes with them.
        difference: Largest difference from Keras, of the two ways to run the
            file, as a part of the output range.
    """

    tensor_types: tuple[str, ...]
    kernels: tuple[str, ...]
    difference: float


def build_model() -> keras.Model:
    """Builds a model with an output for each kind of layer."""
    inputs = {
        name: keras.Input(
            shape, name=name, dtype="int32" if name == "tokens" else "float32"
        )
        for name, shape in _SHAPES.items()
    }
    outputs = {}
    for kind, (source, make_layer) in _KINDS.items():
        layer = make_layer()
        layer.name = _as_name(kind)
        outputs[layer.name] = layer(inputs[source])
    return keras.Model(inputs, outputs)


def _as_name(kind: str) -> str:
    return kind.replace(" ", "_").lower()


def random_inputs(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Returns normal random inputs, and random tokens."""
    rng = np.random.default_rng(seed)
    inputs = {
        name: rng.normal(size=(count, *shape)).astype("float32")
        for name, shape in _SHAPES.items()
    }
    inputs["tokens"] = rng.integers(
        11, size=(count, *_SHAPES["tokens"]), dtype="int32"
    )
    return inputs


def export_all(format_name: str, choice: str) -> dict[str, Cell]:
    """Exports all kinds of layers in one format.

    Args:
        format_name: Format of the weights and of the inputs.
        choice: One of `CHOICES`.

    Returns:
        What became of each kind.
    """
    keras.utils.set_random_seed(0)
    configs = {}
    if choice == "integer":
        # Integer kernels need an output that is quantized.
        plain = fliqs_keras.SwitchableQuantizeConfig(quantize_output=True)
        depthwise = fliqs_keras.SwitchableQuantizeConfig(
            channel_axes=(-2, -1), quantize_output=True
        )
        for cls in (layers.Dense, layers.Conv1D, layers.Conv2D):
            configs[cls] = plain
        configs[layers.DepthwiseConv1D] = depthwise
        configs[layers.DepthwiseConv2D] = depthwise
    model = fliqs_keras.apply(
        build_model(), format_name, quantize_configs=configs
    )
    data = random_inputs(64)
    fliqs_keras.calibrate(model, (batch for batch in [data]))
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "model.tflite"
        report = fliqs_keras.export_tflite(model, path, **CHOICES[choice])
        verification = fliqs_keras.verify_export(model, path, data)
    rows = collections.defaultdict(list)
    for row in report.layers:
        rows[row.path.split("/")[0]].append(row)
    differences = collections.defaultdict(float)
    for row in itertools.chain(*verification.runs.values()):
        differences[row.output] = max(differences[row.output], row.largest)
    return {
        kind: Cell(
            tuple(dict.fromkeys(r.tensor_type for r in rows[_as_name(kind)])),
            tuple(dict.fromkeys(r.kernel for r in rows[_as_name(kind)])),
            differences[_as_name(kind)],
        )
        for kind in _KINDS
    }


def render(cells: dict[tuple[str, str], dict[str, Cell]]) -> str:
    """Renders a table for each of `CHOICES`, a row a kind of layer.

    Args:
        cells: What `export_all` returned, by choice and format.
    """
    blocks = []
    for choice in dict.fromkeys(choice for choice, _ in cells):
        names = [name for chosen, name in cells if chosen == choice]
        lines = [
            f"## {choice}\n",
            f"| layer | {' | '.join(names)} |",
            f"|---|{'---|' * len(names)}",
        ]
        for kind in _KINDS:
            entries = [_entry(cells[choice, name][kind]) for name in names]
            lines.append(f"| {kind} | {' | '.join(entries)} |")
        blocks.append("\n".join(lines) + "\n")
    return "\n".join(blocks)


def _has_integer_kernels(name: str) -> bool:
    number_format = fliqs_keras.parse_format(name)
    return number_format.is_integer and number_format.bits <= 8


def _entry(cell: Cell) -> str:
    types = ", ".join(cell.tensor_types)
    if cell.kernels == ("integer",):
        types = f"**{types}**"
    return f"{types} {cell.difference:.0e}"


_HEADER = """\
# What each kind of layer becomes in a file

Written by `python -m recipes.export_table`. Weights and inputs of a layer
have the format of the column. An entry is the tensor type of the weights in
the file and the largest difference from Keras, with or without XNNPACK, as a
part of the output range. In `integer`, stored `fast`, the outputs of dense
layers and of convolutions in one and two dimensions were quantized, too, as
integer kernels (bold) need it: their differences are one step of the output.

"""


def main(_):
    cells = {}
    for choice in CHOICES:
        for name in FORMATS:
            if choice == "integer" and not _has_integer_kernels(name):
                continue
            logging.info("%s, %s", choice, name)
            cells[choice, name] = export_all(name, choice)
    output = pathlib.Path(_OUTPUT.value)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(_HEADER + render(cells))
    print(f"Wrote {output}")


if __name__ == "__main__":
    command_line.run(main)
