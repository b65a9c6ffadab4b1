"""Quantizers whose thresholds follow their tensor while a model trains."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from fliqs_keras import thresholds
from fliqs_keras.formats import Format
from fliqs_keras.quantizers import AGGREGATION, SwitchableQuantizer
from fliqs_keras.shared_functions import share

__all__ = ["ActivationQuantizer", "WeightQuantizer"]

Tensor = Any

_RANGE_MOMENTUM = 0.99
_OBSERVATION_RATE = 0.1
_OBSERVED_EXAMPLES = 8
_OBSERVED_VALUES = 1024


def _take_shares(
    formats: tuple[Format, ...], shares: Tensor, largest: Tensor
) -> Tensor:
    """Returns thresholds that are shares of the largest magnitudes."""
    unscaled = np.array([f.max_code for f in formats], "float32")
    unscaled = unscaled.reshape((-1,) + (1,) * len(largest.shape))
    return thresholds.settle(shares * largest, unscaled, formats)


def _follow_average(
    formats: tuple[Format, ...],
    x: Tensor,
    index: Tensor,
    before: Tensor,
    now: Tensor,
) -> tuple[Tensor, Tensor]:
    """Returns the thresholds and the range after a step.

    Args:
        formats: The formats.
        x: Values that the tensor takes.
        index: Position of the format in use; negative if it is off.
        before: The range before.
        now: The thresholds before.
    """
    magnitudes = ops.abs(x)
    largest = ops.max(magnitudes)
    average = ops.where(
        before > 0,
        _RANGE_MOMENTUM * before + (1 - _RANGE_MOMENTUM) * largest,
        largest,
    )
    is_observing = ops.logical_or(before <= 0, index < 0)
    growth = average / ops.maximum(before, thresholds.SMALLEST_THRESHOLD)
    followed = ops.cond(
        is_observing,
        lambda: _observe(formats, magnitudes, largest, before, now),
        lambda: thresholds.settle(now * growth, now, formats),
    )
    return followed, average


def _observe(
    formats: tuple[Format, ...],
    magnitudes: Tensor,
    largest: Tensor,
    before: Tensor,
    now: Tensor,
) -> Tensor:
    sample = thresholds.take_spread(
        ops.reshape(magnitudes, (-1,)), _OBSERVED_VALUES
    )
    counts = thresholds.count_magnitudes_in_graph(sample, largest)
    best = thresholds.least_error_thresholds(counts, largest[None], formats)
    best = best[:, 0]
    average = now + _OBSERVATION_RATE * (best - now)
    # A tensor of zeros, as of weights that start at zero, tells nothing.
    is_first = ops.logical_or(ops.isinf(now), before <= 0)
    observed = ops.where(is_first, best, average)
    return thresholds.settle(observed, now, formats)


@keras.saving.register_keras_serializable(package="fliqs_keras")
class WeightQuantizer(SwitchableQuantizer):
    """A quantizer whose thresholds are shares of the range of a weight.

    It holds in `shares` what part of the largest magnitude of a channel the
    threshold of each format is, and takes that magnitude from the weight each
    time. So weights may grow and shrink, and be replaced, as by a moving
    average of them, without a threshold that belongs to what they were.
    """

    def _add_thresholds(self) -> None:
        self.shares = self.add_weight(
            name="shares",
            shape=(len(self.formats), *self.channel_shape),
            initializer="ones",
            trainable=False,
            aggregation=AGGREGATION,
        )

    def _require_thresholds(self) -> None:
        """Does nothing: there is always a range."""

    @property
    def is_calibrated(self) -> bool:
        """Whether there are thresholds: always."""
        return True

    def thresholds_for(self, x: Tensor) -> Tensor:
        if x is None:
            raise ValueError(
                "Expected the weight, of whose range the thresholds of "
                f"{self.path!r} are shares. Received: None"
            )
        largest = self.range_of(x)
        take_shares = share(_take_shares, self.formats)
        return take_shares(ops.convert_to_tensor(self.shares), largest)

    def keep_thresholds(self, x: Tensor, wanted: Tensor) -> None:
        largest = ops.convert_to_numpy(self.range_of(x))
        # A channel of zeros has no proportion: what it becomes is not clipped.
        has_share = largest > thresholds.SMALLEST_THRESHOLD
        # By NumPy: compilers may multiply by a reciprocal, and a share that is
        # not quite one would stop the gradient of the largest weight.
        divisor = np.where(has_share, largest, np.float32(1))
        part = ops.convert_to_numpy(wanted) / divisor
        self.shares.assign(np.where(has_share, part, np.float32(1)))

    def set_thresholds(self, values: Tensor) -> None:
        """Sets the shares to those of least squared error on a weight.

        Args:
            values: The weight.
        """
        values = ops.cast(values, "float32")
        self.keep_thresholds(values, self._least_error(values))


@keras.saving.register_keras_serializable(package="fliqs_keras")
class ActivationQuantizer(SwitchableQuantizer):
    """A quantizer whose thresholds follow a moving average of the range.

    Until it has seen data, and while it is off, a training step sets the
    thresholds to those of least squared error on a sample of the batch
    (moving averages of them, after the first). Once it quantizes, each
    threshold keeps its proportion to a moving average of the largest
    magnitude, as activations drift while a network trains.

    Args:
        formats: Formats or their names, at least one.
        decision: Name of the decision that chooses the format.
        name: Name of the layer.
    """

    def __init__(
        self,
        formats: Sequence[str | Format],
        *,
        decision: str | None = None,
        name: str | None = None,
    ):
        super().__init__(formats, decision=decision, name=name)

    def get_config(self):
        config = super().get_config()
        del config["channel_axes"]
        return config

    def follow(self, x: Tensor) -> None:
        x = self.alive_part(x[:_OBSERVED_EXAMPLES])
        follow = share(_follow_average, self.formats)
        self._assign(
            *follow(
                x,
                ops.convert_to_tensor(self.index),
                ops.convert_to_tensor(self.range),
                ops.convert_to_tensor(self.thresholds),
            )
        )

    def range_of(self, x: Tensor) -> Tensor:
        """Returns the largest magnitude among the first few examples."""
        return ops.max(ops.abs(x[:_OBSERVED_EXAMPLES]))
