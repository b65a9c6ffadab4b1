"""Number formats as frozen values: integers, small floats, pass-through.

A format is a symmetric, finite grid of *codes*. A quantizer maps a value `x`
to `scale * code`, where `scale = threshold / format.max_code`, so that the
clipping threshold always meets the largest code. Every grid is described by
three numbers: between two powers of two the codes are spaced by

    step = 2 ** (max(floor(log2(|code|)), min_exponent) - mantissa_bits)

and an integer is the grid whose step is one everywhere.
"""

import dataclasses
import functools
import re

import numpy as np

__all__ = ["FloatFormat", "Format", "IntFormat", "parse_format"]

_INT_BITS = range(2, 17)
_EXPONENT_BITS = range(1, 9)
_FLOAT_BITS = range(3, 17)

_NATIVE_NAMES = {(5, 10): "FP16", (8, 7): "BF16", (8, 23): "FP32"}
_NATIVE_FIELDS = {name: fields for fields, name in _NATIVE_NAMES.items()}

# Layouts whose standard gives the highest exponent to infinities and NaN.
# E4M3 gives away only its last code, and every other layout none.
_IEEE_LAYOUTS = frozenset({(3, 4), (5, 2), *_NATIVE_NAMES})


@dataclasses.dataclass(frozen=True)
class Format:
    """A number format. Use `IntFormat`, `FloatFormat` or `parse_format`.

    Formats are values: hashable, comparable, equal when their fields are.
    `str(format)` is the name that `parse_format` takes.
    """

    @property
    def name(self) -> str:
        """Name of the format, such as `"INT4"` or `"E4M3"`."""
        raise NotImplementedError

    @property
    def bits(self) -> int:
        """Bits that one value takes, the sign included."""
        raise NotImplementedError

    @property
    def mantissa_bits(self) -> int:
        """Stored bits of the mantissa: a step is `2**-bits` of the exponent."""
        raise NotImplementedError

    @property
    def min_exponent(self) -> int:
        """Exponent under which the step no longer shrinks."""
        raise NotImplementedError

    @property
    def max_code(self) -> float:
        """Largest code; the smallest is its negative."""
        raise NotImplementedError

    @property
    def scaled(self) -> bool:
        """Whether values are divided by a scale before they are rounded.

        FP16, BF16, FP32 and the other formats with 8 exponent bits reach far
        enough to be used as hardware does, at a scale of one.
        """
        return True

    @property
    def is_pass_through(self) -> bool:
        """Whether float32 values go through unchanged."""
        return False

    @property
    def is_integer(self) -> bool:
        """Whether the codes are integers one apart."""
        return False

    def codes(self) -> np.ndarray:
        """All codes in rising order, zero once, as a float32 array.

        Raises:
            ValueError: For formats of more than 16 bits.
        """
        if self.bits > 16:
            raise ValueError(
                "Expected a format of at most 16 bits to list the codes of. "
                f"Received: {self.name}"
            )
        return self._codes()

    def _codes(self) -> np.ndarray:
        raise NotImplementedError

    def __str__(self) -> str:
        return self.name


@dataclasses.dataclass(frozen=True)
class IntFormat(Format):
    """A signed integer with a symmetric, narrow range.

    The codes are `-(2**(bits - 1) - 1) ... 2**(bits - 1) - 1`: the lowest
    two's complement code is left out, so that every code can be negated.

    Args:
        width: Bits of the integer, 2 to 16.

    Raises:
        ValueError: If `width` is out of range.

    Example:

    >>> IntFormat(4).max_code
    7.0
    >>> IntFormat(2).codes()
    array([-1.,  0.,  1.], dtype=float32)
    """

    width: int

    def __post_init__(self):
        # 4.0 is in a range, too, but would get another name than 4.
        if not isinstance(self.width, int) or self.width not in _INT_BITS:
            raise ValueError(
                "Expected an integer format of 2 to 16 bits. "
                f"Received: width={self.width!r}"
            )

    @property
    def name(self) -> str:
        return f"INT{self.width}"

    @property
    def bits(self) -> int:
        return self.width

    @property
    def mantissa_bits(self) -> int:
        return self.width - 1

    @property
    def min_exponent(self) -> int:
        return self.width - 1

    @property
    def max_code(self) -> float:
        return float(2 ** (self.width - 1) - 1)

    @property
    def is_integer(self) -> bool:
        return True

    def _codes(self) -> np.ndarray:
        return np.arange(-self.max_code, self.max_code + 1, dtype=np.float32)

    def __str__(self) -> str:
        return self.name


