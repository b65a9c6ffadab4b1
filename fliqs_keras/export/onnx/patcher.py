"""From a converted float ONNX model with markers to a quantized one."""

import collections
from collections.abc import Sequence
from typing import Any

import numpy as np

from fliqs_keras.export.matching import Match, match_codes
from fliqs_keras.export.onnx.activations import PREFIX, quantize
from fliqs_keras.export.onnx.converter import MARKER, MARKER_DOMAIN, require
from fliqs_keras.export.onnx.nodes import NodeWriter
from fliqs_keras.export.onnx.weights import decode, onnx_storage_of
from fliqs_keras.export.results import LayerResult, Placement, summarize
from fliqs_keras.export.specs import LayerSpec, WeightSpec
from fliqs_keras.export.tracing import Trace

__all__ = ["patch"]

# Axis of the output channels of a weight; the last one elsewhere.
_CHANNEL_AXIS = {"Conv": 0, "ConvTranspose": 1}
# What runtimes fold, but tf2onnx leaves, as where a sequence is of open length.
_RESHAPING = ("Identity", "Reshape", "Squeeze", "Unsqueeze")
# ONNX lets a file of these opsets say what they are of.
_FIRST_IR_VERSIONS = ((25, 13), (23, 11), (21, 10), (19, 9), (0, 8))


def patch(model: Any, specs: Sequence[LayerSpec]) -> list[LayerResult]:
    """Quantizes a converted float model as its layers' specs say, in place.

    Each marker is replaced by the quantization that its spec tells, and the
    constants behind it that are the layer's weights by their codes. A weight
    that is not recognized stays float32, with the values that it has.

    Args:
        model: An `onnx.ModelProto` from `convert`, of a model whose weights
            lie on their grids.
        specs: The layers.

    Returns:
        One result for each weight, in the order of `specs`.
    """
    layers = {spec.path: spec for spec in specs}
    graph = _Graph(model.graph)
    traces = collections.defaultdict(list)
    matches: dict[str, dict[WeightSpec, Match]] = {}
    for marker in graph.markers:
        path = _path(marker)
        found = graph.trace(marker, layers[path].weights)
        traces[path].append(Trace(tuple(found.values()), ()))
        for weight, (name, match) in found.items():
            matches.setdefault(name, {})[weight] = match
    placements = graph.store_weights(matches)
    graph.replace_markers(layers)
    _set_versions(model, graph.opset)
    return [
        summarize(
            layer,
            weight,
            traces[path],
            placements[weight],
            layer.activation is not None
            and not layer.activation.format.is_pass_through,
        )
        for path, layer in layers.items()
        for weight in layer.weights
    ]


def _path(marker: Any) -> str:
    (path,) = (a.s.decode() for a in marker.attribute if a.name == "path")
    return path


def _is_marker(node: Any) -> bool:
    return (node.domain, node.op_type) == (MARKER_DOMAIN, MARKER)


