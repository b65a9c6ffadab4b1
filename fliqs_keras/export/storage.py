"""How a file holds the codes of each number format.

Every grid is a set of multiples of its smallest step, so narrow grids are kept
as integers whose scale takes in the step. A wide 8-bit float is kept as the
rank of each code, looked up in a table, and a 16-bit float as itself.

| format | compact | fast |
|---|---|---|
| INT2 | INT2 | INT8 |
| INT3, INT4 | INT4 | INT8 |
| INT5 to INT8, E2M2, E2M3 | INT8 | INT8 |
| INT9 to INT16 | INT16 | FLOAT16 where exact, else INT16 |
| E2M1 and others of at most 16 codes | INT4, looked up | INT8 where exact |
| E4M3, E5M2 and others of at most 256 codes | UINT8, looked up | FLOAT16 |
| FP16 and others that FLOAT16 holds | FLOAT16 | FLOAT16 |
| BF16 and others that BFLOAT16 holds | BFLOAT16 | BFLOAT16 |

In integer mode E2M1 is kept as INT8, since integer kernels look nothing up,
and integers fill their type: a finer scale is one for the bias, too.
"""

import dataclasses
import functools
import math
import operator

import numpy as np

from fliqs_keras.formats import Format

__all__ = ["Storage", "encode", "storage_of"]

_BITS = {
    "INT2": 2,
    "INT4": 4,
    "INT8": 8,
    "UINT8": 8,
    "INT16": 16,
    "FLOAT16": 16,
    "BFLOAT16": 16,
}
_SIGNED_TYPES = ("INT2", "INT4", "INT8", "INT16")
_FLOAT16_MAX_EXPONENT = 15


@dataclasses.dataclass(frozen=True)
class Storage:
    """A tensor type, and what its values mean.

    Args:
        tensor_type: Type of the constant in the file, such as `"INT4"`.
        unit: A stored value times `unit` is a code; a power of two.
        lookup: Whether a stored value, less `zero_point`, is instead the rank
            of the code among all codes of the format.
        zero_point: The stored value that stands for zero, or for rank zero.
    """

    tensor_type: str
    unit: float = 1.0
    lookup: bool = False
    zero_point: int = 0

    @property
    def bits(self) -> int:
        """Bits that one stored value takes."""
        return _BITS[self.tensor_type]

    def nbytes(self, size: int) -> int:
        """Bytes that `size` stored values take, packed."""
        return -(-size * self.bits // 8)


@functools.cache
def storage_of(
    format: Format,
    weight_storage: str = "compact",
    mode: str = "dequantize",
) -> Storage | None:
    """Returns the storage of a format.

    Args:
        format: The number format.
        weight_storage: `"compact"` for the fewest bytes, or `"fast"` for
            types that runtimes decode once and without a lookup.
        mode: In `"integer"`, a table is only looked up where no integer of at
            most 8 bits holds the codes, for integer kernels read no table.

    Returns:
        The storage, or `None` if no type of at most 16 bits holds the codes
        exactly.

    Raises:
        ValueError: If `weight_storage` is unknown.
    """
    if weight_storage not in ("compact", "fast"):
        raise ValueError(
            "Expected `weight_storage` to be 'compact' or 'fast'. "
            f"Received: weight_storage={weight_storage!r}"
        )
    if format.bits > 16:
        return None
    if mode == "integer":
        fewest_bits = 8 if weight_storage == "fast" else 2
        integers = _as_integers(format, fewest_bits, fill=True)
        if integers is not None and integers.bits <= 8:
            return integers
    # Where two cost the same, the first is taken.
    if weight_storage == "compact":
        options = [_as_integers(format), _as_floats(format), _as_ranks(format)]
        cost = operator.attrgetter("bits")
    else:
        integers = _as_integers(format, fewest_bits=8)
        options = [_as_floats(format), integers, _as_ranks(format)]
        cost = operator.attrgetter("lookup", "bits")
    return min(filter(None, options), key=cost, default=None)


def encode(codes: np.ndarray, format: Format, storage: Storage) -> np.ndarray:
    """Returns the values that a file holds for codes.

    Args:
        codes: Codes of the format, float32.
        format: The number format.
        storage: A storage of that format.

    Returns:
        An array of the file's type; for types of less than 8 bits, and for
        BFLOAT16, a flat array of what the file's bytes are made of.
    """
    codes = np.asarray(codes, np.float32)
    if storage.tensor_type == "BFLOAT16":
        return (codes.view(np.uint32) >> 16).astype(np.uint16).reshape(-1)
    if storage.tensor_type == "FLOAT16":
        return (codes / storage.unit).astype(np.float16)
    if storage.lookup:
        values = np.searchsorted(format.codes(), codes)
    else:
        values = np.rint(codes / storage.unit).astype(np.int64)
    values = values + storage.zero_point
    if storage.bits < 8:
        return _pack(values, storage.bits)
    return values.astype(storage.tensor_type.lower())


def _pack(values: np.ndarray, bits: int) -> np.ndarray:
    """Packs small integers into bytes, the first in the lowest bits."""
    per_byte = 8 // bits
    fields = (values.reshape(-1) & (2**bits - 1)).astype(np.uint8)
    fields = np.pad(fields, (0, -fields.size % per_byte))
    shifts = np.arange(per_byte, dtype=np.uint8) * bits
    shifted = fields.reshape(-1, per_byte) << shifts
    return np.bitwise_or.reduce(shifted, axis=1)


def _as_integers(
    format: Format, fewest_bits: int = 2, *, fill: bool = False
) -> Storage | None:
    unit = 2.0 ** (format.min_exponent - format.mantissa_bits)
    for tensor_type in _SIGNED_TYPES:
        limit = 2 ** (_BITS[tensor_type] - 1)
        if _BITS[tensor_type] < fewest_bits or format.max_code / unit >= limit:
            continue
        while fill and format.max_code / unit < limit / 2:
            unit /= 2
        return Storage(tensor_type, unit)
    return None


def _as_ranks(format: Format) -> Storage | None:
    count = format.codes().size
    if count <= 16:
        return Storage("INT4", lookup=True, zero_point=-8)
    if count <= 256:
        return Storage("UINT8", lookup=True)
    return None


def _as_floats(format: Format) -> Storage | None:
    codes = format.codes()
    exponent = math.frexp(format.max_code)[1] - 1
    for unit in (1.0, 2.0 ** (exponent - _FLOAT16_MAX_EXPONENT)):
        with np.errstate(over="ignore"):
            stored = (codes / np.float32(unit)).astype(np.float16)
        if np.array_equal(stored.astype(np.float32) * unit, codes):
            return Storage("FLOAT16", unit)
    if not np.any(codes.view(np.uint32) & 0xFFFF):
        return Storage("BFLOAT16")
    return None
