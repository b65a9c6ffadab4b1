"""Moving quantization past ops that only move values.

An integer kernel needs codes at its input and at its output. Between two such
ops a network pads, reshapes and pools: the codes can go through these as well
as the values, and exactly.
"""

from ai_edge_litert import schema_py_generated as schema

from fliqs_keras.export.chains import (
    LOOKS,
    Chain,
    are_activations,
    find_chain,
)
from fliqs_keras.export.graph import Graph

__all__ = ["lower_dequantize", "raise_quantize", "skip_requantize"]

# Of one data input, the first. Rounding is monotonic, so it may as well come
# before a maximum is taken as after.
_MOVES = {
    "BATCH_TO_SPACE_ND",
    "EXPAND_DIMS",
    "MAX_POOL_2D",
    "PAD",
    "RESHAPE",
    "RESIZE_NEAREST_NEIGHBOR",
    "SLICE",
    "SPACE_TO_BATCH_ND",
    "SQUEEZE",
    "STRIDED_SLICE",
    "TRANSPOSE",
}


def lower_dequantize(graph: Graph) -> None:
    """Moves each DEQUANTIZE of codes below the ops that move its values.

    Args:
        graph: The graph.
    """
    for op in graph.ops:
        kind = graph.kind(op)
        if kind not in LOOKS and not _is_move(kind):
            continue
        sources = [graph.codes_behind(t) for t in _data_inputs(graph, op)]
        if not _all_alike(graph, sources):
            continue
        if kind in LOOKS:
            op.inputs[0] = sources[0]
            continue
        op.inputs = [*sources, *op.inputs[len(sources) :]]
        old = op.outputs[0]
        quantization = graph.quantization(sources[0])
        graph.retype_output(op, graph.type_name(sources[0]), quantization)
        dequantized = graph.insert(
            graph.next_op(op), "DEQUANTIZE", [op.outputs[0]], like=old
        )
        graph.redirect(old, dequantized.outputs[0])


def raise_quantize(graph: Graph) -> None:
    """Moves each QUANTIZE above the ops that move its values.

    Args:
        graph: The graph.
    """
    for op in reversed(graph.ops):
        if not _is_move(graph.kind(op)):
            continue
        old = op.outputs[0]
        chain = find_chain(graph, old)
        inputs = _data_inputs(graph, op)
        types = {graph.type_name(t) for t in inputs}
        if chain is None or types != {"FLOAT32"}:
            continue
        quantized = [_copy_chain(graph, op, chain, t) for t in inputs]
        op.inputs = [*quantized, *op.inputs[len(inputs) :]]
        graph.retype_output(
            op,
            graph.type_name(chain.codes),
            chain.quantization,
        )
        chain.replace_by(graph, op.outputs[0])
        # What is left asks for the shape.
        graph.redirect(old, op.outputs[0])


def skip_requantize(graph: Graph) -> None:
    """Takes codes as they are that were decoded to be quantized alike.

    Args:
        graph: The graph.
    """
    for op in graph.ops:
        if graph.kind(op) != "QUANTIZE":
            continue
        tensor = op.inputs[0]
        # Of codes of the same scale, clipping has nothing to clip.
        while tensor in graph.clipped:
            tensor = graph.producers()[tensor].inputs[0]
        codes = graph.codes_behind(tensor)
        if _all_alike(graph, [codes, op.outputs[0]]):
            graph.redirect(op.outputs[0], codes)


def _is_move(kind: str) -> bool:
    return kind in _MOVES or kind == "CONCATENATION"


def _data_inputs(graph: Graph, op: schema.OperatorT) -> list[int]:
    is_all = graph.kind(op) == "CONCATENATION"
    return list(op.inputs if is_all else op.inputs[:1])


def _all_alike(graph: Graph, tensors: list[int | None]) -> bool:
    """Whether all are activations of 8 bits and of one scale."""
    scales = set()
    for tensor in tensors:
        if tensor is None or graph.is_constant(tensor):
            return False
        if not are_activations(graph, tensor):
            return False
        quantization = graph.quantization(tensor)
        scales.add((float(quantization.scale[0]), quantization.zero_point))
    return len(scales) == 1


def _copy_chain(
    graph: Graph, before: schema.OperatorT, chain: Chain, tensor: int
) -> int:
    for op in chain.ops:
        others = op.inputs[1:]
        copy = graph.insert(
            before,
            graph.kind(op),
            [tensor, *others],
            like=tensor,
            type_name=graph.type_name(op.outputs[0]),
            quantization=graph.quantization(op.outputs[0]),
        )
        tensor = copy.outputs[0]
        if op.outputs[0] in graph.clipped:
            graph.clipped.add(tensor)
    return tensor