class _Graph:
    """An ONNX graph, as the patcher reads and changes it.

    Attributes:
        markers: The markers that it had at first.
        opset: The first version of ONNX that has all that was put in.
    """

    def __init__(self, graph: Any):
        self._graph = graph
        self.opset = 0
        self._to_array = require("onnx").numpy_helper.to_array
        self._constants = {t.name: t for t in graph.initializer}
        self._consumers = collections.defaultdict(list)
        self._producers = {}
        for node in graph.node:
            for name in node.input:
                self._consumers[name].append(node)
            for name in node.output:
                self._producers[name] = node
        self.markers = [n for n in graph.node if _is_marker(n)]
        self._check_subgraphs()

    def _check_subgraphs(self) -> None:
        for node in self._graph.node:
            for attribute in node.attribute:
                if any(_is_marker(n) for n in attribute.g.node):
                    raise ValueError(
                        "Expected quantized layers outside of conditions and "
                        f"loops. Received: some within {node.name!r} "
                        f"({node.op_type}). Unroll the loop, or leave these "
                        "layers out of the search space"
                    )

    def trace(
        self, marker: Any, weights: Sequence[WeightSpec]
    ) -> dict[WeightSpec, tuple[str, Match]]:
        """Finds the constants that are a layer's weights.

        The marked tensor is followed through all nodes but other markers, as
        long as weights are missing.

        Returns:
            The name of the constant, and how it matches, of each weight that
            was found.
        """
        found = {}
        pending = collections.deque(marker.output)
        seen = set()
        while pending and len(found) < len(weights):
            name = pending.popleft()
            for node in self._consumers[name]:
                if id(node) in seen or _is_marker(node):
                    continue
                seen.add(id(node))
                for weight in weights:
                    if weight not in found:
                        found |= self._match_inputs(node, weight)
                pending.extend(node.output)
        return found

    def _match_inputs(
        self, node: Any, weight: WeightSpec
    ) -> dict[WeightSpec, tuple[str, Match]]:
        axis = _CHANNEL_AXIS.get(node.op_type, -1)
        for name in map(self._source, node.input):
            tensor = self._constants.get(name)
            if tensor is None or not tensor.dims:
                continue
            if np.prod(tensor.dims) != weight.codes.size:
                continue
            constant = self._to_array(tensor)
            if constant.dtype != np.float32:
                continue
            match = match_codes(constant, weight.codes, axis)
            if match is not None:
                return {weight: (name, match)}
        return {}

    def _source(self, name: str) -> str:
        """Follows a tensor back to what it was before it was reshaped."""
        while (node := self._producers.get(name)) is not None:
            if node.op_type not in _RESHAPING:
                break
            name = node.input[0]
        return name

    def store_weights(
        self, matches: dict[str, dict[WeightSpec, Match]]
    ) -> dict[WeightSpec, list[Placement]]:
        """Replaces constants by codes; returns the placements of weights."""
        placements = collections.defaultdict(list)
        writer = NodeWriter("fliqs_keras/weight")
        for name, by_weight in matches.items():
            (first, match), *others = by_weight.items()
            storage = onnx_storage_of(first.format)
            size = first.codes.size
            note = ""
            if storage is None:
                taken = 4 * size
                if not first.format.is_pass_through:
                    note = f"no type of at most 16 bits holds {first.format}"
            else:
                taken = storage.nbytes(size)
                self._replace_constant(name, decode(writer, match, storage))
            placements[first].append(Placement(storage, taken, None, note))
            for weight, _ in others:
                note = "shares another weight's constant"
                placements[weight].append(Placement(storage, 0, None, note))
        self._insert(0, writer)
        return placements

    def _replace_constant(self, name: str, decoded: str) -> None:
        self._graph.initializer.remove(self._constants.pop(name))
        self._redirect(name, decoded)

    def replace_markers(self, layers: dict[str, LayerSpec]) -> None:
        """Has nodes quantize what markers mark."""
        quantized = {}
        for number, marker in enumerate(self.markers):
            # Layers that quantize one tensor alike share the result.
            activation = layers[_path(marker)].activation
            key = (marker.input[0], activation)
            position = list(self._graph.node).index(marker)
            self._graph.node.remove(marker)
            if key not in quantized:
                writer = NodeWriter(f"{PREFIX}{number}")
                quantized[key] = quantize(writer, marker.input[0], activation)
                self._insert(position, writer)
            self._redirect(marker.output[0], quantized[key])

    def _insert(self, position: int, writer: NodeWriter) -> None:
        self.opset = max(self.opset, writer.opset)
        self._graph.initializer.extend(writer.constants)
        for node in reversed(writer.nodes):
            self._graph.node.insert(position, node)

    def _redirect(self, old: str, new: str) -> None:
        for node in self._graph.node:
            for index, name in enumerate(node.input):
                if name == old:
                    node.input[index] = new
        if old in (output.name for output in self._graph.output):
            node = require("onnx").helper.make_node("Identity", [new], [old])
            self._graph.node.append(node)


def _set_versions(model: Any, opset: int) -> None:
    # What tf2onnx writes means the same in the later versions.
    for entry in list(model.opset_import):
        if entry.domain == MARKER_DOMAIN:
            model.opset_import.remove(entry)
        elif not entry.domain:
            entry.version = opset = max(opset, entry.version)
    model.ir_version = next(ir for o, ir in _FIRST_IR_VERSIONS if opset >= o)
