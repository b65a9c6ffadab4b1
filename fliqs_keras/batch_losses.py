"""The loss of each batch, read from the metric that averages it."""

import math

import keras

from fliqs_keras import _keras
from fliqs_keras.eager_variables import read_scalar

# How far the mean that `fit` shows may be from that of the sums, relatively.
_ROUNDING = 1e-4


class BatchLosses:
    """Reads what each batch adds to the loss metric of a model.

    The metric is one named "loss" that the first batch moves: where a
    `train_step` has a tracker of its own, that of Keras stands still.

    Args:
        model: A compiled model.

    Attributes:
        batch_size: Number of examples of the largest batch so far, or of the
            largest several steps at once. `None` where the metric counts
            batches.
    """

    def __init__(self, model: keras.Model):
        self._model = model
        self._metric: keras.metrics.Mean | None = None
        self._before: dict[int, tuple[float, float]] = {}
        strategy = getattr(model, "distribute_strategy", None)
        self._replicas = getattr(strategy, "num_replicas_in_sync", 1)
        self._is_mean_shown = self._replicas == 1 and _shows_mean(model)
        self.batch_size: float | None = None

    def begin(self) -> None:
        """Takes the sums before a batch.

        Not those behind the last one: since then another callback may have
        evaluated the model, which resets its metrics.
        """
        known = self._metric
        metrics = _named_loss(self._model) if known is None else [known]
        self._before = {id(metric): _sums(metric) for metric in metrics}

    def end(self, shown: float | None) -> float:
        """Returns the loss of the batch since `begin`.

        Args:
            shown: What `fit` shows as the loss, if it does.

        Raises:
            ValueError: If no metric has tracked the loss.
        """
        if self._metric is None:
            self._metric = self._find_metric()
        total, count = _sums(self._metric)
        total_before, count_before = self._sums_before(self._metric)
        grown = count - count_before
        is_reset = grown <= 0
        if not is_reset and self._is_mean_shown and shown is not None:
            is_reset = not math.isclose(shown, total / count, rel_tol=_ROUNDING)
        if is_reset:
            # By a callback that stands before. The mean of the epoch so far is
            # the nearest that is known.
            return math.nan if shown is None else float(shown)
        if self._counts_examples(grown):
            # The last batch of an epoch may be a small one.
            self.batch_size = max(self.batch_size or 0.0, grown)
        return (total - total_before) / grown

    def _counts_examples(self, grown: float) -> bool:
        # Keras weighs each loss by its examples, its guides weigh none.
        is_own = self._metric is _keras.loss_tracker(self._model)
        batches = self._model.steps_per_execution * self._replicas
        return is_own or grown > batches

    def _sums_before(self, metric: keras.metrics.Mean) -> tuple[float, float]:
        return self._before.get(id(metric), (0.0, 0.0))

    def _find_metric(self) -> keras.metrics.Mean:
        for metric in _named_loss(self._model):
            if _sums(metric)[1] != self._sums_before(metric)[1]:
                return metric
        described = [
            f"{type(metric).__name__} {metric.name!r}"
            for metric in self._model.metrics
        ]
        raise ValueError(
            "Expected the model to track its loss in a metric named 'loss', "
            "as Keras's own `train_step` does. Received: metrics "
            f"{described}, none of which is one that the first batch updated. "
            "Have `train_step` update a `keras.metrics.Mean(name='loss')`"
        )


def _named_loss(model: keras.Model) -> list[keras.metrics.Mean]:
    return [
        metric
        for metric in model.metrics
        if metric.name == "loss"
        and hasattr(metric, "total")
        and hasattr(metric, "count")
    ]


def _sums(metric: keras.metrics.Mean) -> tuple[float, float]:
    return read_scalar(metric.total), read_scalar(metric.count)


def _shows_mean(model: keras.Model) -> bool:
    """Whether `fit` shows the mean of the loss metric."""
    return all(
        getattr(type(model), name) is getattr(keras.Model, name)
        for name in ("train_step", "compute_metrics", "get_metrics_result")
    )
