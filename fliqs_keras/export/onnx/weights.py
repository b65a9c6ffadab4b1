"""How an ONNX file holds the codes of each number format.

| format | type | opset |
|---|---|---|
| INT2 | INT2 | 25 |
| INT3, INT4 | INT4 | 21 |
| INT5 to INT8, E2M1, E2M2, E2M3 | UINT8 | 13 |
| E4M3, E3M2 and others that it holds | FLOAT8E4M3FN | 19 |
| E5M2 and others that it holds | FLOAT8E5M2 | 19 |
| INT9 to INT16 | INT16 | 21 |
| FP16, BF16 | FLOAT16, BFLOAT16 | 13 |

UINT8 has the zero point 128. With INT8, onnxruntime would add up products in
16 bits, which saturate, on x86 without VNNI. E2M1 has a type of its own, which
runtimes do not decode yet.
"""

import dataclasses
import functools
import math

import ml_dtypes
import numpy as np

from fliqs_keras.export.matching import Match
from fliqs_keras.export.onnx.nodes import NodeWriter
from fliqs_keras.formats import Format

__all__ = ["OnnxStorage", "decode", "onnx_storage_of"]


@dataclasses.dataclass(frozen=True)
class OnnxStorage:
    """A tensor type, and what its values mean.

    Args:
        tensor_type: Type of the constant in the file, such as `"INT4"`.
        dtype: The NumPy type of its values.
        bits: Bits that one of them takes.
        zero_point: The stored value that stands for zero.
        unit: A stored value, less `zero_point`, times `unit` is a code; a
            power of two.
    """

    tensor_type: str
    dtype: type
    bits: int
    zero_point: int = 0
    unit: float = 1.0

    # What `LayerResult` asks of every storage.
    lookup = False

    def nbytes(self, size: int) -> int:
        """Bytes that `size` stored values take, packed."""
        return -(-size * self.bits // 8)

    def encode(self, codes: np.ndarray) -> np.ndarray:
        """Returns the stored values of codes."""
        stored = codes / np.float32(self.unit) + np.float32(self.zero_point)
        return stored.astype(self.dtype)

    def holds(self, codes: np.ndarray) -> bool:
        """Whether codes come back from it exactly."""
        with np.errstate(over="ignore", invalid="ignore"):
            stored = self.encode(codes).astype(np.float32) - self.zero_point
        return np.array_equal(stored * np.float32(self.unit), codes)


# From the fewest bits; of these, from the most common type.
_INTEGERS = (
    OnnxStorage("INT2", ml_dtypes.int2, 2),
    OnnxStorage("INT4", ml_dtypes.int4, 4),
    OnnxStorage("UINT8", np.uint8, 8, 128),
)
_OTHERS = (
    OnnxStorage("FLOAT8E4M3FN", ml_dtypes.float8_e4m3fn, 8),
    OnnxStorage("FLOAT8E5M2", ml_dtypes.float8_e5m2, 8),
    OnnxStorage("INT16", np.int16, 16),
    OnnxStorage("FLOAT16", np.float16, 16),
    OnnxStorage("BFLOAT16", ml_dtypes.bfloat16, 16),
)


@functools.cache
def onnx_storage_of(number_format: Format) -> OnnxStorage | None:
    """Returns the storage of a format.

    Args:
        number_format: The number format.

    Returns:
        The storage of the fewest bits, or `None` if no type of at most 16
        bits holds the codes exactly.
    """
    if number_format.bits > 16:
        return None
    codes = number_format.codes()
    # Every grid is a set of multiples of its smallest step.
    step = 2.0 ** (number_format.min_exponent - number_format.mantissa_bits)
    for storage in (*_INTEGERS, *_OTHERS):
        # A float of as many exponent bits fits if its top meets the type's.
        shift = 2.0 ** (math.frexp(number_format.max_code)[1] - 16)
        units = [step] if "INT" in storage.tensor_type else [1.0, shift]
        for unit in units:
            candidate = dataclasses.replace(storage, unit=unit)
            if candidate.holds(codes):
                return candidate
    return None


def decode(writer: NodeWriter, match: Match, storage: OnnxStorage) -> str:
    """Writes a weight as codes and their decoding; returns the decoded one.

    Args:
        writer: Takes the constants and the nodes.
        match: The weight as codes and scale.
        storage: How the codes are held.
    """
    codes = writer.constant(storage.encode(match.codes))
    scale = (match.scale * np.float32(storage.unit)).astype(np.float32)
    if "FLOAT16" not in storage.tensor_type:
        # One for each channel, and the axis counted from the end: else
        # onnxruntime multiplies dense weights by inputs rounded to 8 bits, if
        # these are float32.
        scale = np.broadcast_to(scale, match.codes.shape[match.axis])
        axis = match.axis - match.codes.ndim
        # Needless where it is zero, but onnxruntime trips where it is missing.
        zero = np.full(scale.shape, storage.zero_point).astype(storage.dtype)
        inputs = [codes, writer.constant(scale), writer.constant(zero)]
        return writer.node("DequantizeLinear", *inputs, axis=axis)
    decoded = writer.cast(codes, "FLOAT")
    if np.all(scale == 1):
        return decoded
    shape = [1] * match.codes.ndim
    shape[match.axis] = scale.size
    return writer.node("Mul", decoded, writer.constant(scale.reshape(shape)))
