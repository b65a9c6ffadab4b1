"""From a marker to the constants that hold its layer's weights."""

import collections
import dataclasses
from collections.abc import Sequence

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from fliqs_keras.export.graph import Graph
from fliqs_keras.export.markers import MARKER
from fliqs_keras.export.matching import Match, match_codes
from fliqs_keras.export.specs import WeightSpec

__all__ = ["Trace", "Tracer", "WeightUse"]

# The inputs of each op that may be weights, and the axis of its channels.
_WEIGHT_INPUTS = {
    "BATCH_MATMUL": {0: -2, 1: -1},
    "CONV_2D": {1: 0},
    "CONV_3D": {1: 4},
    "CONV_3D_TRANSPOSE": {1: 3},
    "DEPTHWISE_CONV_2D": {1: 3},
    "FULLY_CONNECTED": {1: 0},
    "GATHER": {0: -1},
    "TRANSPOSE_CONV": {1: 0},
}
_MOVES = {
    "BATCH_TO_SPACE_ND",
    "BROADCAST_TO",
    "CONCATENATION",
    "DEQUANTIZE",
    "EXPAND_DIMS",
    "GATHER",
    "MIRROR_PAD",
    "PACK",
    "PAD",
    "PADV2",
    "QUANTIZE",
    "RESHAPE",
    "SLICE",
    "SPACE_TO_BATCH_ND",
    "SPLIT",
    "SPLIT_V",
    "SQUEEZE",
    "STRIDED_SLICE",
    "TILE",
    "TRANSPOSE",
    "UNPACK",
}
_RELAYOUTS = {"RESHAPE", "TRANSPOSE"}


@dataclasses.dataclass(frozen=True, eq=False)
class WeightUse:
    """A constant that is one of a layer's weights, where an op reads it.

    Args:
        weight: The weight.
        op: The op that reads the constant.
        tensor: The constant.
        match: The constant as codes and scale.
    """

    weight: WeightSpec
    op: schema.OperatorT
    tensor: int
    match: Match


@dataclasses.dataclass(frozen=True, eq=False)
class Trace:
    """What was found behind one marker.

    Args:
        uses: The weights that were recognized.
        others: Descriptions of the constants that were not.
    """

    uses: tuple[WeightUse, ...]
    others: tuple[str, ...]


class Tracer:
    """Follows markers through a graph, which must not change meanwhile.

    Args:
        graph: The graph.
    """

    def __init__(self, graph: Graph):
        self._graph = graph
        self._consumers = graph.consumers()
        self._producers = graph.producers()
        self._matches = {}

    def trace(
        self, marker: schema.OperatorT, weights: Sequence[WeightSpec]
    ) -> Trace:
        """Finds the weights of a marker's layer.

        The marked tensor is followed through ops that move values to ops that
        take weights. As long as weights are missing, it is followed through
        all ops but other markers: a recurrent layer has one behind the other.

        Args:
            marker: The marker.
            weights: The weights of the layer.
        """
        uses = []
        others = []
        missing = set(weights)
        seen = set()
        pending = collections.deque(marker.outputs)
        behind = collections.deque()
        while pending or (missing and behind):
            is_near = bool(pending)
            tensor = (pending or behind).popleft()
            for op in self._consumers[tensor]:
                kind = self._graph.kind(op)
                if id(op) in seen or kind == MARKER:
                    continue
                seen.add(id(op))
                found, unknown = self._recognize(op, weights, missing)
                uses += found
                others += unknown if is_near else []
                missing -= {use.weight for use in found}
                is_move = is_near and kind in _MOVES
                (pending if is_move else behind).extend(op.outputs)
        return Trace(tuple(uses), tuple(others))

    def _recognize(
        self,
        op: schema.OperatorT,
        weights: Sequence[WeightSpec],
        missing: set[WeightSpec],
    ) -> tuple[list[WeightUse], list[str]]:
        """Uses of weights by an op, and what else it takes for weights."""
        found = []
        unknown = []
        kind = self._graph.kind(op)
        for position, channel_axis in _WEIGHT_INPUTS.get(kind, {}).items():
            reader, tensor = self._source(op, position)
            constant = self._graph.float_constant(tensor)
            if constant is None:
                continue
            for weight in sorted(weights, key=lambda w: w not in missing):
                match = self._match(tensor, constant, weight, channel_axis)
                if match is not None:
                    found.append(WeightUse(weight, reader, tensor, match))
                    break
            else:
                unknown.append(f"{kind} with weights of shape {constant.shape}")
        return found, unknown

    def _source(
        self, op: schema.OperatorT, position: int
    ) -> tuple[schema.OperatorT, int]:
        """The op that reads the constant behind an input, and the constant."""
        tensor = op.inputs[position] if position < len(op.inputs) else -1
        maker = self._producers.get(tensor)
        while maker is not None and self._graph.kind(maker) in _RELAYOUTS:
            op, tensor = maker, maker.inputs[0]
            maker = self._producers.get(tensor)
        return op, tensor

    def _match(
        self,
        tensor: int,
        constant: np.ndarray,
        weight: WeightSpec,
        channel_axis: int,
    ) -> Match | None:
        key = (tensor, weight)
        if key not in self._matches:
            self._matches[key] = match_codes(
                constant, weight.codes, channel_axis
            )
        return self._matches[key]
