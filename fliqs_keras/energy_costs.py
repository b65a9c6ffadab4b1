"""What the multiplications of an assignment take in energy."""

import math
from collections.abc import Mapping

import keras

from fliqs_keras.costs import Cost, CostTerm, mac_terms
from fliqs_keras.formats import Format, IntFormat, parse_format

__all__ = ["MacEnergy"]

# Horowitz, ISSCC 2014, figure 1.1.9: picojoules of an operation in 45 nm.
_INT8_MULTIPLY = 0.2
_INT32_MULTIPLY = 3.1
_INT32_ADD = 0.1
_FP16_MULTIPLY = 1.1
_FP32_MULTIPLY = 3.7
_FP32_ADD = 0.9

# Ours: a multiplication between and below the published widths follows the
# power of the product of the widths that joins the published points.
_INT_POWER = math.log(_INT32_MULTIPLY / _INT8_MULTIPLY) / math.log(32**2 / 8**2)
_FLOAT_POWER = math.log(_FP32_MULTIPLY / _FP16_MULTIPLY) / math.log(
    24**2 / 11**2
)

Prices = Mapping[tuple[str, str], float]


class MacEnergy(Cost):
    """Energy of the multiply-accumulates of one example, in microjoules.

    The multiply-accumulates of each layer, counted as in
    `fliqs_keras.BitOps`, times the energy of one. Moving data, which often
    takes more than computing, is not part of it.

    Published (Horowitz, "Computing's Energy Problem", ISSCC 2014, 45 nm, 0.9
    V), in picojoules:

    | | multiply | add |
    |---|---|---|
    | 8-bit integer | 0.2 | 0.03 |
    | 32-bit integer | 3.1 | 0.1 |
    | FP16 | 1.1 | 0.4 |
    | FP32 | 3.7 | 0.9 |

    All else is scaled by us, and no measurement. Two integers are summed up
    in a 32-bit integer; the multiplication goes by a power of the product of
    their widths, through the two published points. Where one is a float,
    products are summed up in FP32; the multiplication goes by a power of the
    product of the significands, through FP16 (11 bits) and FP32 (24), where
    an integer counts without its sign.

    Args:
        prices: Picojoules of one multiply-accumulate by the names of the
            formats of weight and input, `{("INT8", "INT8"): 0.3}`, in place
            of the above: every pair that the model may take. An input that is
            not quantized is FP32.

    Raises:
        ValueError: If a format is unknown or a price is negative; when it is
            used, if `prices` lacks a pair.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> energy = MacEnergy()(fliqs_keras.apply(model, "INT8"))
    >>> round(energy * 1e6, 6)  # 8 times 0.2 + 0.1 picojoules
    2.4
    """

    unit = "uJ"

    def __init__(self, prices: Prices | None = None):
        self.prices = None
        if prices is not None:
            self.prices = {
                (parse_format(weight), parse_format(read)): float(price)
                for (weight, read), price in prices.items()
            }
            if not all(price >= 0 for price in self.prices.values()):
                raise ValueError(
                    "Expected `prices` of at least 0 picojoules. Received: "
                    f"prices={dict(prices)}"
                )

    def terms(self, model: keras.Model) -> list[CostTerm]:
        return mac_terms(model, lambda w, a: self._price(w, a) / 1e6)

    def _price(self, weight: Format, read: Format) -> float:
        if self.prices is None:
            return published_energy(weight, read)
        if (weight, read) not in self.prices:
            raise ValueError(
                "Expected `prices` for every pair of formats that the model "
                f"may take. Received: none for {(weight.name, read.name)}"
            )
        return self.prices[weight, read]


def published_energy(weight: Format, read: Format) -> float:
    """Returns the picojoules of one multiply-accumulate in 45 nm.

    Args:
        weight: Format of the weight.
        read: Format of the input.
    """
    if isinstance(weight, IntFormat) and isinstance(read, IntFormat):
        product = weight.bits * read.bits / 8**2
        return _INT8_MULTIPLY * product**_INT_POWER + _INT32_ADD
    product = _significand(weight) * _significand(read) / 11**2
    return _FP16_MULTIPLY * product**_FLOAT_POWER + _FP32_ADD


def _significand(number_format: Format) -> int:
    if isinstance(number_format, IntFormat):
        return number_format.bits - 1
    # One bit is implicit.
    return number_format.stored_mantissa_bits + 1
