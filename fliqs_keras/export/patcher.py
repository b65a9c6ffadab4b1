"""From a converted float model with markers to a quantized one."""

import collections
from collections.abc import Sequence

from ai_edge_litert import schema_py_generated as schema

from fliqs_keras.export.activations import is_quantized, quantize_marked
from fliqs_keras.export.flatbuffer import read_model, write_model
from fliqs_keras.export.graph import Graph
from fliqs_keras.export.markers import MARKER, read_path
from fliqs_keras.export.output_scaling import can_scale_output, scale_output
from fliqs_keras.export.results import LayerResult, Placement, summarize
from fliqs_keras.export.specs import LayerSpec, WeightSpec
from fliqs_keras.export.storage import Storage, storage_of
from fliqs_keras.export.tracing import Tracer, WeightUse
from fliqs_keras.export.weights import add_weight, multiply

__all__ = ["LayerResult", "patch"]


def patch(
    buffer: bytes,
    specs: Sequence[LayerSpec],
    *,
    weight_storage: str = "compact",
    simulate_floats: bool = True,
    strip_names: bool = False,
) -> tuple[bytes, list[LayerResult]]:
    """Quantizes a converted float model as its layers' specs say.

    Each marker in the file is replaced by the quantization of its layer's
    input, and the constants behind it that are the layer's weights by their
    codes. A weight that is not recognized stays float32, with the values that
    it has, and is reported.

    Args:
        buffer: A LiteRT file, converted without quantization from a model
            whose weights lie on their grids and whose quantized layers mark
            their inputs.
        specs: The layers.
        weight_storage: `"compact"` for the fewest bytes, or `"fast"` for
            types that runtimes decode once and without a lookup.
        simulate_floats: Whether inputs in float formats are rounded to them.
            If not, they are left as they are.
        strip_names: Whether tensors inside the graph lose their names, which
            makes the file smaller.

    Returns:
        The content of the new file, and one result for each weight, in the
        order of `specs`.

    Raises:
        ValueError: If `buffer` is not a LiteRT file, or one with ops that
            LiteRT lacks, if two specs have the same path, if a marker has no
            spec, or if an argument is unknown.
    """
    layers = {spec.path: spec for spec in specs}
    if len(layers) < len(specs):
        paths = collections.Counter(spec.path for spec in specs)
        raise ValueError(
            "Expected one spec for each path. Received: several for "
            f"{[path for path, count in paths.items() if count > 1]}"
        )
    model = read_model(buffer)
    traces = collections.defaultdict(list)
    placements = collections.defaultdict(list)
    for subgraph in model.subgraphs:
        graph = Graph(model, subgraph)
        markers = _find_markers(graph, layers)
        tracer = Tracer(graph)
        uses = []
        for marker, path in markers:
            trace = tracer.trace(marker, layers[path].weights)
            traces[path].append(trace)
            uses += trace.uses
        for weight, placement in _store_weights(graph, uses, weight_storage):
            placements[weight].append(placement)
        _replace_markers(graph, markers, layers, simulate_floats)
    results = [
        summarize(
            layer,
            weight,
            traces[path],
            placements[weight],
            is_quantized(layer.activation, simulate_floats=simulate_floats),
        )
        for path, layer in layers.items()
        for weight in layer.weights
    ]
    return write_model(model, strip_names=strip_names), results


def _find_markers(
    graph: Graph, layers: dict[str, LayerSpec]
) -> list[tuple[schema.OperatorT, str]]:
    markers = []
    for op in graph.ops:
        if graph.kind(op) == MARKER:
            options = op.customOptions
            path = read_path(b"" if options is None else bytes(options))
            if len(op.inputs) != 1 or len(op.outputs) != 1:
                raise ValueError(
                    "Expected markers to have one input and one output. "
                    f"Received: {len(op.inputs)} and {len(op.outputs)} at the "
                    f"marker of {path!r}"
                )
            if path not in layers:
                raise ValueError(
                    "Expected a spec for each layer that is marked. "
                    f"Received: a marker of {path!r} and specs of "
                    f"{sorted(layers)}"
                )
            markers.append((op, path))
        elif graph.is_custom(op):
            raise ValueError(
                "Expected a model of ops that LiteRT has. Received: the op "
                f"{graph.kind(op)!r}. Replace the layer that needs it, or "
                "leave it out of the model and run it outside the file"
            )
    return markers


def _replace_markers(
    graph: Graph,
    markers: list[tuple[schema.OperatorT, str]],
    layers: dict[str, LayerSpec],
    simulate_floats: bool,
) -> None:
    quantized = {}
    for marker, path in markers:
        # Layers that quantize one tensor alike, as they often do where a
        # network branches, share the result.
        activation = layers[path].activation
        key = (marker.inputs[0], activation)
        if key not in quantized:
            quantized[key] = quantize_marked(
                graph, marker, activation, simulate_floats=simulate_floats
            )
        graph.redirect(marker.outputs[0], quantized[key])
        graph.remove(marker)


def _store_weights(
    graph: Graph, uses: list[WeightUse], weight_storage: str
) -> list[tuple[WeightSpec, Placement]]:
    """Replaces constants by codes, for the ops that were found to use them.

    Other readers of a constant keep it as it is. Where several weights of one
    format are one constant, the codes of one serve all: each are the values
    of the constant on the grid of the format.

    Returns:
        A placement for each weight and constant.
    """
    position = {id(op): index for index, op in enumerate(graph.ops)}
    groups = collections.defaultdict(list)
    for use in sorted(uses, key=lambda use: position[id(use.op)]):
        groups[use.tensor, use.weight.format].append(use)
    for (tensor, format), members in groups.items():
        storage = storage_of(format, weight_storage)
        if storage is not None:
            # Of the others, runtimes fold no decoding anyway.
            scale_outputs = (
                weight_storage == "fast" and storage.tensor_type == "FLOAT16"
            )
            _replace_constant(graph, tensor, members, storage, scale_outputs)
    readers = graph.consumers()
    placements = []
    for (tensor, format), members in groups.items():
        storage = storage_of(format, weight_storage)
        first, *sharing = dict.fromkeys(use.weight for use in members)
        placements.append(
            (first, _placement(first, storage, bool(readers[tensor])))
        )
        placements += [
            (weight, Placement(storage, 0, "shares another weight's constant"))
            for weight in sharing
        ]
    return placements


def _replace_constant(
    graph: Graph,
    tensor: int,
    uses: list[WeightUse],
    storage: Storage,
    scale_outputs: bool,
) -> None:
    first = uses[0]
    decoded, factor = add_weight(
        graph,
        first.op,
        first.match,
        first.weight.format,
        storage,
        name=graph.name(tensor),
    )
    ops = list(dict.fromkeys(use.op for use in uses))
    if factor is not None:
        axis = first.match.axis if factor.size > 1 else None
        if scale_outputs and all(
            can_scale_output(graph, op, tensor, axis) for op in ops
        ):
            for op in ops:
                scale_output(graph, op, factor)
        else:
            decoded = multiply(graph, first.op, decoded, factor, first.match)
    for op in ops:
        op.inputs = [decoded if t == tensor else t for t in op.inputs]


def _placement(
    weight: WeightSpec, storage: Storage | None, has_float_copy: bool
) -> Placement:
    size = weight.codes.size
    if storage is None:
        note = ""
        if not weight.format.is_pass_through:
            note = f"no type of at most 16 bits holds {weight.format} exactly"
        return Placement(None, 4 * size, note)
    note = "other ops keep a float32 copy" if has_float_copy else ""
    return Placement(storage, storage.nbytes(size), note)
