"""From a Keras model to a float LiteRT file, by TensorFlow's converter."""

import contextlib
import functools
import re
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from fliqs_keras import _keras
from fliqs_keras.export.precision import in_float32
from fliqs_keras.export.signature import flatten_outputs
from fliqs_keras.quantized_layers import CallHook, use_hook

__all__ = ["LARGE_BYTES", "convert", "unrolled_function"]

# Smaller weights are constants of the graph that is traced, which takes a
# third of the time of a file with variables. But TensorFlow copies graphs
# dozens of times: of 100 MB of constants it takes 7.6 GB.
LARGE_BYTES = 2**20

_SIGNATURE = "serving_default"
_FOREIGN_OP = re.compile(r"\b(?:Flex|tf\.)([A-Z]\w+)")


def convert(model: keras.Model, specs: Any, hook: CallHook) -> bytes:
    """Converts a model in inference, with a hook in its quantized layers.

    Args:
        model: The model.
        specs: A named `tf.TensorSpec` for each of its inputs, in their
            structure, as `input_specs` returns them.
        hook: The hook of its quantized layers. It may put custom ops into
            the graph.

    Returns:
        The content of the file. Its one signature has the inputs and outputs
        by the names of `specs` and of `flatten_outputs`.

    Raises:
        ValueError: If the model cannot be converted.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        unrolled_function(model, specs, hook) as serve,
    ):
        graph = serve.get_concrete_function()
        module = tf.Module()
        module.serve = serve
        # Large weights, and variables that layers hold which are not Keras's.
        module.others = list(graph.variables)
        tf.saved_model.save(module, folder, signatures={_SIGNATURE: graph})
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        converter.allow_custom_ops = True
        try:
            return converter.convert()
        except Exception as error:
            raise ValueError(_explain(str(error))) from error


@contextlib.contextmanager
def unrolled_function(
    model: keras.Model, specs: Any, hook: CallHook
) -> Iterator[tf.types.experimental.PolymorphicFunction]:
    """A traced function of a model in inference, with small weights constant.

    Recurrent layers unroll their steps meanwhile: runtimes have no such loop.
    Layers of mixed precision compute in float32.

    Args:
        model: The model.
        specs: A named `tf.TensorSpec` for each of its inputs, in their
            structure.
        hook: The hook of its quantized layers.

    Yields:
        A function from the inputs, one by one, to a dictionary of outputs by
        the names of `flatten_outputs`.

    Raises:
        ValueError: If a recurrent layer has a sequence of open length.
    """
    leaves = keras.tree.flatten(specs)
    values = [(v, keras.ops.convert_to_numpy(v)) for v in model.variables]
    values = [(v, x) for v, x in values if x.nbytes < LARGE_BYTES]

    @tf.function(input_signature=leaves, autograph=False)
    def serve(*inputs):
        inputs = keras.tree.pack_sequence_as(specs, inputs)
        constants = [(v, tf.constant(value)) for v, value in values]
        with _keras.SubstituteScope(constants), use_hook(hook):
            outputs = flatten_outputs(model(inputs, training=False))
        # An output that is an input would lose one of its two names.
        return {name: tf.identity(y) for name, y in outputs.items()}

    with _unrolled(model), _resized(), in_float32(model):
        _trace(serve)
        yield serve


def _trace(function: Callable) -> None:
    try:
        function.get_concrete_function()
    except ValueError as error:
        if "unroll" not in str(error):
            raise
        raise ValueError(
            "Expected recurrent layers to have a known number of steps, as "
            "they run unrolled in the file. Received: sequences of open "
            "length. Fix it by `input_signature`, or when the model is built"
        ) from error


@contextlib.contextmanager
def _unrolled(model: keras.Model) -> Iterator[None]:
    layers = [
        layer
        for layer in _keras.flatten_layers(model)
        if isinstance(layer, keras.layers.RNN) and not layer.unroll
    ]
    # Unrolled backwards, Keras would zero the steps of the mask forwards.
    reversed_layers = [
        layer
        for layer in layers
        if layer.go_backwards and layer.zero_output_for_mask
    ]
    for layer in layers:
        layer.unroll = True
    for layer in reversed_layers:
        layer.zero_output_for_mask = False
        layer.inner_loop = functools.partial(_zero_backwards, layer.inner_loop)
    try:
        yield
    finally:
        for layer in layers:
            layer.unroll = False
        for layer in reversed_layers:
            layer.zero_output_for_mask = True
            del layer.inner_loop


def _zero_backwards(
    inner_loop: Callable,
    sequences: tf.Tensor,
    initial_state: Any,
    mask: tf.Tensor | None,
    training: bool = False,
) -> tuple[tf.Tensor, tf.Tensor, Any]:
    """Runs a loop from the last step to the first; zeros masked steps."""
    last, outputs, states = inner_loop(
        sequences, initial_state, mask, training=training
    )
    if mask is not None:
        is_kept = tf.reverse(mask, axis=[1])[:, :, None]
        outputs = tf.where(is_kept, outputs, tf.zeros_like(outputs))
        last = outputs[:, -1]
    return last, outputs, states


@contextlib.contextmanager
def _resized() -> Iterator[None]:
    """Has images grow by the op that runtimes have for it.

    Keras repeats rows and columns, of which the converter loses the shape.
    """
    upsampling = keras.layers.UpSampling2D
    keras_call = upsampling.call

    def call(layer, images):
        is_last = layer.data_format == "channels_last"
        if layer.interpolation != "nearest" or not is_last:
            return keras_call(layer, images)
        height, width = keras.ops.shape(images)[1:3]
        sizes = height * layer.size[0], width * layer.size[1]
        return tf.image.resize(images, sizes, method="nearest")

    # Of the class: layers that quantize their output call it from there.
    upsampling.call = call
    try:
        yield
    finally:
        upsampling.call = keras_call


def _explain(message: str) -> str:
    ops = sorted(set(_FOREIGN_OP.findall(message)))
    received = f"ops {ops}" if ops else message.strip()[:500]
    return (
        "Expected a model of ops that LiteRT has. Received: "
        f"{received}. Replace the layer that needs them, or leave it out of "
        "the model and run it outside the file"
    )
