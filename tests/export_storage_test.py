"""Storage of formats, recognition of weights, and the specs' checks."""

import sys

import ml_dtypes
import numpy as np
import pytest

from fliqs_keras.export.matching import match_codes
from fliqs_keras.export.specs import ActivationSpec, WeightSpec
from fliqs_keras.export.storage import encode, storage_of
from fliqs_keras.formats import parse_format

# Too many mantissa bits for one of the runtime's 16-bit types.
NOT_STORED = "E2M13 E3M11 E3M12 E4M11 E6M8 E6M9 E7M8".split()
ALL_FORMATS = [f"INT{bits}" for bits in range(2, 17)] + [
    f"E{e}M{m}" for e in range(1, 9) for m in range(14) if 3 <= 1 + e + m <= 16
]


def decode(stored, size, format, storage):
    """Reads back what a file holds, by its type's own definition."""
    if storage.tensor_type == "BFLOAT16":
        return stored.view(ml_dtypes.bfloat16).astype(np.float32)
    if storage.bits < 8:
        dtype = {"INT2": ml_dtypes.int2, "INT4": ml_dtypes.int4}
        dtype = dtype[storage.tensor_type]
        fields = [stored >> s for s in range(0, 8, storage.bits)]
        fields = np.stack(fields, axis=1).reshape(-1)[:size]
        fields = (fields & (2**storage.bits - 1)).astype(np.int64)
        sign = 2 ** (storage.bits - 1)
        stored = ((fields ^ sign) - sign).astype(dtype)
    values = stored.astype(np.float32)
    if storage.lookup:
        return format.codes()[(values - storage.zero_point).astype(int)]
    return values * np.float32(storage.unit)


@pytest.mark.parametrize("weight_storage", ["compact", "fast"])
@pytest.mark.parametrize("name", ALL_FORMATS)
def test_codes_come_back(name, weight_storage):
    format = parse_format(name)
    storage = storage_of(format, weight_storage)
    assert (storage is None) == (name in NOT_STORED)
    if storage is None:
        return
    codes = format.codes()
    stored = encode(codes, format, storage)
    assert stored.nbytes == storage.nbytes(codes.size)
    back = decode(stored, codes.size, format, storage)
    np.testing.assert_array_equal(back, codes)


@pytest.mark.parametrize(
    "name, compact, fast",
    [
        ("INT2", "INT2", "INT8"),
        ("INT3", "INT4", "INT8"),
        ("INT4", "INT4", "INT8"),
        ("INT5", "INT8", "INT8"),
        ("INT9", "INT16", "FLOAT16"),
        ("INT16", "INT16", "INT16"),
        ("E1M2", "INT4", "INT8"),
        ("E2M1", "INT4 lookup", "INT8"),
        ("E2M2", "INT8", "INT8"),
        ("E2M3", "INT8", "INT8"),
        ("E3M2", "UINT8 lookup", "FLOAT16"),
        ("E4M3", "UINT8 lookup", "FLOAT16"),
        ("E5M2", "UINT8 lookup", "FLOAT16"),
        ("E4M7", "FLOAT16", "FLOAT16"),
        ("FP16", "FLOAT16", "FLOAT16"),
        ("BF16", "BFLOAT16", "BFLOAT16"),
    ],
)
def test_storage_table(name, compact, fast):
    for weight_storage, expected in (("compact", compact), ("fast", fast)):
        storage = storage_of(parse_format(name), weight_storage)
        lookup = " lookup" if storage.lookup else ""
        assert storage.tensor_type + lookup == expected


@pytest.mark.parametrize(
    "name, compact, fast",
    [
        # -31 * 4 and 31 * 4 fit in 8 bits, times 8 they do not.
        ("INT6", ("INT8", 1 / 4), ("INT8", 1 / 4)),
        ("INT4", ("INT4", 1), ("INT8", 1 / 16)),
        ("INT3", ("INT4", 1 / 2), ("INT8", 1 / 32)),
        # Steps of a half up to 6: 12 of them, times 8.
        ("E2M1", ("INT8", 1 / 16), ("INT8", 1 / 16)),
    ],
)
def test_integer_mode_fills_the_type(name, compact, fast):
    for choice, expected in {"compact": compact, "fast": fast}.items():
        storage = storage_of(parse_format(name), choice, "integer")
        assert (storage.tensor_type, storage.unit) == expected


