"""The nodes that quantize the input of a layer.

Integers become QuantizeLinear and DequantizeLinear in 8 or 16 bits; FP16, BF16,
E4M3 and E5M2 two Casts, as onnxruntime rewrites QuantizeLinear to small floats
into other numbers. Runtimes have no other small floats, so these are rounded by
float arithmetic, exactly.
"""

import numpy as np

from fliqs_keras.export.float_rounding import largest_to_round, round_float
from fliqs_keras.export.onnx.nodes import NodeWriter
from fliqs_keras.export.specs import ActivationSpec
from fliqs_keras.formats import Format, parse_format

__all__ = ["PREFIX", "quantize"]

# What the tensors of a quantized input are called, before their numbers.
PREFIX = "fliqs_keras/activation_"

_CASTS = {
    parse_format("FP16"): "FLOAT16",
    parse_format("BF16"): "BFLOAT16",
    parse_format("E4M3"): "FLOAT8E4M3FN",
    parse_format("E5M2"): "FLOAT8E5M2",
}
_FLOAT32_MAX_EXPONENT = 127


def quantize(
    writer: NodeWriter, x: str, activation: ActivationSpec | None
) -> str:
    """Writes the nodes that quantize a tensor; returns what they return.

    Args:
        writer: Takes the nodes.
        x: The tensor.
        activation: Its quantization. `None` and pass-through formats leave
            it as it is.
    """
    if activation is None or activation.format.is_pass_through:
        return x
    number_format = activation.format
    scale = np.float32(activation.scale)
    if number_format.is_integer:
        return _quantize_integer(writer, x, scale, int(number_format.max_code))
    if scale != 1:
        x = writer.node("Div", x, scale)
    if number_format in _CASTS:
        x = _cast(writer, x, number_format)
    else:
        x = _clip(writer, x, largest_to_round(number_format))
        x = round_float(writer.node, x, number_format)
    return writer.node("Mul", x, scale) if scale != 1 else x


def _clip(writer: NodeWriter, x: str, limit: float) -> str:
    return writer.node("Clip", x, np.float32(-limit), np.float32(limit))


def _quantize_integer(
    writer: NodeWriter, x: str, scale: np.float32, max_code: int
) -> str:
    # Unsigned, because onnxruntime computes on no signed inputs; it fails
    # where it has to rewrite them.
    dtype = np.uint8 if max_code < 2**7 else np.int16
    # The lowest code is the lowest value of the type, which saturates there.
    # The highest needs a Min. Behind a Clip, or nothing, onnxruntime would
    # quantize what the op before has in float32: biases to steps of the sum,
    # which few bits make coarse, and weights to INT8.
    x = writer.node("Min", x, scale * np.float32(max_code))
    zero_point = dtype(np.iinfo(dtype).min + max_code)
    # The zero point says which type it is.
    parameters = writer.constant(scale), writer.constant(zero_point)
    codes = writer.node("QuantizeLinear", x, *parameters)
    return writer.node("DequantizeLinear", codes, *parameters)


def _cast(writer: NodeWriter, x: str, number_format: Format) -> str:
    # BF16 ends where float32 does, but FP16 would overflow to infinity.
    if np.log2(number_format.max_code) < _FLOAT32_MAX_EXPONENT:
        x = _clip(writer, x, number_format.max_code)
    return writer.cast(writer.cast(x, _CASTS[number_format]), "FLOAT")
