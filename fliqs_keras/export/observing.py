"""Runs an exported file, and shows what it computes on the way."""

import os
import pathlib

from ai_edge_litert import schema_py_generated as schema

from fliqs_keras.export.flatbuffer import read_model, write_model
from fliqs_keras.export.following import ObservedFile
from fliqs_keras.export.graph import Graph
from fliqs_keras.export.running import TfliteFile

__all__ = ["observe_tflite"]

_EXPOSED = "exposed_"
_TYPES = ("FLOAT32", "INT8", "INT16")


def observe_tflite(
    path: str | os.PathLike, *, xnnpack: bool = True
) -> ObservedFile:
    """Opens a LiteRT file, and a copy that returns what its ops write.

    Args:
        path: The file.
        xnnpack: Whether the default delegate may take over ops.

    Returns:
        An `ObservedFile`, which shows the inputs and what all ops wrote.
    """
    content = pathlib.Path(path).read_bytes()
    file = TfliteFile(xnnpack, model_content=content)
    copy = TfliteFile(xnnpack, model_content=_expose(content))

    def observe(batch):
        exposed = {
            int(name.removeprefix(_EXPOSED)): tensor
            for name, tensor in copy.run(batch).items()
            if name.startswith(_EXPOSED)
        }
        return [exposed[number] for number in sorted(exposed)]

    return ObservedFile(file.fixed_batch_size or 1, file.run, observe)


def _expose(content: bytes) -> bytes:
    """Makes an output of all that a file computes from its inputs."""
    model = read_model(content)
    signature = model.signatureDefs[0]
    subgraph = model.subgraphs[signature.subgraphIndex]
    graph = Graph(model, subgraph)
    # Decoded weights stay within: runtimes decode them once, or never.
    computed = dict.fromkeys(graph.inputs)
    for op in graph.ops:
        if not computed.keys().isdisjoint(op.inputs):
            computed |= dict.fromkeys(op.outputs)
    for number, tensor in enumerate(computed):
        if graph.type_name(tensor) in _TYPES:
            end = schema.TensorMapT(f"{_EXPOSED}{number}", tensor)
            signature.outputs.append(end)
            if not graph.is_output(tensor):
                subgraph.outputs.append(tensor)
    return write_model(model)
