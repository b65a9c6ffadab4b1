"""Statistics of batch normalization, of some data or of the last steps."""

from typing import Any

import keras
import numpy as np
from absl import logging
from keras import ops

from fliqs_keras import _keras
from fliqs_keras.calibration import (
    FixedThresholds,
    count_examples,
    input_batches,
)
from fliqs_keras.float_hook import FloatHook
from fliqs_keras.quantized_layers import use_hook

__all__ = ["recalibrate_batch_norm"]

# Share of an old variance that rounding may take away from zero.
_ROUNDING = 0.01


def recalibrate_batch_norm(model: keras.Model, data: Any) -> None:
    """Sets batch-normalization statistics to their averages over data.

    Worth calling after another assignment was applied to a trained model:
    the statistics still belong to the formats it was trained in. A batch weighs
    as much as it has examples. A layer that is called several times a batch
    takes the average over its calls, and one that the model does not train, as
    in a part that it calls with `training=False`, keeps its own.

    Args:
        model: The model.
        data: Inputs, as in `fliqs_keras.calibrate`.

    Raises:
        ValueError: If the data is empty or a pair.
    """
    norms = _batch_norms(model)
    momenta = [norm.momentum for norm in norms]
    averages = [
        _Average(variable) for norm in norms for variable in _statistics(norm)
    ]
    try:
        for norm in norms:
            # Each update then is the statistic of the batch alone.
            norm.momentum = 0.0
        # A momentum of zero leaves something of infinity and NaN.
        finite = [
            (average.variable, ops.zeros(average.variable.shape))
            for average in averages
            if not np.isfinite(ops.convert_to_numpy(average.variable)).all()
        ]
        with use_hook(FixedThresholds()):
            for inputs in input_batches(model, data):
                _add_statistics(model, inputs, averages, finite)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
    for average in averages:
        if average.weight:
            average.variable.assign(average.total / average.weight)


class _Average:
    """The average of what a variable is updated to."""

    def __init__(self, variable: keras.Variable):
        self.variable = variable
        self.total = np.zeros(variable.shape)
        self.weight = 0

    def add(self, value: Any, weight: int) -> None:
        self.total += weight * ops.convert_to_numpy(value).astype("float64")
        self.weight += weight


def _add_statistics(
    model: keras.Model,
    inputs: Any,
    averages: list[_Average],
    substitutes: list[tuple[keras.Variable, Any]],
) -> None:
    """Adds the statistics of a batch, by which those of layers do not move."""
    variables = [average.variable for average in averages]
    with _keras.UpdateScope(variables, substitutes) as scope:
        model(inputs, training=True)
    for average in averages:
        for value in scope.updates[id(average.variable)]:
            average.add(value, count_examples(inputs))


def _batch_norms(model: keras.Model) -> list[keras.layers.Layer]:
    """Returns the batch normalizations that a model has built, each once."""
    return list(
        {
            id(layer): layer
            for layer in _keras.flatten_layers(model)
            if isinstance(layer, keras.layers.BatchNormalization)
            and layer.built
        }.values()
    )


def _statistics(norm: keras.layers.Layer) -> list[keras.Variable]:
    """Returns what a batch normalization averages by its momentum."""
    names = ("moving_mean", "moving_variance", "moving_stddev")
    found = [getattr(norm, name, None) for name in names]
    return [variable for variable in found if variable is not None]


class BatchNormWindow:
    """Averages batch-normalization statistics over the steps since it opened.

    After `k` updates the moving statistics are `v_k = m^k v_0 + ...`, with
    `m` the momentum. What is left of the old ones, `m^k v_0`, is taken out
    and the rest is brought to weight one, as Adam corrects its moments. That
    needs no data and no forward pass of its own.

    How often a step updates a layer is that of a call of the model. A model
    whose inputs have unknown shapes, or that only runs eagerly, is taken to
    update each layer once. Where a `train_step` of one's own updates layers
    more often than that, and a variance would end below zero, the layer keeps
    its moving statistics.

    Args:
        model: The model. Layers that are frozen are left alone, and those of
            batch renormalization, whose variances are no moving averages.
    """

    def __init__(self, model: keras.Model):
        norms = [x for x in _batch_norms(model) if x.trainable and not x.renorm]
        counts = _updates_a_step(model, [x.moving_mean for x in norms])
        self._updated = [
            (norm, count)
            for norm, count in zip(norms, counts, strict=True)
            if count
        ]
        self._before: list[list[np.ndarray]] | None = None

    @property
    def is_open(self) -> bool:
        """Whether it was opened, and not closed since."""
        return self._before is not None

    def open(self) -> None:
        """Notes the statistics that are to be forgotten."""
        self._before = [_values(norm) for norm, _ in self._updated]

    def close(self, steps: int) -> None:
        """Sets the statistics.

        Args:
            steps: Number of training steps since the window opened. Nothing
                is done at zero.
        """
        for (norm, count), values in zip(
            self._updated, self._before, strict=True
        ):
            kept = float(norm.momentum) ** (count * steps)
            if kept == 1.0:
                continue
            found = [
                (after - kept * before) / (1.0 - kept)
                for after, before in zip(_values(norm), values, strict=True)
            ]
            _set_statistics(norm, found, values)
        self._before = None


def _set_statistics(
    norm: keras.layers.Layer,
    found: list[np.ndarray],
    before: list[np.ndarray],
) -> None:
    """Sets the statistics, unless a variance says that they are wrong."""
    mean, *spreads = found
    # Those of dead channels end around zero.
    is_negative = [
        (x < -_ROUNDING * scale).any()
        for x, scale in zip(spreads, before[1:], strict=True)
    ]
    if not any(is_negative):
        values = [mean, *(np.maximum(x, 0.0) for x in spreads)]
        for variable, value in zip(_statistics(norm), values, strict=True):
            variable.assign(value)


def _values(norm: keras.layers.Layer) -> list[np.ndarray]:
    return [
        ops.convert_to_numpy(variable).astype("float64")
        for variable in _statistics(norm)
    ]


def _updates_a_step(
    model: keras.Model, variables: list[keras.Variable]
) -> list[int]:
    if not variables:
        return []
    try:
        with use_hook(FloatHook()):
            return _keras.count_updates(model, variables)
    except (
        AttributeError,
        NotImplementedError,
        TypeError,
        ValueError,
    ) as error:
        # Of unknown shapes, or of values that are asked for in its `call`.
        logging.info(
            "A step is taken to update each batch normalization of %r once: %s",
            model.name,
            error,
        )
        return [1] * len(variables)
