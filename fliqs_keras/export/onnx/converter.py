"""From a Keras model to a float ONNX model with markers, by tf2onnx.

`keras.Model.export(format="onnx")` calls tf2onnx, too, but lets nothing through
that names a layer. A `CheckNumerics` op does: it carries a text, and tf2onnx
takes a handler of it.
"""

import contextlib
import importlib
import types
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from fliqs_keras.export.converter import unrolled_function
from fliqs_keras.quantized_layers import CallHook

__all__ = ["MARKER", "MARKER_DOMAIN", "convert", "mark", "require"]

MARKER = "FliqsQuantize"
MARKER_DOMAIN = "fliqs_keras"
_PREFIX = f"{MARKER_DOMAIN}:"
# The newest that tf2onnx writes.
_OPSET = 18


def mark(x: tf.Tensor, path: str) -> tf.Tensor:
    """Marks `x` as an input or output of a quantized layer.

    Args:
        x: The tensor.
        path: The path of its `LayerSpec`.

    Returns:
        `x`, marked.
    """
    # The op takes no integers; float64 holds those of 32 bits.
    is_float = x.dtype.is_floating
    marked = x if is_float else tf.cast(x, "float64")
    marked = tf.debugging.check_numerics(marked, _PREFIX + path)
    return marked if is_float else tf.cast(marked, x.dtype)


def convert(model: keras.Model, specs: Any, hook: CallHook) -> Any:
    """Converts a model in inference, with a hook in its quantized layers.

    Args:
        model: The model.
        specs: A named `tf.TensorSpec` for each of its inputs, in their
            structure, as `input_specs` returns them.
        hook: The hook of its quantized layers, which may `mark` tensors.

    Returns:
        An `onnx.ModelProto`, whose markers are nodes `MARKER` of the domain
        `MARKER_DOMAIN` with the attribute `path`.

    Raises:
        ImportError: If onnx or tf2onnx is not installed.
        ValueError: If the model cannot be converted.
    """
    onnx = require("onnx")
    tf2onnx = require("tf2onnx")
    domain = onnx.helper.make_opsetid(MARKER_DOMAIN, 1)
    with _inlined(), unrolled_function(model, specs, hook) as serve:
        _check_names(serve)
        converted, _ = tf2onnx.convert.from_function(
            serve,
            input_signature=serve.input_signature,
            opset=_OPSET,
            custom_op_handlers={
                "CheckNumerics": (_read_marker, []),
                "Erfc": (_write_erfc, []),
                "Expm1": (_write_expm1, []),
            },
            extra_opset=[domain],
        )
        _hold_captures(converted.graph, serve.get_concrete_function())
    # tf2onnx leaves ops of TensorFlow in place that it does not know.
    strangers = {
        node.op_type
        for node in converted.graph.node
        if not node.domain and not onnx.defs.has(node.op_type)
    }
    if strangers:
        raise ValueError(
            "Expected a model of ops that ONNX has. Received: "
            f"{sorted(strangers)}. Replace the layer that needs them, "
            "or leave it out of the model and run it outside the file"
        )
    return converted


def _check_names(serve: Any) -> None:
    outputs = serve.get_concrete_function().structured_outputs
    both = {spec.name for spec in serve.input_signature} & set(outputs)
    if both:
        raise ValueError(
            "Expected outputs of other names than inputs, as ONNX tells "
            f"tensors by name. Received: {sorted(both)} for both. Give the "
            "outputs other keys"
        )


@contextlib.contextmanager
def _inlined() -> Iterator[None]:
    """Has functions that a layer compiles be traced as part of the model.

    Keras compiles grouped convolutions; tf2onnx does not look into calls.
    """
    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)


def _hold_captures(graph: Any, function: Any) -> None:
    """Makes constants of tensors that layers hold outside of variables.

    tf2onnx takes them for inputs.
    """
    from_array = require("onnx").numpy_helper.from_array
    inputs = {value.name: value for value in graph.input}
    captured = function.captured_inputs
    first = len(function.inputs) - len(captured)
    for tensor, value in zip(function.inputs[first:], captured, strict=True):
        if tensor.name in inputs:
            graph.input.remove(inputs[tensor.name])
            graph.initializer.append(from_array(value.numpy(), tensor.name))


def _read_marker(context: Any, node: Any, name: str, args: Any) -> Any:
    """Has tf2onnx write a marker for a `CheckNumerics` of `mark`."""
    message = node.get_attr_str("message")
    node.attr.clear()
    if not message.startswith(_PREFIX):
        node.type = "Identity"
        return node
    node.type = MARKER
    node.domain = MARKER_DOMAIN
    node.set_attr("path", message.removeprefix(_PREFIX))
    return node


def _write_erfc(context: Any, node: Any, name: str, args: Any) -> None:
    """Has tf2onnx write `erfc(x)`, of which GELU is made, as `erf(-x) + 1`."""
    context.insert_new_node_on_input(node, "Neg", node.input[0])
    node.type = "Erf"
    erf = node.output[0]
    one = context.make_const(f"{name}_one", np.float32(1))
    context.insert_new_node_on_output("Add", erf, inputs=[erf, one.output[0]])


def _write_expm1(context: Any, node: Any, name: str, args: Any) -> None:
    """Has tf2onnx write `expm1(x)`, as of CELU, as `exp(x) - 1`."""
    node.type = "Exp"
    exp = node.output[0]
    one = context.make_const(f"{name}_one", np.float32(1))
    context.insert_new_node_on_output("Sub", exp, inputs=[exp, one.output[0]])


def require(name: str) -> types.ModuleType:
    """Imports a package of the extra `onnx`.

    Raises:
        ImportError: If it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"Expected {name} to be installed. Received: {error}. Install it "
            "by `pip install fliqs-keras[onnx]`"
        ) from error