@dataclasses.dataclass(frozen=True)
class FloatFormat(Format):
    """A float of one sign bit, exponent bits and mantissa bits (`ExMy`).

    Subnormals are kept, overflow saturates, and only finite values exist.
    Where a layout has a counterpart in `ml_dtypes` (E2M1, E2M3, E3M2, E3M4,
    E4M3 as "fn", E5M2) or is FP16 or BF16, the grid is the finite part of
    that one. Other layouts use all their codes for finite values, except
    those with 8 exponent bits, whose highest exponent float32 lacks.

    Args:
        exponent_bits: 1 to 8.
        stored_mantissa_bits: So many that the format has 3 to 16 bits in
            all, or 23 together with 8 exponent bits (FP32, pass-through).

    Raises:
        ValueError: If the layout is out of range.

    Example:

    >>> FloatFormat(4, 3).max_code
    448.0
    >>> FloatFormat(2, 1).codes()[7:]
    array([0. , 0.5, 1. , 1.5, 2. , 3. , 4. , 6. ], dtype=float32)
    """

    exponent_bits: int
    stored_mantissa_bits: int

    def __post_init__(self):
        fields = (self.exponent_bits, self.stored_mantissa_bits)
        in_range = (
            all(isinstance(field, int) for field in fields)
            and self.exponent_bits in _EXPONENT_BITS
            and self.stored_mantissa_bits >= 0
            and self.bits in _FLOAT_BITS
        )
        if not in_range and fields != (8, 23):
            raise ValueError(
                "Expected a float format of 1 to 8 exponent bits and 3 to 16 "
                f"bits in all. Received: E{fields[0]}M{fields[1]}, which has "
                f"{self.bits} bits"
            )

    @property
    def name(self) -> str:
        fields = (self.exponent_bits, self.stored_mantissa_bits)
        return _NATIVE_NAMES.get(fields, f"E{fields[0]}M{fields[1]}")

    @property
    def bits(self) -> int:
        return 1 + self.exponent_bits + self.stored_mantissa_bits

    @property
    def mantissa_bits(self) -> int:
        return self.stored_mantissa_bits

    @property
    def min_exponent(self) -> int:
        return 1 - self._bias

    @property
    def max_code(self) -> float:
        fields = (self.exponent_bits, self.stored_mantissa_bits)
        exponent = 2**self.exponent_bits - 1 - self._bias
        if fields in _IEEE_LAYOUTS or self.exponent_bits == 8:
            exponent -= 1
        top_mantissa = 2 - 2.0**-self.stored_mantissa_bits
        if fields == (4, 3):
            top_mantissa -= 2.0**-self.stored_mantissa_bits
        return 2.0**exponent * top_mantissa

    @property
    def scaled(self) -> bool:
        return self.exponent_bits < 8 and self.name not in _NATIVE_FIELDS

    @property
    def is_pass_through(self) -> bool:
        return self.stored_mantissa_bits == 23

    @property
    def _bias(self) -> int:
        return 2 ** (self.exponent_bits - 1) - 1

    def _codes(self) -> np.ndarray:
        mantissa_values = 2**self.stored_mantissa_bits
        field = np.arange(2 ** (self.bits - 1))
        exponent, mantissa = np.divmod(field, mantissa_values)
        fraction = mantissa / mantissa_values + (exponent > 0)
        magnitude = fraction * 2.0 ** (np.maximum(exponent, 1) - self._bias)
        magnitude = magnitude[magnitude <= self.max_code]
        codes = np.concatenate([-magnitude[:0:-1], magnitude])
        return codes.astype(np.float32)

    def __str__(self) -> str:
        return self.name


@functools.lru_cache(maxsize=None)
def _parse_name(name: str) -> Format:
    upper = name.strip().upper()
    if upper in _NATIVE_FIELDS:
        return FloatFormat(*_NATIVE_FIELDS[upper])
    if match := re.fullmatch(r"INT(\d+)", upper):
        return IntFormat(int(match[1]))
    if match := re.fullmatch(r"E(\d+)M(\d+)", upper):
        return FloatFormat(int(match[1]), int(match[2]))
    raise ValueError(
        "Expected the name of a number format: INT2 to INT16, ExMy with 1 to "
        "8 exponent bits and 3 to 16 bits in all (such as E4M3 or E2M1), "
        f"FP16, BF16 or FP32. Received: {name!r}"
    )


def parse_format(name: str | Format) -> Format:
    """Returns the format of a name; a `Format` is returned as it is.

    Names are not case-sensitive. `E5M10` is FP16 and `E8M7` is BF16.

    Args:
        name: A name such as `"INT4"`, `"E4M3"`, `"BF16"`, or a `Format`.

    Returns:
        The `Format`.

    Raises:
        ValueError: If the name is unknown or the format out of range.

    Example:

    >>> parse_format("e4m3")
    FloatFormat(exponent_bits=4, stored_mantissa_bits=3)
    """
    if isinstance(name, Format):
        return name
    if not isinstance(name, str):
        raise ValueError(
            "Expected a format or the name of one, such as 'INT4' or 'E4M3'. "
            f"Received: {name!r}"
        )
    return _parse_name(name)
