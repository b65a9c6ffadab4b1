"""Runs an exported file, and shows what it computes on the way."""

import os
import pathlib
from collections.abc import Mapping

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from fliqs_keras.export.flatbuffer import read_model, write_model
from fliqs_keras.export.graph import Graph
from fliqs_keras.export.running import TfliteFile

__all__ = ["ObservedTflite"]

_EXPOSED = "exposed_"
_TYPES = ("FLOAT32", "INT8", "INT16")


class ObservedTflite:
    """A LiteRT file, and a copy of it that returns what its ops write.

    The copy is another file: a runtime that computes the one wrongly, because
    it puts two tensors in one place, may compute the other right.

    Args:
        path: The file.
        xnnpack: Whether the default delegate may take over ops.

    Attributes:
        batch_size: Examples in one call.
    """

    def __init__(self, path: str | os.PathLike, *, xnnpack: bool = True):
        content = pathlib.Path(path).read_bytes()
        self._file = TfliteFile(xnnpack, model_content=content)
        self._copy = TfliteFile(xnnpack, model_content=_expose(content))
        self.batch_size = self._file.fixed_batch_size or 1

    def run(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Runs the file as it is.

        Args:
            batch: `batch_size` examples, by the names of the inputs.

        Returns:
            The outputs by name.
        """
        return self._file.run(batch)

    def observe(self, batch: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Runs the copy.

        Args:
            batch: `batch_size` examples, by the names of the inputs.

        Returns:
            The inputs and what the ops wrote, in their order, codes being
            dequantized.
        """
        outputs = self._copy.run(batch)
        exposed = {
            int(name.removeprefix(_EXPOSED)): tensor
            for name, tensor in outputs.items()
            if name.startswith(_EXPOSED)
        }
        return [exposed[number] for number in sorted(exposed)]


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
