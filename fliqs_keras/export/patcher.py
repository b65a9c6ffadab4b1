"""From a converted float model with markers to a quantized one."""

import collections
import dataclasses
from collections.abc import Sequence

from ai_edge_litert import schema_py_generated as schema

from fliqs_keras.export.activations import is_quantized, quantize_marked
from fliqs_keras.export.ends import use_integer_ends
from fliqs_keras.export.flatbuffer import read_model, write_model
from fliqs_keras.export.graph import Graph
from fliqs_keras.export.integer import use_integer_kernels
from fliqs_keras.export.markers import MARKER, read_path
from fliqs_keras.export.results import LayerResult, Placement, summarize
from fliqs_keras.export.specs import LayerSpec, WeightSpec
from fliqs_keras.export.storage import Storage, storage_of
from fliqs_keras.export.tracing import Tracer, WeightUse
from fliqs_keras.export.weights import find_lookups, replace_constant
from fliqs_keras.formats import parse_format

__all__ = ["LayerResult", "patch"]

_SHARED = "shares another weight's constant"


def patch(
    buffer: bytes,
    specs: Sequence[LayerSpec],
    *,
    mode: str = "dequantize",
    integer_io: bool = False,
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
        mode: `"dequantize"`, or `"integer"` to have ops compute in integers
            where their inputs, outputs and weights are.
        integer_io: Whether the file takes and returns codes of 8 bits. Only
            in integer mode.
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
            LiteRT lacks, if it cannot take or return codes, if two specs have
            the same path, if a marker has no spec, or if an argument is
            unknown.
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
    counted: dict[bytes, WeightSpec] = {}
    for subgraph in model.subgraphs:
        graph = Graph(model, subgraph)
        markers = _find_markers(graph, layers)
        tracer = Tracer(graph)
        uses = []
        for marker, path in markers:
            trace = tracer.trace(marker, layers[path].weights)
            traces[path].append(trace)
            uses += trace.uses
        stored = [
            (weight, _count_once(model, subgraph, weight, placement, counted))
            for weight, placement in _store_weights(
                graph, uses, weight_storage, mode
            )
        ]
        _replace_markers(graph, markers, layers, simulate_floats, mode)
        reasons = None
        if mode == "integer":
            reasons = use_integer_kernels(graph)
            if integer_io and subgraph is model.subgraphs[0]:
                use_integer_ends(graph)
        for weight, placement in stored:
            if reasons is not None:
                placement = placement.in_integer_mode(reasons)
            placements[weight].append(placement)
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
                f"{graph.kind(op)!r}. If sizes other than the batch's are "
                "open, fix them by `input_signature`; else replace the layer "
                "that needs it, or run it outside the file"
            )
    return markers


def _replace_markers(
    graph: Graph,
    markers: list[tuple[schema.OperatorT, str]],
    layers: dict[str, LayerSpec],
    simulate_floats: bool,
    mode: str,
) -> None:
    quantized = {}
    for marker, path in markers:
        # Layers that quantize one tensor alike, as they often do where a
        # network branches, share the result.
        activation = layers[path].activation
        key = (marker.inputs[0], activation)
        if key not in quantized:
            quantized[key] = quantize_marked(
                graph,
                marker,
                activation,
                simulate_floats=simulate_floats,
                saturate=mode == "integer",
            )
        graph.redirect(marker.outputs[0], quantized[key])
        graph.remove(marker)


def _store_weights(
    graph: Graph, uses: list[WeightUse], weight_storage: str, mode: str
) -> list[tuple[WeightSpec, Placement]]:
    """Replaces the constants that were recognized by codes.

    Where several weights of one format are one constant, the codes of one
    serve all: each are the values of the constant on the grid of the format.
    For the same reason the codes serve other readers of the constant.

    Returns:
        A placement for each weight and constant.
    """
    weights = collections.defaultdict(dict)
    for use in uses:
        weights[use.tensor].setdefault(use.weight, use.match)
    placements = []
    for tensor, matches in weights.items():
        (first, match), *_ = matches.items()
        storage = storage_of(first.format, weight_storage, mode)
        note = ""
        codes = None
        if storage is not None:
            if storage.tensor_type == "INT2" and find_lookups(
                graph, tensor, match, storage.bits
            ):
                storage = storage_of(parse_format("INT4"))
                note = "no runtime looks up INT2"
            codes = replace_constant(
                graph,
                tensor,
                match,
                first.format,
                storage,
                # Of the others, runtimes fold no decoding anyway.
                scale_outputs=weight_storage == "fast"
                and storage.tensor_type == "FLOAT16",
            )
        placements.append((first, _placement(first, storage, codes, note)))
        shared = Placement(storage, 0, codes, _SHARED)
        placements += [(weight, shared) for weight in list(matches)[1:]]
    return placements


def _count_once(
    model: schema.ModelT,
    subgraph: schema.SubGraphT,
    weight: WeightSpec,
    placement: Placement,
    counted: dict[bytes, WeightSpec],
) -> Placement:
    """Returns the placement without the bytes of codes that were counted.

    The file holds equal codes once, whatever their scales: those of a layer
    that is used twice, before one normalization and another.
    """
    if placement.codes is None or not placement.bytes:
        return placement
    buffer = subgraph.tensors[placement.codes].buffer
    content = bytes(model.buffers[buffer].data)
    if content not in counted:
        counted[content] = weight
        return placement
    note = placement.note if counted[content] is weight else _SHARED
    return dataclasses.replace(placement, bytes=0, note=note)


def _placement(
    weight: WeightSpec, storage: Storage | None, codes: int | None, note: str
) -> Placement:
    size = weight.codes.size
    if storage is None:
        if not weight.format.is_pass_through:
            note = f"no type of at most 16 bits holds {weight.format} exactly"
        return Placement(None, 4 * size, None, note)
    return Placement(storage, storage.nbytes(size), codes, note)
