"""Thresholds and activation ranges, from data."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
from absl import logging
from keras import ops

from fliqs_keras.assignments import decisions
from fliqs_keras.following_quantizers import (
    OBSERVED_EXAMPLES,
    ActivationQuantizer,
)
from fliqs_keras.quantized_layers import CallHook, quantized_layers, use_hook

__all__ = ["calibrate"]

_VALUES_A_BATCH = 16384


class _Observations:
    """What a quantizer saw."""

    def __init__(self):
        self._values: list[np.ndarray] = []
        self._ranges: list[float] = []
        self._counts: list[int] = []

    def add(self, values: np.ndarray, value_range: float, count: int) -> None:
        """Adds what it saw in one call.

        Args:
            values: A sample of the values.
            value_range: Largest magnitude among the first few examples.
            count: Number of these.
        """
        self._values.append(values)
        self._ranges.append(value_range)
        self._counts.append(count)

    def values(self) -> np.ndarray:
        """Returns the sample of all calls."""
        return np.concatenate(self._values)

    def mean_range(self) -> float:
        """Returns the mean of the ranges that are finite, or NaN if none is."""
        ranges, counts = np.array(self._ranges), np.array(self._counts)
        is_finite = np.isfinite(ranges)
        if not is_finite.any():
            return math.nan
        return np.average(ranges[is_finite], weights=counts[is_finite])


class _ActivationObserver(CallHook):
    """Collects what would be quantized, which passes as it is."""

    def __init__(self):
        self.observations: dict[int, _Observations] = {}

    def input(self, layer, quantizer, inputs):
        return self._observe(quantizer, inputs)

    def output(self, layer, quantizer, outputs):
        return self._observe(quantizer, outputs)

    def _observe(self, quantizer, inputs):
        alive = ops.cast(quantizer.alive_part(inputs), "float32")
        x = ops.convert_to_numpy(alive)
        generator = np.random.default_rng(0)
        flat = x.reshape(-1)
        if flat.size > _VALUES_A_BATCH:
            flat = generator.choice(flat, _VALUES_A_BATCH, replace=False)
        largest = float(ops.convert_to_numpy(quantizer.range_of(alive)))
        observations = self.observations.setdefault(
            id(quantizer), _Observations()
        )
        observations.add(flat, largest, len(x[:OBSERVED_EXAMPLES]))
        return inputs


class FixedThresholds(CallHook):
    """Quantizes without moving thresholds, although layers are training."""

    def weight(self, layer, variable, quantizer):
        return quantizer(layer.weight_value(variable), training=False)

    def input(self, layer, quantizer, inputs):
        return quantizer(inputs, training=False)

    def output(self, layer, quantizer, outputs):
        return quantizer(outputs, training=False)


def calibrate(model: keras.Model, data: Any) -> None:
    """Sets the activation thresholds of a quantized model from data.

    The model runs on the data with its inputs to layers in float; each input
    quantizer then takes, for each of its formats, the threshold of least
    squared error on a sample of what it saw. What is not finite does not
    count. A search and plain training do this by themselves in their first
    steps; use this before a model is evaluated or exported without training.

    Args:
        model: A model from `fliqs_keras.apply`.
        data: Inputs as the model takes them: an array, or a structure of
            arrays; or an iterable of batches such as a `tf.data.Dataset`, or
            a list, whose elements are inputs or tuples that begin with them.
            Not a pair of inputs and targets. A few hundred examples are
            enough.

    Raises:
        ValueError: If the model is not quantized, if the data is empty or a
            pair, or if a layer has no finite inputs. The model is then
            unchanged.

    Example:

    >>> quantized = fliqs_keras.apply(model, "INT8")
    >>> fliqs_keras.calibrate(quantized, x_train[:512])
    """
    decisions(model)
    observer = _ActivationObserver()
    with use_hook(observer):
        for inputs in input_batches(model, data):
            model(inputs, training=False)
    seen = {
        quantizer: observer.observations[id(quantizer)]
        for layer in quantized_layers(model)
        for quantizer in layer.activation_quantizers()
        if id(quantizer) in observer.observations
    }
    ranges = {quantizer: x.mean_range() for quantizer, x in seen.items()}
    _check_ranges(ranges)
    for quantizer, observations in seen.items():
        value_range = np.float32(ranges[quantizer])
        quantizer.set_thresholds(observations.values(), value_range)


def _check_ranges(ranges: Mapping[ActivationQuantizer, float]) -> None:
    """Checks what thresholds are going to be shares of.

    Raises:
        ValueError: If one is no number.
    """
    without = [q.path for q, x in ranges.items() if not math.isfinite(x)]
    if without:
        raise ValueError(
            "Expected data on which the inputs of layers are finite. Received: "
            f"nothing but infinities and NaN at {without}. Look for them in "
            "the data and the weights"
        )
    zero = [q.path for q, x in ranges.items() if not x]
    if zero:
        logging.warning(
            "Nothing but zeros was seen by %s. Until they are trained or "
            "calibrated on other data, all that is not zero is clipped there.",
            zero,
        )


def fit_weight_thresholds(model: keras.Model) -> None:
    """Sets the weight thresholds to those of least squared error."""
    for layer in quantized_layers(model):
        for variable, quantizer in layer.quantized_weights():
            quantizer.set_thresholds(layer.weight_value(variable))


def require_thresholds(model: keras.Model) -> None:
    """Refuses activation quantizers that wait for data that never comes.

    Raises:
        ValueError: If there are any that have no thresholds and are called,
            but not as parts of a training.
    """
    waiting = [
        quantizer.path
        for layer in quantized_layers(model)
        for quantizer in layer.activation_quantizers()
        if quantizer.is_called_in_inference and not quantizer.is_calibrated
    ]
    if waiting:
        raise ValueError(
            "Expected activation thresholds to be set by the steps so far. "
            f"Received: none for {waiting}, in layers that the model calls "
            "with `training=False`. Call `fliqs_keras.calibrate(model, data)` "
            "before `fit`"
        )


def input_batches(
    model: keras.Model, data: Any, batch_size: int = 128
) -> Iterator[Any]:
    """Yields batches of inputs, those that are not empty.

    Args:
        model: The model that takes them.
        data: Inputs, as in `calibrate`.
        batch_size: Size of the batches of arrays.

    Raises:
        ValueError: If the data is empty, or a tuple that is not one of inputs.
    """
    if _is_structure(model, data):
        size = count_examples(data)
        batches = (
            keras.tree.map_structure(
                lambda x, start=start: x[start : start + batch_size], data
            )
            for start in range(0, size, batch_size)
        )
    else:
        check_no_pair(data)
        batches = (b[0] if isinstance(b, tuple) else b for b in data)
    is_empty = True
    for batch in batches:
        if count_examples(batch):
            is_empty = False
            yield batch
    if is_empty:
        raise ValueError("Expected data of at least one batch. Received: none")


def check_no_pair(data: Any) -> None:
    """Checks that batches of inputs are no tuple.

    That could be batches, but is a pair of inputs and targets more often.

    Raises:
        ValueError: If they are a tuple of several.
    """
    if isinstance(data, tuple) and len(data) > 1:
        raise ValueError(
            "Expected inputs as the model takes them, or an iterable of "
            f"batches that is no tuple. Received: a tuple of {len(data)}. Of "
            "`(x, y)` pass `x` only, and batches as a list"
        )


def count_examples(inputs: Any) -> int:
    """Returns the number of examples in a batch of inputs."""
    return np.shape(keras.tree.flatten(inputs)[0])[0]


def _is_structure(model: keras.Model, data: Any) -> bool:
    """Whether data are inputs of a model, not batches of them."""
    if hasattr(data, "shape") or isinstance(data, Mapping):
        return True
    inputs = getattr(model, "inputs", None) or ()
    return (
        isinstance(data, list | tuple)
        and len(data) == len(inputs) > 1
        and all(hasattr(x, "shape") for x in data)
    )
