"""Energy of multiplications, beside the published numbers."""

import sys

import keras
import pytest
from keras import layers

import fliqs_keras
from fliqs_keras.energy_costs import published_energy


@pytest.mark.parametrize(
    "weight, read, expected",
    [
        # Published: a multiplication and the addition that follows.
        ("INT8", "INT8", 0.2 + 0.1),
        ("FP16", "FP16", 1.1 + 0.9),
        ("FP32", "FP32", 3.7 + 0.9),
        # Ours, worked by hand: 0.2 * (16 / 64) ** 0.98859 and
        # 1.1 * (16 / 121) ** 0.77740.
        ("INT4", "INT4", 0.0508 + 0.1),
        ("INT2", "INT8", 0.0508 + 0.1),
        ("E4M3", "E4M3", 0.2282 + 0.9),
    ],
)
def test_energy_of_a_multiply_accumulate(weight, read, expected):
    formats = [fliqs_keras.parse_format(f) for f in (weight, read)]
    assert published_energy(*formats) == pytest.approx(expected, abs=1e-4)
    assert published_energy(*formats[::-1]) == published_energy(*formats)


@pytest.fixture(scope="module")
def model():
    net = keras.Sequential([keras.Input((4,)), layers.Dense(2, name="head")])
    return fliqs_keras.apply(net, ["INT4", "INT8"])


def test_own_prices_count(model):
    prices = {("INT4", "INT4"): 1.0, ("INT8", "INT8"): 3.0}
    cost = fliqs_keras.MacEnergy(prices)
    assert cost(model, {"head": "INT8"}) * 1e6 == pytest.approx(8 * 3.0)


def test_missing_price_is_refused(model):
    with pytest.raises(ValueError, match="none for .*'INT8', 'INT8'"):
        fliqs_keras.MacEnergy({("INT4", "INT4"): 1.0})(model)


def test_negative_price_is_refused():
    with pytest.raises(ValueError, match="at least 0"):
        fliqs_keras.MacEnergy({("INT4", "INT4"): -1.0})


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
