"""The ops from a float tensor to its codes: clipping, then QUANTIZE."""

import dataclasses

from ai_edge_litert import schema_py_generated as schema

from fliqs_keras.export.graph import Graph, Quantization

__all__ = ["LOOKS", "Chain", "find_chain"]

# Ops that do not read the values.
LOOKS = {"SHAPE"}


@dataclasses.dataclass(frozen=True)
class Chain:
    """The one quantization that all readers of a float tensor go through.

    Args:
        ops: Any MAXIMUM and MINIMUM with a constant, then a QUANTIZE.
        clips_above: Whether there is a MINIMUM among them.
        quantization: Scale and zero point of the codes.
    """

    ops: tuple[schema.OperatorT, ...]
    clips_above: bool
    quantization: Quantization

    @property
    def codes(self) -> int:
        """The tensor of codes."""
        return self.ops[-1].outputs[0]

    def replace_by(self, graph: Graph, codes: int) -> None:
        """Has the readers of the codes read others, and removes the ops."""
        graph.redirect(self.codes, codes)
        for op in self.ops:
            graph.remove(op)


def find_chain(graph: Graph, tensor: int) -> Chain | None:
    """Returns the quantization of a tensor, if it is all that reads it.

    Ops that only ask for the shape of the tensor do not count.

    Args:
        graph: The graph.
        tensor: A float tensor.
    """
    ops = []
    readers = graph.consumers()
    while not graph.is_output(tensor):
        reading = [op for op in readers[tensor] if graph.kind(op) not in LOOKS]
        if len(reading) != 1:
            return None
        (op,) = reading
        kind = graph.kind(op)
        if kind == "QUANTIZE":
            ops.append(op)
            kinds = [graph.kind(op) for op in ops]
            quantization = graph.quantization(op.outputs[0])
            return Chain(tuple(ops), "MINIMUM" in kinds, quantization)
        is_clip = kind in ("MAXIMUM", "MINIMUM") and (
            graph.float_constant(op.inputs[1]) is not None
        )
        if not is_clip:
            return None
        ops.append(op)
        tensor = op.outputs[0]
    return None
