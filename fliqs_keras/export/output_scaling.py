"""Scaling what an op computes, in place of the weight that it reads.

Runtimes fold the decoding of a constant into the op that reads it, and use
their fastest kernels, but not if the decoded weight is multiplied first. A
factor for each output channel may as well multiply the output.
"""

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from fliqs_keras.export.graph import Graph

__all__ = ["can_scale_output", "scale_output"]

_CHANNEL_AXIS = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 0}
_WEIGHT = 1
_BIAS = 2


def can_scale_output(
    graph: Graph, op: schema.OperatorT, weight: int, axis: int | None
) -> bool:
    """Whether a factor of a weight can be moved to the output.

    Args:
        graph: The graph.
        op: The op that reads the weight.
        weight: The tensor.
        axis: The axis of the weight that has a factor an index; `None` if it
            has a single one.
    """
    kind = graph.kind(op)
    if kind not in _CHANNEL_AXIS or op.inputs.count(weight) != 1:
        return False
    bias = _bias(op)
    return (
        op.inputs[_WEIGHT] == weight
        and axis in (None, _CHANNEL_AXIS[kind])
        and (bias < 0 or graph.float_constant(bias) is not None)
    )


def scale_output(
    graph: Graph, op: schema.OperatorT, factor: np.ndarray
) -> None:
    """Has `activation(op + bias)` become `activation(op * factor + bias)`.

    Args:
        graph: The graph.
        op: The op, for which `can_scale_output` holds.
        factor: One element for each output channel, or a single one.
    """
    output = op.outputs[0]
    following = graph.next_op(op)
    inputs = [output, graph.add_constant(factor)]
    first = last = graph.insert(following, "MUL", inputs, like=output)
    bias = _bias(op)
    if bias >= 0:
        inputs = [first.outputs[0], bias]
        last = graph.insert(following, "ADD", inputs, like=output)
        # Not every kernel does without a bias.
        zeros = np.zeros_like(graph.float_constant(bias))
        op.inputs[_BIAS] = graph.add_constant(zeros)
    graph.redirect(output, last.outputs[0])
    first.inputs[0] = output
    last.builtinOptions.fusedActivationFunction = (
        op.builtinOptions.fusedActivationFunction
    )
    op.builtinOptions.fusedActivationFunction = (
        schema.ActivationFunctionType.NONE
    )


def _bias(op: schema.OperatorT) -> int:
    return op.inputs[_BIAS] if len(op.inputs) > _BIAS else -1
