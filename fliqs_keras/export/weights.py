"""Writing a matched weight into a graph: its codes and their decoding."""

import math

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from fliqs_keras.export.graph import Graph, Quantization
from fliqs_keras.export.matching import Match
from fliqs_keras.export.output_scaling import can_scale_output, scale_output
from fliqs_keras.export.storage import Storage, encode
from fliqs_keras.formats import Format

__all__ = ["find_lookups", "replace_constant"]


def find_lookups(
    graph: Graph, tensor: int, match: Match, bits: int
) -> list[schema.OperatorT]:
    """Returns the ops that can take rows of codes out of a table.

    Args:
        graph: The graph.
        tensor: The table.
        match: The table as codes and scale.
        bits: Bits of a code that is stored.
    """
    if match.scale.size > 1 and match.axis != match.codes.ndim - 1:
        # A scale for each row would have to be looked up, too.
        return []
    if bits < 8 and math.prod(match.codes.shape[1:]) % 2:
        # Runtimes copy whole bytes.
        return []
    return [
        op
        for op in graph.consumers()[tensor]
        if graph.kind(op) == "GATHER"
        and op.inputs[0] == tensor
        and op.builtinOptions.axis == 0
    ]


def replace_constant(
    graph: Graph,
    tensor: int,
    match: Match,
    format: Format,
    storage: Storage,
    *,
    scale_outputs: bool = False,
) -> int:
    """Has all readers of a float constant read its codes, decoded.

    An op that computes on the constant reads it decoded; of a table, the rows
    that were looked up are decoded, after an op that reads it.

    Args:
        graph: The graph.
        tensor: The constant.
        match: The constant as codes and scale.
        format: The number format of the codes.
        storage: How the codes are held.
        scale_outputs: Whether a factor of each channel multiplies the outputs
            of ops rather than the weight, where that can be.

    Returns:
        The constant of codes.
    """
    on_tensor, factor = _place_scale(match, storage)
    codes = graph.add_constant(
        encode(match.codes, format, storage),
        storage.tensor_type,
        shape=match.codes.shape,
        quantization=on_tensor,
        name=graph.name(tensor),
    )
    readers = graph.consumers()[tensor]
    lookups = find_lookups(graph, tensor, match, storage.bits)
    for op in lookups:
        _decode_output(graph, op, codes, on_tensor, factor, format, storage)
    others = [op for op in readers if op not in lookups]
    if not others:
        return codes
    decoded = _decode(graph, others[0], codes, format, storage)
    if factor is not None:
        axis = match.axis if factor.size > 1 else None
        if scale_outputs and all(
            can_scale_output(graph, op, tensor, axis) for op in others
        ):
            for op in others:
                scale_output(graph, op, factor)
        else:
            shape = [1] * match.codes.ndim
            shape[match.axis] = factor.size
            factor = factor.reshape(shape if factor.size > 1 else [])
            decoded = _multiply(graph, others[0], decoded, factor)
    for op in others:
        op.inputs = [decoded if t == tensor else t for t in op.inputs]
    return codes


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


def _decode_output(
    graph: Graph,
    lookup: schema.OperatorT,
    codes: int,
    on_tensor: Quantization | None,
    factor: np.ndarray | None,
    format: Format,
    storage: Storage,
) -> None:
    old = lookup.outputs[0]
    if on_tensor is not None and len(on_tensor.scale) > 1:
        on_tensor = on_tensor._replace(axis=len(graph.shape(old)) - 1)
    lookup.inputs[0] = codes
    graph.retype_output(lookup, storage.tensor_type, on_tensor)
    following = graph.next_op(lookup)
    decoded = _decode(graph, following, lookup.outputs[0], format, storage)
    if factor is not None:
        decoded = _multiply(graph, following, decoded, factor)
    graph.redirect(old, decoded)


def _decode(
    graph: Graph,
    before: schema.OperatorT | None,
    stored: int,
    format: Format,
    storage: Storage,
) -> int:
    """Adds the ops from stored values to codes; returns the last result."""

    def apply(kind, *inputs, type_name="FLOAT32"):
        op = graph.insert(
            before, kind, list(inputs), like=stored, type_name=type_name
        )
        return op.outputs[0]

    decoded = stored
    if storage.tensor_type == "BFLOAT16":
        decoded = apply("CAST", decoded)
    elif storage.tensor_type != "UINT8":
        decoded = apply("DEQUANTIZE", decoded)
    if storage.lookup:
        table = graph.add_constant(format.codes())
        ranks = apply("CAST", decoded, type_name="INT32")
        decoded = apply("GATHER", table, ranks)
    return decoded


def _multiply(
    graph: Graph,
    before: schema.OperatorT | None,
    decoded: int,
    factor: np.ndarray,
) -> int:
    inputs = [decoded, graph.add_constant(factor)]
    return graph.insert(before, "MUL", inputs, like=decoded).outputs[0]
