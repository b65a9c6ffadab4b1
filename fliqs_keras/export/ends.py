"""Inputs and outputs of codes, for runtimes that have no floats."""

from fliqs_keras.export.chains import are_activations, find_chain
from fliqs_keras.export.graph import Graph

__all__ = ["use_integer_ends"]


def use_integer_ends(graph: Graph) -> None:
    """Has a graph take codes and return codes, of 8 bits.

    Scale and zero point stand in the file, with the tensors.

    Args:
        graph: A graph that quantizes its inputs and dequantizes its outputs.

    Raises:
        ValueError: If it does not, to at most 8 bits.
    """
    for tensor in graph.inputs:
        if graph.type_name(tensor) != "FLOAT32":
            continue
        chain = find_chain(graph, tensor)
        if chain is None or graph.type_name(chain.codes) != "INT8":
            raise ValueError(
                "Expected each float input to be quantized, by one quantizer "
                "of an integer format of at most 8 bits, to be taken as "
                f"codes. Received: input {_name(graph, tensor)!r}, which is "
                "not; export it as float with `integer_io=False`"
            )
        codes = graph.retype_input(tensor, "INT8", chain.entry)
        codes = chain.end_below(graph, codes, before=chain.ops[0])
        chain.replace_by(graph, codes)
        # What is left asks for the shape.
        graph.redirect(tensor, codes)
    for tensor in graph.outputs:
        if graph.type_name(tensor) != "FLOAT32":
            continue
        codes = graph.codes_behind(tensor)
        if codes is None or not are_activations(graph, codes):
            raise ValueError(
                "Expected each float output to be quantized, to an integer "
                "format of at most 8 bits, to be returned as codes. "
                f"Received: output {_name(graph, tensor)!r}, which is not; "
                "export it as float with `integer_io=False`"
            )
        graph.replace_output(tensor, codes)
    graph.remove_unread()


def _name(graph: Graph, tensor: int) -> str:
    return (graph.name(tensor) or b"").decode(errors="replace")
