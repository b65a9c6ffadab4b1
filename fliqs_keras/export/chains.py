"""The ops from a float tensor to its codes: clipping, then QUANTIZE."""

import dataclasses

from ai_edge_litert import schema_py_generated as schema

from fliqs_keras.export.graph import Graph, Quantization

__all__ = ["LOOKS", "Chain", "are_activations", "find_chain"]

# Ops that do not read the values.
LOOKS = {"SHAPE"}


@dataclasses.dataclass(frozen=True)
class Chain:
    """The one quantization that all readers of a float tensor go through.

    Args:
        ops: Any MAXIMUM and MINIMUM that clip to the codes, then a QUANTIZE.
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

    @property
    def max_code(self) -> int:
        """The largest code, at which the type ends once it is zero."""
        zero_point = self.quantization.zero_point
        return 127 - zero_point if zero_point >= 0 else 128 + zero_point

    @property
    def entry(self) -> Quantization:
        """Scale and zero point with which the type ends at the top code."""
        if not self.clips_above:
            return self.quantization
        zero_point = -1 - self.quantization.zero_point
        return self.quantization._replace(zero_point=zero_point)

    def end_below(
        self, graph: Graph, codes: int, before: schema.OperatorT | None
    ) -> int:
        """Has codes of `entry` end at the lowest code, too."""
        if not self.clips_above:
            return codes
        op = graph.insert(
            before,
            "QUANTIZE",
            [codes],
            like=codes,
            type_name="INT8",
            quantization=self.quantization,
        )
        return op.outputs[0]

    def replace_by(self, graph: Graph, codes: int) -> None:
        """Has the readers of the codes read others, and removes the ops."""
        graph.redirect(self.codes, codes)
        for op in self.ops:
            graph.remove(op)


def are_activations(graph: Graph, tensor: int) -> bool:
    """Whether a tensor holds codes as integer kernels read activations.

    Of 8 bits and a single scale: rows of a table may have one a column.
    """
    quantization = graph.quantization(tensor)
    is_single = quantization is not None and quantization.scale.size == 1
    return is_single and graph.type_name(tensor) == "INT8"


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
        # Bounds that the model itself has are no part of a quantization.
        if op.outputs[0] not in graph.clipped:
            return None
        ops.append(op)
        tensor = op.outputs[0]
    return None
