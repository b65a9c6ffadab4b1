"""Quantizers whose thresholds follow their tensor while a model trains."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from fliqs_keras import thresholds
from fliqs_keras.formats import Format
from fliqs_keras.quantizers import SwitchableQuantizer
from fliqs_keras.shared_functions import share

__all__ = ["ActivationQuantizer", "WeightQuantizer"]

Tensor = Any

_RANGE_MOMENTUM = 0.99
_OBSERVATION_RATE = 0.1
_OBSERVED_EXAMPLES = 8
_OBSERVED_VALUES = 1024


def _grow(now: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """Returns thresholds that grow as the range does."""
    growth = after / ops.maximum(before, thresholds.SMALLEST_THRESHOLD)
    return now * growth


def _keep_share(
    formats: tuple[Format, ...], largest: Tensor, before: Tensor, now: Tensor
) -> Tensor:
    """Returns thresholds in the proportion to the range that they had."""
    # A channel that was all zero has no proportion yet: do not clip it.
    # A threshold at the largest magnitude stays there to the bit: one
    # rounded to just below it would stop the gradient of that weight.
    has_share = ops.logical_and(before[None] > 0, now != before[None])
    grown = _grow(now, before[None], largest[None])
    kept = ops.where(has_share, grown, largest[None])
    return thresholds.settle(kept, now, formats)


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
    followed = ops.cond(
        is_observing,
        lambda: _observe(formats, magnitudes, largest, now),
        lambda: thresholds.settle(_grow(now, before, average), now, formats),
    )
    return followed, average


def _observe(
    formats: tuple[Format, ...],
    magnitudes: Tensor,
    largest: Tensor,
    now: Tensor,
) -> Tensor:
    sample = thresholds.take_spread(
        ops.reshape(magnitudes, (-1,)), _OBSERVED_VALUES
    )
    counts = thresholds.count_magnitudes_in_graph(sample, largest)
    best = thresholds.least_error_thresholds(counts, largest[None], formats)
    best = best[:, 0]
    average = now + _OBSERVATION_RATE * (best - now)
    observed = ops.where(ops.isinf(now), best, average)
    return thresholds.settle(observed, now, formats)


@keras.saving.register_keras_serializable(package="fliqs_keras")
class WeightQuantizer(SwitchableQuantizer):
    """A quantizer whose thresholds move with the range of a weight.

    In training each threshold keeps its proportion to the largest magnitude
    of its channel, so that weights may grow and shrink.
    """

    def follow(self, x: Tensor) -> None:
        largest = self.range_of(x)
        before = ops.convert_to_tensor(self.range)
        now = ops.convert_to_tensor(self.thresholds)
        keep_share = share(_keep_share, self.formats)
        self._assign(keep_share(largest, before, now), largest)


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
