"""The ops that quantize the input of a layer.

Integers of up to 8 bits become QUANTIZE to INT8 and DEQUANTIZE, wider ones the
same with INT16. FP16 and BF16 become two CASTs. No runtime has the other small
floats, so they are rounded by float arithmetic, exactly.
"""

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from fliqs_keras.export.float_rounding import largest_to_round, round_float
from fliqs_keras.export.graph import Graph, Quantization
from fliqs_keras.export.markers import MARKER
from fliqs_keras.export.specs import ActivationSpec
from fliqs_keras.formats import Format, parse_format

__all__ = ["is_quantized", "quantize_marked"]

_NATIVE_FLOATS = {
    parse_format("FP16"): "FLOAT16",
    parse_format("BF16"): "BFLOAT16",
}

_FLOAT32_MAX_EXPONENT = 127
# What `round_float` calls otherwise.
_KINDS = {"Where": "SELECT_V2"}

_NON_NEGATIVE = {
    "ABS",
    "EXP",
    "LOGISTIC",
    "RELU",
    "RELU6",
    "RELU_0_TO_1",
    "SOFTMAX",
    "SQRT",
    "SQUARE",
}
_KEEP_NON_NEGATIVE = {
    "ADD",
    "AVERAGE_POOL_2D",
    "BATCH_TO_SPACE_ND",
    "CONCATENATION",
    "DEQUANTIZE",
    "EXPAND_DIMS",
    "MAX_POOL_2D",
    "MEAN",
    "MUL",
    "PAD",
    "QUANTIZE",
    "REDUCE_MAX",
    "RESHAPE",
    "SPACE_TO_BATCH_ND",
    "SQUEEZE",
    "TRANSPOSE",
    MARKER,
}
_NON_NEGATIVE_FUSED = {
    schema.ActivationFunctionType.RELU,
    schema.ActivationFunctionType.RELU6,
}


def quantize_marked(
    graph: Graph,
    marker: schema.OperatorT,
    activation: ActivationSpec | None,
    *,
    simulate_floats: bool = True,
    saturate: bool = False,
) -> int:
    """Adds the ops that quantize a marked tensor, in front of its marker.

    Args:
        graph: The graph.
        marker: The marker.
        activation: The quantization of the layer's input. `None` and
            pass-through formats leave it as it is.
        simulate_floats: Whether float formats are rounded to. If not, they
            are left as they are.
        saturate: Whether narrow integers get a zero point with which the type
            saturates at their end, as integer kernels need. Not every float
            kernel then dequantizes exactly.

    Returns:
        The quantized tensor, or the marked one if it is left as it is.

    Raises:
        ValueError: If the marked tensor is not float32.
    """
    x = marker.inputs[0]
    if not is_quantized(activation, simulate_floats=simulate_floats):
        return x
    if graph.type_name(x) != "FLOAT32":
        raise ValueError(
            "Expected quantized layers to have float32 inputs. Received: an "
            f"input of type {graph.type_name(x)}; convert the model with the "
            "float32 dtype policy"
        )
    chain = _Chain(graph, marker, x)
    if activation.format.is_integer:
        _quantize_integer(chain, activation.format, activation.scale, saturate)
    else:
        # Before the division, which LiteRT does in place: in a buffer that
        # reshapes of the tensor share, though others still read them.
        is_native = activation.format in _NATIVE_FLOATS
        find_limit = _largest_to_cast if is_native else largest_to_round
        limit = find_limit(activation.format)
        if np.isfinite(limit):
            chain.clip(activation.scale * limit)
        _scale(chain, "DIV", activation.scale)
        if is_native:
            chain.apply("CAST", type_name=_NATIVE_FLOATS[activation.format])
            chain.apply("CAST")
        else:
            _round_float(chain, activation.format)
        _scale(chain, "MUL", activation.scale)
    return chain.tensor


def is_quantized(
    activation: ActivationSpec | None, *, simulate_floats: bool = True
) -> bool:
    """Whether the file rounds an activation.

    Args:
        activation: The quantization of the layer's input, or `None`.
        simulate_floats: Whether float formats are rounded to.
    """
    if activation is None or activation.format.is_pass_through:
        return False
    return activation.format.is_integer or simulate_floats


