"""Rounding: bit for bit against ml_dtypes and a NumPy reference."""

import sys

import ml_dtypes
import numpy as np
import pytest
from keras import ops

from fliqs_keras import parse_format, round_to_format
from tests.backends import IS_TENSORFLOW, MODES, in_mode, pull_back

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
INTS = [f"INT{bits}" for bits in range(2, 17)]
RANDOM_VALUES = 1_000_000


def rounder(name, mode):
    """Returns `(x, threshold) -> rounded`, run in the given mode."""

    def run(x, threshold):
        return round_to_format(x, name, threshold)

    return in_mode(run, mode)


def assert_same_bits(actual, expected):
    actual = np.asarray(actual)
    assert actual.dtype == expected.dtype == np.float32
    differ = np.flatnonzero(actual.view("int32") != expected.view("int32"))
    assert not len(differ), (actual[differ[:9]], expected[differ[:9]])


def hard_values(codes, scale=1.0):
    """Codes, midpoints with both neighbours, zeros and extremes."""
    codes = codes.astype("float64") * scale
    middle = ((codes[1:] + codes[:-1]) / 2).astype("float32")
    up = np.nextafter(middle, np.float32(np.inf))
    down = np.nextafter(middle, np.float32(-np.inf))
    info = np.finfo("float32")
    ends = [0.0, codes[-1], info.max, info.tiny, info.smallest_subnormal]
    ends = np.array([*ends, np.inf, 1.0, 1e-30, 1e30], "float32")
    codes = codes.astype("float32")
    return np.concatenate([codes, middle, up, down, ends, -ends])


def random_values(largest, seed):
    """Half even over the range and over it, half even in the exponent."""
    generator = np.random.default_rng(seed)
    half = RANDOM_VALUES // 2
    even = generator.uniform(-1.25, 1.25, half)
    exponents = generator.uniform(-30, 1, half)
    signs = generator.choice([-1.0, 1.0], half)
    with np.errstate(over="ignore"):
        values = np.concatenate([even, signs * 2.0**exponents]) * largest
        return values.astype("float32")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ML_DTYPES)
def test_floats_equal_ml_dtypes(name, mode):
    number_format = parse_format(name)
    largest = np.float32(number_format.max_code)
    x = np.concatenate(
        [hard_values(number_format.codes()), random_values(largest, seed=1)]
    )
    clipped = np.clip(x, -largest, largest)
    expected = clipped.astype(ML_DTYPES[name]).astype("float32")
    assert_same_bits(rounder(name, mode)(x, largest), expected)


def integer_reference(x, scale, largest):
    code = np.rint(np.clip(x / scale, -largest, largest))
    return code.astype("float32") * scale


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", INTS)
def test_integers_equal_numpy(name, mode):
    number_format = parse_format(name)
    largest = np.float32(number_format.max_code)
    round_in_mode = rounder(name, mode)
    for threshold in np.array([largest, 1.0, 0.37, 11.3], "float32"):
        scale = threshold / largest
        x = np.concatenate(
            [
                hard_values(number_format.codes(), scale),
                random_values(threshold, seed=2),
            ]
        )
        with np.errstate(over="ignore"):
            expected = integer_reference(x, scale, largest)
        # A tensor, so that the compiled graph is one for all thresholds.
        actual = round_in_mode(x, ops.convert_to_tensor(threshold))
        if IS_TENSORFLOW:
            assert_same_bits(actual, expected)
        else:
            # JAX divides by a scalar through its reciprocal: the last bit of
            # the scale may differ, and values next to a tie fall otherwise.
            near = np.isclose(actual, expected, rtol=3e-7, atol=0)
            assert near[-RANDOM_VALUES:].mean() > 0.99
            np.testing.assert_allclose(actual, expected, atol=1.001 * scale)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", [*ML_DTYPES, "INT4", "E8M3", "FP32"])
def test_nan_stays_nan(name, mode):
    threshold = np.float32(parse_format(name).max_code)
    x = np.array([np.nan, 1.0, -np.nan], "float32")
    y = rounder(name, mode)(x, threshold)
    np.testing.assert_array_equal(np.isnan(y), [True, False, True])


@pytest.mark.parametrize("mode", MODES)
def test_float32_passes_through(mode):
    x = random_values(np.float32(3e38), seed=3)
    assert_same_bits(rounder("FP32", mode)(x, None), x)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["INT4", "E2M1", "E4M3"])
# Large tensors are compiled in a graph that is not.
@pytest.mark.parametrize("repeats", [1, 2**15], ids=["small", "large"])
def test_gradient_is_straight_through(repeats, name, mode):
    above = np.nextafter(np.float32(2), np.float32(3))
    x = np.float32([0.0, 0.3, -1.9, 2.0, -2.0, above, -above, 50.0])
    upstream = np.float32([1.0, 2.0, -3.0, 4.0, 5.0, 6.0, 7.0, 8.0])
    x, upstream = np.tile(x, repeats), np.tile(upstream, repeats)

    def gradient(x):
        return pull_back(lambda x: round_to_format(x, name, 2.0), x, upstream)[
            1
        ]

    kept = [1.0, 2.0, -3.0, 4.0, 5.0, 0.0, 0.0, 0.0]
    np.testing.assert_array_equal(
        in_mode(gradient, mode)(x), np.tile(kept, repeats)
    )


@pytest.mark.parametrize(
    ("name", "threshold", "expected"),
    [
        ("INT2", 2.0, [0, 0, -0.0, 2, -2, 2, 2, -2, 2, -2]),
        ("INT4", 7.0, [0, 0, -0.0, 2, -2, 2, 4, -4, 7, -7]),
        ("INT4", 3.5, [0, 0.5, -0.5, 1.5, -1.5, 2.5, 3.5, -3.5, 3.5, -3.5]),
        ("E2M1", 6.0, [0, 0.5, -0.5, 1.5, -1.5, 2, 4, -4, 6, -6]),
        ("E2M1", 3.0, [0, 0.5, -0.5, 1.5, -1.5, 2, 3, -3, 3, -3]),
        ("BF16", None, [0, 0.5, -0.5, 1.5, -1.5, 2.5, 3.5, -3.75, 9, -100]),
    ],
)
def test_values_by_hand(name, threshold, expected):
    x = [0.0, 0.5, -0.5, 1.5, -1.5, 2.5, 3.5, -3.75, 9.0, -100.0]
    y = round_to_format(x, name, threshold)
    assert_same_bits(y, np.array(expected, "float32"))


@pytest.mark.tensorflow
@pytest.mark.parametrize("name", ["INT4", "E4M3", "BF16"])
def test_no_dimension_need_be_known(name):
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec((None, None))])
    def run(x):
        return round_to_format(x, name, 4.0)

    x = np.random.default_rng(0).normal(size=(3, 5)).astype("float32")
    assert_same_bits(run(x), np.asarray(round_to_format(x, name, 4.0)))


def test_thresholds_broadcast():
    x = np.full((2, 3), 2.6, "float32")
    y = round_to_format(x, "INT4", np.array([7.0, 3.5, 1.0], "float32"))
    np.testing.assert_array_equal(y, [[3.0, 2.5, 1.0]] * 2)


def test_threshold_defaults_to_a_scale_of_one():
    y = round_to_format([2.6, 300.0, -500.0], "E4M3")
    np.testing.assert_array_equal(y, [2.5, 288.0, -448.0])


def test_unknown_format():
    with pytest.raises(ValueError, match="Received: 'INT99x'"):
        round_to_format([1.0], "INT99x")


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
