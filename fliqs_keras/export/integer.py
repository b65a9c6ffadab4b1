"""Ops that compute on codes, with the runtime's integer kernels.

An op whose inputs are codes, and whose output is quantized by all that read
it, can be the integer op of the same kind: the runtime adds up products of
codes in 32 bits, and scales and rounds the sum to the codes of the output.
The bias becomes a 32-bit integer of the scale of the sum, so results may
differ by one code from those of the Keras model.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from fliqs_keras.export.chains import Chain, are_activations, find_chain
from fliqs_keras.export.graph import Graph, Quantization
from fliqs_keras.export.moving import (
    lower_dequantize,
    raise_quantize,
    skip_requantize,
)

__all__ = ["use_integer_kernels"]

# Axis of the output channels of the weight, and the types that it may have.
_WEIGHTED = {
    "CONV_2D": (0, ("INT8", "INT4")),
    "DEPTHWISE_CONV_2D": (3, ("INT8", "INT4")),
    "FULLY_CONNECTED": (0, ("INT8", "INT4", "INT2")),
}
_DATA_INPUTS = {"ADD": 2, "AVERAGE_POOL_2D": 1, "MEAN": 1}
_WEIGHT = 1
_BIAS = 2
# From the scale of the sum to that of the output. XNNPACK refuses others, and
# with them the whole file: those of a tensor that is always zero.
_SMALLEST_FACTOR = 2.0**-32
_FACTOR_LIMIT = 2.0**8
# Steps of the sum, as a part of the largest output: the bias is rounded to
# them, and kernels that round twice first round to about as much.
_COARSEST_STEP = 2.0**-5
_INT32_MAX = np.iinfo(np.int32).max


@dataclasses.dataclass(frozen=True)
class _Fusion:
    """An op that can compute on codes.

    Args:
        inputs: The tensors that it then reads.
        chain: The quantization of its output.
    """

    inputs: tuple[int, ...]
    chain: Chain


class _UnfitError(Exception):
    """Why an op cannot compute on codes."""


def use_integer_kernels(graph: Graph) -> dict[int, str]:
    """Has all ops compute on codes that can.

    Args:
        graph: A graph in which weights are constants of codes, decoded by
            DEQUANTIZE, and activations go through QUANTIZE and DEQUANTIZE.

    Returns:
        For each constant of codes that an op with weights reads, why that op
        computes in float; an empty string if it computes in integers.
    """
    lower_dequantize(graph)
    raise_quantize(graph)
    skip_requantize(graph)
    reasons = {}
    for op in graph.ops:
        if graph.kind(op) in _WEIGHTED:
            weight = graph.codes_behind(op.inputs[_WEIGHT])
            reason = _try_to_fuse(graph, op, _plan_weighted)
            reasons[weight] = reasons.get(weight) or reason
        elif graph.kind(op) in _DATA_INPUTS:
            _try_to_fuse(graph, op, _plan_unweighted)
    graph.remove_unread()
    return reasons


def _try_to_fuse(
    graph: Graph,
    op: schema.OperatorT,
    plan: Callable[[Graph, schema.OperatorT], _Fusion],
) -> str:
    """Has an op compute on codes, or returns why it cannot."""
    try:
        fusion = plan(graph, op)
    except _UnfitError as error:
        return str(error)
    if graph.kind(op) == "CONV_2D" and _is_dense(graph, op, fusion.inputs):
        fusion = _as_fully_connected(graph, op, fusion)
    _fuse(graph, op, fusion)
    return ""


def _plan_weighted(graph: Graph, op: schema.OperatorT) -> _Fusion:
    kind = graph.kind(op)
    axis, types = _WEIGHTED[kind]
    weight = graph.codes_behind(op.inputs[_WEIGHT])
    if weight is None or not graph.is_constant(weight):
        raise _UnfitError("its weight is not an integer of at most 8 bits")
    stored = graph.quantization(weight)
    if len(stored.scale) > 1 and stored.axis != axis:
        raise _UnfitError("its weight has scales that are not a channel's")
    is_dense = kind == "CONV_2D" and _is_dense(graph, op, (-1, weight))
    type_name = graph.type_name(weight)
    if type_name not in types and not is_dense:
        raise _UnfitError(f"no integer {kind} takes {type_name} weights")
    (source,) = _sources(graph, op.inputs[:1])
    chain = _chain(graph, op)
    scale = graph.quantization(source).scale[0] * stored.scale
    factor = scale / chain.quantization.scale[0]
    if np.any(factor < _SMALLEST_FACTOR) or np.any(factor >= _FACTOR_LIMIT):
        raise _UnfitError("its output is nearly zero, or far from its input")
    if np.any(factor > _COARSEST_STEP * chain.max_code):
        raise _UnfitError(
            "its sum has few steps, as its weight has few bits; "
            "weight_storage='fast' fills 8"
        )
    channels = graph.shape(weight)[axis]
    bias = _integer_bias(graph, op, channels, scale)
    return _Fusion((source, weight, bias), chain)


def _plan_unweighted(graph: Graph, op: schema.OperatorT) -> _Fusion:
    count = _DATA_INPUTS[graph.kind(op)]
    sources = _sources(graph, op.inputs[:count])
    chain = _chain(graph, op)
    if graph.kind(op) == "AVERAGE_POOL_2D":
        before, after = graph.quantization(sources[0]), chain.quantization
        if (before.scale[0], before.zero_point) != (
            after.scale[0],
            after.zero_point,
        ):
            raise _UnfitError("its output has another scale than its input")
    return _Fusion((*sources, *op.inputs[count:]), chain)


def _sources(graph: Graph, tensors: list[int]) -> list[int]:
    sources = [graph.codes_behind(tensor) for tensor in tensors]
    for source in sources:
        if source is None or not are_activations(graph, source):
            raise _UnfitError(
                "its input is not quantized to an integer of at most 8 bits "
                "and one scale"
            )
    return sources


def _chain(graph: Graph, op: schema.OperatorT) -> Chain:
    chain = find_chain(graph, op.outputs[0])
    if chain is None:
        raise _UnfitError(
            "its output is not quantized, or not alike for all that read it"
        )
    if graph.type_name(chain.codes) != "INT8":
        raise _UnfitError("its output is quantized to more than 8 bits")
    return chain


def _integer_bias(
    graph: Graph, op: schema.OperatorT, channels: int, scale: np.ndarray
) -> int:
    """Adds the bias in steps of the sum.

    Of one scale if the weight has one: XNNPACK refuses others.
    """
    bias = np.zeros(channels)
    if len(op.inputs) > _BIAS and op.inputs[_BIAS] >= 0:
        bias = graph.float_constant(op.inputs[_BIAS])
        if bias is None:
            raise _UnfitError("its bias is not a constant")
    steps = np.rint(bias / scale.astype(np.float64))
    if np.any(np.abs(steps) > _INT32_MAX):
        raise _UnfitError("its bias is out of the range of 32 bits")
    return graph.add_constant(
        steps.astype(np.int32), "INT32", quantization=Quantization(scale)
    )


def _is_dense(
    graph: Graph, op: schema.OperatorT, inputs: tuple[int, ...]
) -> bool:
    """Whether a convolution is a dense layer at each position.

    With weights of less than 8 bits, only dense layers have fast kernels.
    """
    weight = inputs[_WEIGHT]
    options = op.builtinOptions
    return (
        graph.type_name(weight) in ("INT4", "INT2")
        and graph.shape(weight)[1:3] == (1, 1)
        and graph.shape(weight)[3] == graph.shape(op.inputs[0])[3]
        and (options.strideH, options.strideW) == (1, 1)
    )


def _as_fully_connected(
    graph: Graph, op: schema.OperatorT, fusion: _Fusion
) -> _Fusion:
    source, weight, bias = fusion.inputs
    outputs, _, _, inputs = graph.shape(weight)
    matrix = graph.reshape_constant(weight, (outputs, inputs))
    options = schema.FullyConnectedOptionsT()
    options.keepNumDims = True
    options.fusedActivationFunction = op.builtinOptions.fusedActivationFunction
    graph.become(op, "FULLY_CONNECTED", options)
    return _Fusion((source, matrix, bias), fusion.chain)


def _fuse(graph: Graph, op: schema.OperatorT, fusion: _Fusion) -> None:
    chain = fusion.chain
    old = op.outputs[0]
    op.inputs = list(fusion.inputs)
    graph.retype_output(op, "INT8", chain.entry)
    codes = chain.end_below(graph, op.outputs[0], before=graph.next_op(op))
    chain.replace_by(graph, codes)
    # What is left asks for the shape.
    graph.redirect(old, codes)
