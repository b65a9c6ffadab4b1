"""Formats: their codes against ml_dtypes, their names, their errors."""

import sys

import ml_dtypes
import numpy as np
import pytest

from fliqs_keras import FloatFormat, IntFormat, parse_format

ML_DTYPES = {
    "E4M3": ml_dtypes.float8_e4m3fn,
    "E5M2": ml_dtypes.float8_e5m2,
    "E3M4": ml_dtypes.float8_e3m4,
    "E2M1": ml_dtypes.float4_e2m1fn,
    "E2M3": ml_dtypes.float6_e2m3fn,
    "E3M2": ml_dtypes.float6_e3m2fn,
    "BF16": ml_dtypes.bfloat16,
    "FP16": np.float16,
}
INT_FORMATS = [IntFormat(bits) for bits in range(2, 17)]
FLOAT_FORMATS = [
    FloatFormat(exponent, mantissa)
    for exponent in range(1, 9)
    for mantissa in range(15)
    if 3 <= 1 + exponent + mantissa <= 16
]
ALL_FORMATS = [*INT_FORMATS, *FLOAT_FORMATS]


@pytest.mark.parametrize("name", ML_DTYPES)
def test_codes_are_the_finite_values_of_ml_dtypes(name):
    number_format = parse_format(name)
    field = np.arange(2**number_format.bits)
    field = field.astype("uint8" if number_format.bits <= 8 else "uint16")
    values = field.view(ML_DTYPES[name]).astype("float32")
    expected = np.unique(values[np.isfinite(values)])
    np.testing.assert_array_equal(number_format.codes(), expected)
    assert number_format.max_code == expected[-1]


@pytest.mark.parametrize("number_format", INT_FORMATS, ids=str)
def test_codes_of_integers(number_format):
    largest = 2 ** (number_format.bits - 1) - 1
    np.testing.assert_array_equal(
        number_format.codes(), range(-largest, largest + 1)
    )
    assert number_format.is_integer


@pytest.mark.parametrize("number_format", ALL_FORMATS, ids=str)
def test_codes_are_a_symmetric_finite_grid(number_format):
    codes = number_format.codes()
    assert codes.dtype == np.float32
    assert np.isfinite(codes).all()
    assert (np.diff(codes) > 0).all()
    assert len(codes) < 2**number_format.bits
    np.testing.assert_array_equal(codes, -codes[::-1])
    assert codes[-1] == number_format.max_code


@pytest.mark.parametrize("number_format", ALL_FORMATS, ids=str)
def test_name_round_trip(number_format):
    assert parse_format(number_format.name) == number_format
    assert parse_format(f" {number_format.name.lower()} ") == number_format
    assert parse_format(number_format) is number_format
    assert str(number_format) == number_format.name


def test_formats_are_values():
    assert len(set(ALL_FORMATS)) == len(ALL_FORMATS) == 15 + len(FLOAT_FORMATS)
    assert len({f.name for f in ALL_FORMATS}) == len(ALL_FORMATS)
    assert hash(parse_format("E4M3")) == hash(FloatFormat(4, 3))


@pytest.mark.parametrize(
    ("native", "layout", "bits"),
    [("FP16", "E5M10", 16), ("BF16", "E8M7", 16), ("FP32", "E8M23", 32)],
)
def test_native_names(native, layout, bits):
    assert parse_format(layout) == parse_format(native)
    assert parse_format(layout).name == native
    assert parse_format(native).bits == bits
    assert not parse_format(native).scaled


def test_only_float32_passes_through():
    assert parse_format("FP32").is_pass_through
    assert not any(f.is_pass_through for f in ALL_FORMATS)
    with pytest.raises(ValueError, match="16 bits.*Received: FP32"):
        parse_format("FP32").codes()


@pytest.mark.parametrize(
    "name",
    [
        *["", "INT", "INT1", "INT17", "INT-4", "INT4.0", "UINT4", "FP8"],
        *["E0M3", "E9M3", "E1M0", "E1M15", "E8M8", "E5M", "M3", "E4M3FN"],
        *["E8M22", "float32", None, 4, ("INT4",)],
    ],
)
def test_bad_names(name):
    with pytest.raises(ValueError, match="Expected.*Received: "):
        parse_format(name)


@pytest.mark.parametrize("width", [1, 17, 0, -4, 4.5, "4"])
def test_bad_integer_widths(width):
    with pytest.raises(ValueError, match="Received: width="):
        IntFormat(width)


@pytest.mark.parametrize("fields", [(0, 3), (9, 1), (1, 0), (8, 8), (4, -1)])
def test_bad_float_layouts(fields):
    with pytest.raises(ValueError, match="Received: E"):
        FloatFormat(*fields)


@pytest.mark.parametrize(
    "make",
    [lambda: IntFormat(4.0), lambda: FloatFormat(4.0, 3)],
    ids=["int", "float"],
)
def test_fields_are_integers(make):
    with pytest.raises(ValueError, match="Received"):
        make()


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
