"""Quantizers whose thresholds follow their tensor while a model trains."""

from collections.abc import Callable, Sequence
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
OBSERVED_EXAMPLES = 8
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
    shares: Tensor,
) -> tuple[Tensor, Tensor]:
    """Returns the shares and the range after a step.

    Args:
        formats: The formats.
        x: Values that the tensor takes.
        index: Position of the format in use; negative if it is off.
        before: The range before.
        shares: The shares before.
    """
    magnitudes = ops.abs(x)
    largest = ops.max(magnitudes)
    # A batch that overflowed, as float16 does where the scale of its loss is
    # yet to be found, tells nothing of those to come.
    largest = ops.where(ops.isfinite(largest), largest, before)
    average = ops.where(
        before > 0,
        _RANGE_MOMENTUM * before + (1 - _RANGE_MOMENTUM) * largest,
        largest,
    )

    def observe():
        best = _best_thresholds(formats, magnitudes, largest)
        # Also where a format is not scaled: its share has no meaning, but that
        # of its largest code would soon be infinite.
        now = ops.maximum(shares * before, thresholds.SMALLEST_THRESHOLD)
        moved = now + _OBSERVATION_RATE * (best - now)
        # A tensor of zeros, as of weights that start at zero, tells nothing.
        observed = ops.where(before > 0, moved, best)
        return _shares_of(observed, average)

    is_observing = ops.logical_or(before <= 0, index < 0)
    return ops.cond(is_observing, observe, lambda: shares), average


def _take_shares_if(
    formats: tuple[Format, ...],
    condition: Tensor,
    shares: Tensor,
    largest: Tensor,
    other: Tensor,
) -> Tensor:
    # Not `where`, which waits for both.
    return ops.cond(
        condition, lambda: _take_shares(formats, shares, largest), lambda: other
    )


def _best_thresholds(
    formats: tuple[Format, ...], magnitudes: Tensor, largest: Tensor
) -> Tensor:
    sample = thresholds.take_spread(
        ops.reshape(magnitudes, (-1,)), _OBSERVED_VALUES
    )
    counts = thresholds.count_magnitudes_in_graph(sample, largest)
    best = thresholds.least_error_thresholds(counts, largest[None], formats)
    return best[:, 0]


def _shares_of(
    wanted: Tensor, largest: Tensor, where: Callable[..., Tensor] = ops.where
) -> Tensor:
    """Returns what part of the largest magnitudes thresholds are."""
    # A channel of zeros has no proportion: what it becomes is not clipped.
    has_share = largest > thresholds.SMALLEST_THRESHOLD
    one = np.float32(1)
    return where(has_share, wanted / where(has_share, largest, one), one)


class _FollowingQuantizer(SwitchableQuantizer):
    """A quantizer whose thresholds are shares of a range that changes."""

    def _add_thresholds(self) -> None:
        self.shares = self.add_weight(
            name="shares",
            shape=(len(self.formats), *self.channel_shape),
            initializer=self._unset,
            trainable=False,
            aggregation=AGGREGATION,
        )

    @property
    def _threshold_variable(self) -> keras.Variable:
        return self.shares

    def _take_shares(self, largest: Tensor) -> Tensor:
        take_shares = share(_take_shares, self.formats)
        return take_shares(ops.convert_to_tensor(self.shares), largest)

    def keep_thresholds(self, x: Tensor, wanted: Tensor) -> None:
        self._keep(wanted, self.range_of(x))

    def _keep(self, wanted: Tensor, largest: Tensor) -> None:
        # By NumPy: compilers may multiply by a reciprocal, and a share that is
        # not quite one would stop the gradient of the largest weight.
        wanted = ops.convert_to_numpy(wanted)
        largest = ops.convert_to_numpy(largest)
        is_scaled = thresholds.are_scaled(self.formats, wanted.ndim)
        wanted = np.where(is_scaled, wanted, largest)
        self.shares.assign(_shares_of(wanted, largest, np.where))


@keras.saving.register_keras_serializable(package="fliqs_keras")
class WeightQuantizer(_FollowingQuantizer):
    """A quantizer whose thresholds are shares of the range of a weight.

    It holds in `shares` what part of the largest magnitude of a channel the
    threshold of each format is, and takes that magnitude from the weight each
    time. So weights may grow and shrink, and be replaced, as by a moving
    average of them, without a threshold that belongs to what they were.
    """

    def _unset(self, shape, dtype=None):
        # There is always a range.
        return ops.ones(shape, "float32")

    def thresholds_for(self, x: Tensor) -> Tensor:
        if x is None:
            raise ValueError(
                "Expected the weight, of whose range the thresholds of "
                f"{self.path!r} are shares. Received: None"
            )
        return self._take_shares(self.range_of(x))


@keras.saving.register_keras_serializable(package="fliqs_keras")
class ActivationQuantizer(_FollowingQuantizer):
    """A quantizer whose thresholds follow a moving average of the range.

    Until it has seen data, and while it is off, a training step sets the
    thresholds to those of least squared error on a sample of the batch
    (moving averages of them, after the first). Once it quantizes, each
    threshold keeps its proportion to a moving average of the largest
    magnitude in the steps before, as activations drift while a network trains.
    It holds that average in `range`, and in `shares` what part of it each
    threshold is.

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

    def _add_thresholds(self) -> None:
        super()._add_thresholds()
        # Zero until a tensor was seen.
        self.range = self.add_weight(
            name="range",
            shape=(),
            initializer="zeros",
            trainable=False,
            aggregation=AGGREGATION,
        )

    def thresholds_for(self, x: Tensor) -> Tensor:
        return self._take_shares(ops.convert_to_tensor(self.range))

    def follow(self, x: Tensor) -> Tensor:
        x = self.alive_part(x[:OBSERVED_EXAMPLES])
        is_first = ops.convert_to_tensor(self.range) <= 0
        before = self.thresholds_for(x)
        follow = share(_follow_average, self.formats)
        shares, average = follow(
            x,
            ops.convert_to_tensor(self.index),
            ops.convert_to_tensor(self.range),
            ops.convert_to_tensor(self.shares),
        )
        self.shares.assign(shares)
        self.range.assign(average)
        # By the range of the steps before, rounding need not wait for that of
        # this one. Read from the variables: replicas take what the first saw.
        return share(_take_shares_if, self.formats)(
            is_first,
            ops.convert_to_tensor(self.shares),
            ops.convert_to_tensor(self.range),
            before,
        )

    def set_thresholds(
        self, values: Tensor, value_range: Tensor | None = None
    ) -> None:
        """Sets the thresholds to those of least squared error on `values`.

        Args:
            values: Values that the tensor takes, of any shape.
            value_range: Largest magnitude that they are shares of. Defaults
                to that of `values`.
        """
        values = ops.cast(values, "float32")
        if value_range is None:
            value_range = self.range_of(values)
        self._keep(self._least_error(values), value_range)

    def _keep(self, wanted: Tensor, largest: Tensor) -> None:
        super()._keep(wanted, largest)
        self.range.assign(largest)

    def range_of(self, x: Tensor) -> Tensor:
        """Returns the largest magnitude among the first few examples."""
        return ops.max(ops.abs(x[:OBSERVED_EXAMPLES]))