class _Chain:
    """Elementwise ops in front of a marker, each on the result of the last."""

    def __init__(self, graph: Graph, marker: schema.OperatorT, x: int):
        self.graph = graph
        self.tensor = x
        self._marker = marker
        self.non_negative = _is_non_negative(graph, x)

    def apply(self, kind: str, *others: int | np.float32, **output) -> None:
        """Goes on with an op of the last result and of others."""
        self.tensor = self.op(kind, self.tensor, *others, **output)

    def op(self, kind: str, *inputs: int | np.float32, **output) -> int:
        """Adds an op of tensors (by index) and constants, beside the chain."""
        inputs = [self._as_tensor(x) for x in inputs]
        op = self.graph.insert(
            self._marker, kind, inputs, like=self.tensor, **output
        )
        return op.outputs[0]

    def clip(
        self, limit: float, *, below: bool = True, above: bool = True
    ) -> None:
        """Clips at both sides, or where the values could pass."""
        if below and not self.non_negative:
            self.apply("MAXIMUM", np.float32(-limit))
            self.graph.clipped.add(self.tensor)
        if above:
            self.apply("MINIMUM", np.float32(limit))
            self.graph.clipped.add(self.tensor)

    def _as_tensor(self, x: int | np.float32) -> int:
        return self.graph.add_constant(x) if isinstance(x, np.float32) else x


def _quantize_integer(
    chain: _Chain, format: Format, scale: float, saturate: bool
) -> None:
    tensor_type = "INT8" if format.bits <= 8 else "INT16"
    limits = np.iinfo(tensor_type.lower())
    max_code = int(format.max_code)
    # The type saturates at its top, but its lowest value is not a code.
    zero_point = 0
    if saturate and format.bits <= 8 and chain.non_negative:
        zero_point = limits.max - max_code
    elif saturate and format.bits <= 8:
        zero_point = limits.min + max_code
        chain.clip(scale * max_code, below=False)
    else:
        chain.clip(scale * max_code, above=max_code < limits.max)
    chain.apply(
        "QUANTIZE",
        type_name=tensor_type,
        quantization=Quantization([scale], zero_point),
    )
    chain.apply("DEQUANTIZE")


def _scale(chain: _Chain, kind: str, scale: float) -> None:
    if scale != 1:
        chain.apply(kind, np.float32(scale))


def _largest_to_cast(format: Format) -> float:
    # BF16 ends where float32 does, but FP16 would overflow to infinity.
    ends_early = np.log2(format.max_code) < _FLOAT32_MAX_EXPONENT
    return format.max_code if ends_early else np.inf


def _round_float(chain: _Chain, format: Format) -> None:
    def op(kind, *inputs):
        output = {"type_name": "BOOL"} if kind == "Less" else {}
        return chain.op(_KINDS.get(kind, kind.upper()), *inputs, **output)

    chain.tensor = round_float(op, chain.tensor, format)


def _is_non_negative(graph: Graph, tensor: int) -> bool:
    """Whether a tensor can be seen to hold no negative value.

    It is followed back to activation functions and constants.
    """
    producers = graph.producers()
    seen = set()
    pending = [tensor]
    while pending:
        tensor = pending.pop()
        if tensor in seen:
            continue
        seen.add(tensor)
        constant = graph.float_constant(tensor)
        op = producers.get(tensor)
        if constant is not None:
            if np.any(constant < 0):
                return False
        elif op is None:
            return False
        elif not _gives_non_negative(graph, op):
            if graph.kind(op) not in _KEEP_NON_NEGATIVE:
                return False
            pending.extend(_data_inputs(graph, op))
    return True


def _gives_non_negative(graph: Graph, op: schema.OperatorT) -> bool:
    fused = getattr(op.builtinOptions, "fusedActivationFunction", None)
    return graph.kind(op) in _NON_NEGATIVE or fused in _NON_NEGATIVE_FUSED


def _data_inputs(graph: Graph, op: schema.OperatorT) -> list[int]:
    """The inputs that hold values, not shapes, axes or paddings."""
    indices = ("INT32", "INT64")
    return [
        t for t in op.inputs if t >= 0 and graph.type_name(t) not in indices
    ]
