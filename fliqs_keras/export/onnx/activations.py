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
# onnxruntime drops a Clip that ends within 1.2e-7 of what QuantizeLinear holds,
# and with it codes that are out of range, and the only op between weights of
# INT2 and an output in 8 bits, which it has no kernel for.
_SMALLEST_CLIPPED_SCALE = 2.0**-20


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
        # Ranges are narrow: the lowest value of an integer type is no code.
        limit = scale * np.float32(number_format.max_code)
        if scale > _SMALLEST_CLIPPED_SCALE:
            x = _clip(writer, x, limit)
        else:
            x = writer.node("Min", writer.node("Max", x, -limit), limit)
        # Unsigned, because onnxruntime computes on no signed inputs; it
        # fails where it has to rewrite them.
        zero = np.uint8(128) if number_format.bits <= 8 else np.int16(0)
        return _quantize_linear(writer, x, scale, zero)
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


def _quantize_linear(
    writer: NodeWriter, x: str, scale: np.float32, zero_point: np.generic
) -> str:
    # The zero point says which type it is.
    parameters = writer.constant(scale), writer.constant(zero_point)
    codes = writer.node("QuantizeLinear", x, *parameters)
    return writer.node("DequantizeLinear", codes, *parameters)


def _cast(writer: NodeWriter, x: str, number_format: Format) -> str:
    # BF16 ends where float32 does, but FP16 would overflow to infinity.
    if np.log2(number_format.max_code) < _FLOAT32_MAX_EXPONENT:
        x = _clip(writer, x, number_format.max_code)
    return writer.cast(writer.cast(x, _CASTS[number_format]), "FLOAT")
