"""Quantizers whose thresholds follow their tensor while a model trains."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from fliqs_keras import thresholds
from fliqs_keras.formats import Format
from fliqs_keras.quantizers import SwitchableQuantizer

__all__ = ["ActivationQuantizer", "WeightQuantizer"]

Tensor = Any

_RANGE_MOMENTUM = 0.99
_OBSERVATION_RATE = 0.1
_OBSERVED_EXAMPLES = 8
_OBSERVED_VALUES = 1024


@keras.saving.register_keras_serializable(package="fliqs_keras")
class WeightQuantizer(SwitchableQuantizer):
    """A quantizer whose thresholds move with the range of a weight.

    In training each threshold keeps its proportion to the largest magnitude
    of its channel, so that weights may grow and shrink.
    """

    def follow(self, x: Tensor) -> None:
        largest = self.range_of(x)
        before = ops.convert_to_tensor(self.range)
        growth = largest / ops.maximum(before, thresholds.SMALLEST_THRESHOLD)
        now = ops.convert_to_tensor(self.thresholds)
        # A channel that was all zero has no proportion yet: do not clip it.
        # A threshold at the largest magnitude stays there to the bit: one
        # rounded to just below it would stop the gradient of that weight.
        has_share = ops.logical_and(before[None] > 0, now != before[None])
        followed = ops.where(has_share, now * growth[None], largest[None])
        self._assign(followed, largest)


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
        largest = self.range_of(x)
        before = ops.convert_to_tensor(self.range)
        average = ops.where(
            before > 0,
            _RANGE_MOMENTUM * before + (1 - _RANGE_MOMENTUM) * largest,
            largest,
        )
        is_observing = ops.logical_or(
            before <= 0, ops.convert_to_tensor(self.index) < 0
        )
        growth = average / ops.maximum(before, thresholds.SMALLEST_THRESHOLD)
        followed = ops.convert_to_tensor(self.thresholds) * growth
        followed = ops.cond(
            is_observing,
            lambda: self._observed_thresholds(x),
            lambda: followed,
        )
        self._assign(followed, average)

    def range_of(self, x: Tensor) -> Tensor:
        """Returns the largest magnitude among the first few examples."""
        return ops.max(ops.abs(x[:_OBSERVED_EXAMPLES]))

    def _observed_thresholds(self, x: Tensor) -> Tensor:
        sample = thresholds.take_spread(ops.reshape(x, (-1,)), _OBSERVED_VALUES)
        best = thresholds.least_error_thresholds(
            *thresholds.count_magnitudes_in_graph(sample), self.formats
        )[:, 0]
        before = ops.convert_to_tensor(self.thresholds)
        average = before + _OBSERVATION_RATE * (best - before)
        return ops.where(ops.isinf(before), best, average)
