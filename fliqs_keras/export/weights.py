"""Writing a matched weight into a graph: its codes and their decoding."""

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from fliqs_keras.export.graph import Graph, Quantization
from fliqs_keras.export.matching import Match
from fliqs_keras.export.storage import Storage, encode
from fliqs_keras.formats import Format

__all__ = ["add_weight", "multiply"]


def add_weight(
    graph: Graph,
    before: schema.OperatorT,
    match: Match,
    format: Format,
    storage: Storage,
    name: bytes | None = None,
) -> tuple[int, np.ndarray | None]:
    """Adds a weight's codes and the ops that decode them to float32.

    Args:
        graph: The graph.
        before: The op in front of which the weight is decoded.
        match: The codes, in the layout of the graph, and their scale.
        format: The number format of the codes.
        storage: How the codes are held.
        name: Name of the constant.

    Returns:
        The decoded float32 tensor, and the factor that it still lacks: one
        element for each index of `match.axis`, a single one, or `None`.
    """
    on_tensor, factor = _place_scale(match, storage)
    weight = graph.add_constant(
        encode(match.codes, format, storage),
        storage.tensor_type,
        shape=match.codes.shape,
        quantization=on_tensor,
        name=name,
    )

    def apply(kind, *inputs, type_name="FLOAT32"):
        op = graph.insert(
            before, kind, list(inputs), like=weight, type_name=type_name
        )
        return op.outputs[0]

    decoded = weight
    if storage.tensor_type == "BFLOAT16":
        decoded = apply("CAST", decoded)
    elif storage.tensor_type != "UINT8":
        decoded = apply("DEQUANTIZE", decoded)
    if storage.lookup:
        table = graph.add_constant(format.codes())
        ranks = apply("CAST", decoded, type_name="INT32")
        decoded = apply("GATHER", table, ranks)
    return decoded, factor


def _place_scale(
    match: Match, storage: Storage
) -> tuple[Quantization | None, np.ndarray | None]:
    """Splits the scale into what the tensor carries and a later factor."""
    scale = (match.scale * np.float32(storage.unit)).astype(np.float32)
    factor = None if np.all(scale == 1) else scale
    if storage.zero_point:
        return Quantization([1.0], storage.zero_point), factor
    if storage.lookup or storage.tensor_type in ("FLOAT16", "BFLOAT16"):
        return None, factor
    if storage.tensor_type == "INT16" and scale.size > 1:
        # The kernel takes no scale a channel for this type.
        return Quantization([1.0]), factor
    return Quantization(scale, axis=match.axis), None


def multiply(
    graph: Graph,
    before: schema.OperatorT,
    decoded: int,
    factor: np.ndarray,
    match: Match,
) -> int:
    """Multiplies a decoded weight by the factor that it lacks.

    Args:
        graph: The graph.
        before: The op in front of which it is multiplied.
        decoded: The tensor.
        factor: The factor, as `add_weight` returns it.
        match: The match of the weight.

    Returns:
        The product.
    """
    shape = [1] * match.codes.ndim
    shape[match.axis] = factor.size
    constant = factor.reshape(shape if factor.size > 1 else [])
    inputs = [decoded, graph.add_constant(constant)]
    return graph.insert(before, "MUL", inputs, like=decoded).outputs[0]