def test_float32_is_not_stored_anew():
    assert storage_of(parse_format("FP32")) is None


@pytest.mark.parametrize(
    "name, codes, expected",
    [
        ("INT4", [1, -1, 7, -7, 2], [0xF1, 0x97, 0x02]),
        ("INT2", [1, -1, 0, 1, -1], [0x4D, 0x03]),
        ("E2M1", [-6, 6, 0], [0x68, 0x0F]),
    ],
)
def test_small_codes_are_packed_low_bits_first(name, codes, expected):
    format = parse_format(name)
    packed = encode(np.float32(codes), format, storage_of(format))
    assert packed.tolist() == expected


def random_codes(name, shape, seed=0):
    rng = np.random.default_rng(seed)
    return rng.choice(parse_format(name).codes(), shape)


@pytest.mark.parametrize("name", ["INT2", "INT4", "INT16", "E4M3", "E5M2"])
@pytest.mark.parametrize(
    "order", [(3, 0, 1, 2), (0, 1, 2, 3), (2, 0, 1, 3), (2, 3, 0, 1)]
)
def test_match_finds_layout_factor_and_sign(name, order):
    codes = random_codes(name, (3, 3, 4, 5))
    layout = codes.transpose(order)
    channels = layout.shape[0]
    factors = np.random.default_rng(1).normal(size=(channels, 1, 1, 1))
    constant = (layout * factors).astype(np.float32)
    match = match_codes(constant, codes, channel_axis=0)
    scale = match.scale.reshape(-1, 1, 1, 1)
    assert match.axis == 0 and np.all(match.scale > 0)
    np.testing.assert_array_equal(match.codes, layout * np.sign(factors))
    np.testing.assert_allclose(match.codes * scale, constant, rtol=3e-7)


def test_match_is_exact_where_nothing_was_folded():
    codes = random_codes("INT8", (64, 32))
    for scale in np.random.default_rng(1).uniform(0.001, 1, 20).astype("f4"):
        match = match_codes((codes * scale).T, codes, channel_axis=0)
        assert match.scale.tolist() == [scale]


def test_match_refuses_other_weights():
    codes = random_codes("INT4", (8, 8))
    constant = codes.copy()
    constant[3, 3] += 0.01
    assert match_codes(constant, codes, 0) is None
    assert match_codes(codes[:4], codes, 0) is None
    assert match_codes(random_codes("INT4", (8, 8), seed=1), codes, 0) is None


def test_match_refuses_what_is_no_number():
    codes = random_codes("INT4", (8, 8))
    assert match_codes(np.where(codes > 6, np.nan, codes), codes, 0) is None


def test_match_of_nothing_but_zeros():
    match = match_codes(np.zeros((2, 3), np.float32), np.zeros((3, 2)), 0)
    assert match.scale.tolist() == [1]
    assert not match.codes.any()


@pytest.mark.parametrize(
    "codes, scale, axis, message",
    [
        (np.ones((2, 3)), np.ones(2), 1, "hold 3 elements"),
        (np.ones((2, 3)), np.ones(2), None, "hold 1 elements"),
        (np.ones((2, 3)), np.ones(2), 2, "an axis of `codes`"),
        (np.full((2, 3), 8), np.ones(1), None, "codes of INT4 only"),
        (np.full((2, 3), 0.5), np.ones(1), None, "such as 0.5"),
    ],
)
def test_weight_spec_checks(codes, scale, axis, message):
    with pytest.raises(ValueError, match=message):
        WeightSpec(parse_format("INT4"), codes, scale, axis)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), 1e-40])
def test_activation_spec_checks(scale):
    with pytest.raises(ValueError, match="positive, normal"):
        ActivationSpec(parse_format("INT4"), scale)


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
