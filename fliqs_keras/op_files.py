"""The ops of a model: each shape and pair of formats, as a small file."""

import collections
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np

from fliqs_keras import _keras
from fliqs_keras.calibration import calibrate
from fliqs_keras.costs import layer_terms
from fliqs_keras.export.tflite import export_tflite
from fliqs_keras.float_hook import FloatHook
from fliqs_keras.formats import Format
from fliqs_keras.quantize import apply
from fliqs_keras.quantized_layers import QuantizedLayer, as_float, use_hook

__all__ = ["export_ops"]

# What a layer is named by, or what it starts from, takes no time.
_NO_MATTER = (
    "name",
    "trainable",
    "dtype",
    "epsilon",
    "momentum",
    "synchronized",
)
_NO_MATTER_ENDS = ("_initializer", "_regularizer", "_constraint")
_EXAMPLES = 8
# What an op takes in, in this order, if nothing else reads between.
_FOLDED = (keras.layers.BatchNormalization, keras.layers.ReLU)


class Read(NamedTuple):
    """What a layer reads in one call.

    Attributes:
        shape: Shape without the first axis.
        dtype: Type.
        count: Size of the first axis for one example of the model: more than
            one where positions are folded into it.
    """

    shape: tuple[int, ...]
    dtype: str
    count: int = 1


class Op(NamedTuple):
    """A use of a layer, in given formats.

    Attributes:
        layer: The layer.
        followers: The batch normalization and the ReLU behind it, if any,
            which a file holds in one op with it.
        read: What it reads.
        weight: Format of its weights.
        input: Format of its input; FP32 where it is not quantized.
    """

    layer: QuantizedLayer
    followers: tuple[keras.layers.Layer, ...]
    read: Read
    weight: Format
    input: Format

    @property
    def name(self) -> str:
        """Name that ops share if they take the same time, as of a file."""
        settings = _settings(self.layer)
        followers = [_name_follower(x) for x in self.followers]
        text = json.dumps(
            [settings, followers, self.read.dtype], sort_keys=True
        )
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        shape = "x".join(map(str, self.read.shape))
        if self.read.count > 1:
            shape = f"{self.read.count}of{shape}"
        kind = _float_class(self.layer).__name__
        return f"{kind}-{shape}-{digest}-{self.weight}-{self.input}"


class ModelOps:
    """The ops of a model.

    Args:
        model: A model from `fliqs_keras.apply`.
    """

    def __init__(self, model: keras.Model):
        recorder = _ReadRecorder(_keras.batch_of_zeros(model))
        with use_hook(recorder):
            _keras.call_on_zeros(model)
        self._reads = recorder.reads
        self._followers = _find_followers(model)

    def of(
        self, layer: QuantizedLayer, weight: Format, input_format: Format
    ) -> list[Op]:
        """Returns an op for each use of a layer, in given formats."""
        followers = self._followers.get(id(layer), ())
        return [
            Op(layer, followers, read, weight, input_format)
            for read in self._reads.get(id(layer), [])
        ]


def _find_followers(
    model: keras.Model,
) -> dict[int, tuple[keras.layers.Layer, ...]]:
    graph = _keras.graph_calls(model)
    if graph is None:
        return {}
    calls, returned = graph
    readers = collections.defaultdict(list)
    for call in calls:
        for tensor in call.inputs:
            readers[tensor].append(call)
    return {
        id(call.operation): tuple(_followers(call, readers, returned))
        for call in calls
        if isinstance(call.operation, QuantizedLayer)
    }


def _followers(
    call: _keras.GraphCall,
    readers: Mapping[int, list[_keras.GraphCall]],
    returned: set[int],
) -> Iterator[keras.layers.Layer]:
    for kind in _FOLDED:
        output = call.outputs[0]
        if output in returned or len(readers[output]) != 1:
            return
        if isinstance(readers[output][0].operation, kind):
            (call,) = readers[output]
            yield call.operation


def export_ops(
    model: keras.Model,
    folder: str | os.PathLike,
    weight_storage: str = "compact",
) -> dict[str, pathlib.Path]:
    """Writes a small LiteRT file for each op of a model and its formats.

    A file holds a single layer on an input of the shape that the layer has in
    the model, for one example, with its weights and its input in one of the
    formats that they may take; behind it the batch normalization and the ReLU
    that follow it in the model, which runtimes fold into it. Time them, with
    `recipes.measure_latency` or on a phone, for a `fliqs_keras.LatencyTable`.

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
    model_ops = ModelOps(model)
    ops = {}

    def visit(layer, weight, input_format):
        found = model_ops.of(layer, weight, input_format)
        ops.update({op.name: op for op in found})
        return 0.0

    layer_terms(model, visit)
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = {name: folder / f"{name}.tflite" for name in ops}
    for name, path in paths.items():
        if not path.exists():
            _export_op(ops[name], path, weight_storage)
    return paths


class _ReadRecorder(FloatHook):
    """Writes down what layers read, in place of quantizing.

    Args:
        batch: How many examples the model is called on.
    """

    def __init__(self, batch: int):
        self.batch = batch
        self.reads: dict[int, list[Read]] = {}

    def called(self, layer, inputs, outputs):
        dtype = keras.backend.standardize_dtype(inputs.dtype)
        rows, *shape = (int(size) for size in inputs.shape)
        if rows % self.batch:
            raise ValueError(
                "Expected layers whose first axis holds the examples. "
                f"Received: layer {layer.path!r}, which reads {rows} rows for "
                f"a batch of {self.batch}. Build the model for a batch of one"
            )
        read = Read(tuple(shape), dtype, rows // self.batch)
        self.reads.setdefault(id(layer), []).append(read)


def _float_class(layer: keras.layers.Layer) -> type:
    return getattr(type(layer), "float_class", type(layer))


def _float_config(layer: keras.layers.Layer) -> dict[str, Any]:
    with as_float(layer):
        return layer.get_config()


def _settings(layer: keras.layers.Layer) -> dict[str, Any]:
    return {
        key: value
        for key, value in _float_config(layer).items()
        if key not in _NO_MATTER and not key.endswith(_NO_MATTER_ENDS)
    }


def _name_follower(layer: keras.layers.Layer) -> str | list:
    """Returns the class, and the settings if they are not the usual ones."""
    name = _float_class(layer).__name__
    (kind,) = (kind for kind in _FOLDED if isinstance(layer, kind))
    settings = _settings(layer)
    return name if settings == _settings(kind()) else [name, settings]


def _float_copy(layer: keras.layers.Layer) -> keras.layers.Layer:
    return _float_class(layer).from_config(_float_config(layer))


def _export_op(op: Op, path: pathlib.Path, weight_storage: str) -> None:
    layer = _float_copy(op.layer)
    inputs = keras.Input(op.read.shape, dtype=op.read.dtype)
    outputs = layer(inputs)
    for follower in op.followers:
        outputs = _float_copy(follower)(outputs)
    model = keras.Model(inputs, outputs)
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
    shape = (op.read.count, *op.read.shape)
    signature = keras.InputSpec(op.read.dtype, shape=shape)
    export_tflite(
        model,
        path,
        input_signature=signature,
        weight_storage=weight_storage,
        strip_names=True,
    )
