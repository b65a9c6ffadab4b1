"""The ops of a model: each shape and pair of formats, as a small file."""

import hashlib
import json
import os
import pathlib
from typing import Any, NamedTuple

import keras
import numpy as np

from fliqs_keras import _keras
from fliqs_keras.calibration import calibrate
from fliqs_keras.costs import layer_terms
from fliqs_keras.export.tflite import export_tflite
from fliqs_keras.formats import Format
from fliqs_keras.quantize import apply
from fliqs_keras.quantized_layers import (
    CallHook,
    QuantizedLayer,
    as_float,
    use_hook,
)

__all__ = ["export_ops"]

# What a layer is named by, or what it starts from, takes no time.
_NO_MATTER = ("name", "trainable", "dtype")
_NO_MATTER_ENDS = ("_initializer", "_regularizer", "_constraint")
_EXAMPLES = 8


class Read(NamedTuple):
    """What a layer reads in one call: the shape of an example, the type."""

    shape: tuple[int, ...]
    dtype: str


class Op(NamedTuple):
    """A use of a layer, in given formats.

    Attributes:
        layer: The layer.
        read: What it reads.
        weight: Format of its weights.
        input: Format of its input; FP32 where it is not quantized.
    """

    layer: QuantizedLayer
    read: Read
    weight: Format
    input: Format

    @property
    def name(self) -> str:
        """Name that ops share if they take the same time, as of a file."""
        settings = {
            key: value
            for key, value in _float_config(self.layer).items()
            if key not in _NO_MATTER and not key.endswith(_NO_MATTER_ENDS)
        }
        text = json.dumps([settings, self.read.dtype], sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        shape = "x".join(map(str, self.read.shape))
        kind = type(self.layer).float_class.__name__
        return f"{kind}-{shape}-{digest}-{self.weight}-{self.input}"


def reads_by_layer(model: keras.Model) -> dict[int, list[Read]]:
    """Returns what each quantized layer reads in each call, by its `id`."""
    recorder = _ReadRecorder()
    with use_hook(recorder):
        _keras.call_on_zeros(model)
    return recorder.reads


def export_ops(
    model: keras.Model,
    folder: str | os.PathLike,
    weight_storage: str = "compact",
) -> dict[str, pathlib.Path]:
    """Writes a small LiteRT file for each op of a model and its formats.

    A file holds a single layer on an input of the shape that the layer has in
    the model, for one example, with its weights and its input in one of the
    formats that they may take. Time them, with `recipes.measure_latency` or
    on a phone, for a `fliqs_keras.LatencyTable`. Batch normalization and
    activation functions that stand in layers of their own are not part of it.

    Args:
        model: A model from `fliqs_keras.apply`.
        folder: Folder for the files, which is made if it is missing. A file
            that is there already is kept.
        weight_storage: As for `fliqs_keras.export_tflite`.

    Returns:
        The path of each file by the name of the op.

    Raises:
        ValueError: If the model is not quantized, or if a layer cannot stand
            alone.

    Example:

    >>> model = fliqs_keras.apply(model, ["INT4", "INT8"])
    >>> paths = fliqs_keras.export_ops(model, "ops")
    """
    reads = reads_by_layer(model)
    ops = {}

    def visit(layer, weight, input_format):
        for read in reads.get(id(layer), []):
            op = Op(layer, read, weight, input_format)
            ops[op.name] = op
        return 0.0

    layer_terms(model, visit)
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = {name: folder / f"{name}.tflite" for name in ops}
    for name, path in paths.items():
        if not path.exists():
            _export_op(ops[name], path, weight_storage)
    return paths


class _ReadRecorder(CallHook):
    """Writes down what layers read, in place of quantizing."""

    def __init__(self):
        self.reads: dict[int, list[Read]] = {}

    def weight(self, layer, variable, quantizer):
        return _keras.master_value(variable)

    def input(self, layer, quantizer, inputs):
        return inputs

    def output(self, layer, quantizer, outputs):
        return outputs

    def called(self, layer, inputs, outputs):
        dtype = keras.backend.standardize_dtype(inputs.dtype)
        read = Read(tuple(int(size) for size in inputs.shape[1:]), dtype)
        self.reads.setdefault(id(layer), []).append(read)


def _float_config(layer: QuantizedLayer) -> dict[str, Any]:
    with as_float(layer):
        return layer.get_config()


def _export_op(op: Op, path: pathlib.Path, weight_storage: str) -> None:
    layer = type(op.layer).float_class.from_config(_float_config(op.layer))
    inputs = keras.Input(op.read.shape, dtype=op.read.dtype)
    model = keras.Model(inputs, layer(inputs))
    config = op.layer.quantize_config
    if op.input.name == "FP32":
        config = type(config).from_config(
            {**config.get_config(), "quantize_input": False}
        )
    else:
        config = config.with_activations(
            input=True, output=False, format=op.input
        )
    model = apply(model, op.weight, quantize_configs={layer.name: config})
    shape = (_EXAMPLES, *op.read.shape)
    examples = np.random.default_rng(0).normal(size=shape)
    if not op.read.dtype.startswith("float"):
        examples = np.zeros(shape)
    calibrate(model, examples.astype(op.read.dtype))
    signature = keras.InputSpec(op.read.dtype, shape=(1, *op.read.shape))
    export_tflite(
        model,
        path,
        input_signature=signature,
        weight_storage=weight_storage,
        strip_names=True,
    )
