"""Markers: custom ops that carry a layer's path through the converter.

A marker stands at the input of each quantized layer. It names the layer
without relying on tensor names, which the converter rewrites, and it keeps the
converter from folding what comes before it into the weights. A file whose
markers were not replaced does not run.
"""

import contextlib

import tensorflow as tf
from flatbuffers import flexbuffers

__all__ = ["MARKER", "mark", "read_path"]

MARKER = "FliqsQuantize"


def mark(x: tf.Tensor, path: str) -> tf.Tensor:
    """Marks `x` as the input of a quantized layer.

    To be called in the `call` of the layer while it is traced for export; the
    values pass unchanged. The converter must be told to allow custom ops.

    Args:
        x: The input of the layer.
        path: The path of the layer, as in its `LayerSpec`.

    Returns:
        `x`, marked.

    Raises:
        ValueError: If `path` is not a string, as of a layer never built.
    """
    if not isinstance(path, str):
        raise ValueError(
            "Expected `path` to be a string; the path of a layer is set when "
            f"it is built. Received: path={path!r}"
        )
    # Escaped byte for byte: the signature is parsed as a text proto.
    escaped = "".join(f"\\{byte:03o}" for byte in path.encode())
    signature = (
        f'name: "{MARKER}" '
        f'attr {{ key: "path" value {{ s: "{escaped}" }} }} '
        'attr { key: "tfl_fusable_op" value { b: true } }'
    )

    @tf.function(experimental_implements=signature, autograph=False)
    def marker(value):
        return tf.identity(value)

    y = marker(x)
    y.set_shape(x.shape)
    return y


def read_path(custom_options: bytes) -> str:
    """Returns the layer's path that a marker in a file carries.

    Args:
        custom_options: The custom options of the marker op.

    Raises:
        ValueError: If the options are not those of a marker.
    """
    path = None
    with contextlib.suppress(ValueError, IndexError, KeyError, TypeError):
        path = flexbuffers.Loads(custom_options)["path"]
    if not isinstance(path, str):
        raise ValueError(
            f"Expected the options of a {MARKER} op, with the path of a "
            f"layer. Received: {custom_options[:40]!r}"
        )
    return path
