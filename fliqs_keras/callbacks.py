"""The search, as a callback of `fit`."""

from typing import Any

import keras
import numpy as np
from absl import logging
from keras import ops

from fliqs_keras import calibration
from fliqs_keras.assignments import FormatAssignment, FormatSetter, decisions
from fliqs_keras.controller import Controller, ControllerConfig
from fliqs_keras.costs import BitOps
from fliqs_keras.formats import parse_format

__all__ = ["FormatSearch"]

CostTarget = float | tuple[str, float]


class FormatSearch(keras.callbacks.Callback):
    """Searches the formats of a quantized model while it trains (FLIQS).

    At every step a controller samples a format for each decision, the model
    trains one ordinary step with them, and the controller learns from the
    loss of that batch and the cost of the sample. For the last steps the
    chosen formats stay, and the batch-normalization statistics are those of
    these steps. After `fit` the model stands on the formats found; it needs
    no retraining.

    In the beginning the formats are sampled evenly and the policy is not yet
    updated (`controller_config.delay`), and activations are not quantized
    (`activation_delay`): their ranges are observed.

    Args:
        cost_target: What the result may cost at most. A number in the unit
            of the cost, or a pair of a format name and a factor:
            `("INT4", 1.1)` is 1.1 times what all layers at INT4 cost.
        cost: The cost model. Defaults to `fliqs_keras.BitOps()`.
        activation_delay: Share of the steps before activations are
            quantized.
        settle: Share of the steps at the end in which the formats found stay
            fixed.
        controller_config: A `fliqs_keras.ControllerConfig`. Defaults to the
            paper's controller.
        total_steps: Number of training steps. Defaults to what `fit` says;
            needed when it cannot know, as with a generator of no length.
        seed: Seed of the samples.

    Attributes:
        assignment: The `FormatAssignment` found, after `fit`.
        history: A dictionary for each step with `cost`, `entropy`, `reward`
            and `baseline`.

    Raises:
        ValueError: Before the first step, if the model is not quantized or
            has a single format, or if no assignment, or every one, meets the
            target.

    Example:

    >>> search = fliqs_keras.FormatSearch(cost_target=("INT4", 1.2), seed=0)
    >>> model.fit(x, y, epochs=10, callbacks=[search])
    >>> search.assignment
    """

    def __init__(
        self,
        cost_target: CostTarget,
        cost: BitOps | None = None,
        *,
        activation_delay: float = 0.125,
        settle: float = 0.1,
        controller_config: ControllerConfig | None = None,
        total_steps: int | None = None,
        seed: int | None = None,
    ):
        super().__init__()
        for name, share in (
            ("activation_delay", activation_delay),
            ("settle", settle),
        ):
            if not 0 <= share < 1:
                raise ValueError(
                    f"Expected `{name}` to be at least 0 and below 1. "
                    f"Received: {name}={share!r}"
                )
        self.cost_target = cost_target
        self.cost = cost or BitOps()
        self.activation_delay = activation_delay
        self.settle = settle
        self.controller_config = controller_config or ControllerConfig()
        self.total_steps = total_steps
        self.seed = seed
        self.assignment: FormatAssignment | None = None
        self.history: list[dict[str, float]] = []

    def on_train_begin(self, logs=None):
        self._decisions = decisions(self.model)
        if all(len(d.formats) < 2 for d in self._decisions):
            raise ValueError(
                "Expected a search space of at least two formats. Received: "
                f"{[f.name for f in self._decisions[0].formats]}. A model in "
                "one format trains without a search"
            )
        total_steps = self._find_total_steps()
        table = self.cost.table(self.model)
        self.target = self._resolve_target(table)
        self._controller = Controller(
            table,
            self.target,
            total_steps,
            self.controller_config,
            seed=self.seed,
        )
        self._set_formats = FormatSetter(self._decisions)
        self._activation_delay_steps = round(
            self.activation_delay * total_steps
        )
        self._settle_step = total_steps - round(self.settle * total_steps)
        self._final_choice: np.ndarray | None = None
        self._window: calibration.BatchNormWindow | None = None
        self._step = 0
        self.history = []
        self.assignment = None
        # Metrics exist only after the first batch in `fit`.
        self._loss_metric = None
        self._seen = (0.0, 0.0)

    def on_epoch_begin(self, epoch, logs=None):
        self._seen = (0.0, 0.0)
        if self._final_choice is None:
            calibration.fit_weight_thresholds(self.model)

    def on_train_batch_begin(self, batch, logs=None):
        if self._final_choice is None and self._step >= self._settle_step:
            self._settle()
        self._set_formats(
            self._current_choice(), activations_off=self._activations_off()
        )

    def on_train_batch_end(self, batch, logs=None):
        quality = -self._batch_loss()
        controller = self._controller
        choice = self._current_choice()
        cost = controller.cost_of(choice)
        if self._final_choice is None:
            controller.step(quality, cost)
        record = {
            "cost": cost,
            "entropy": controller.entropy,
            "reward": controller.config.reward(
                quality, cost, self.target, controller.config.penalty
            ),
        }
        self.history.append({**record, "baseline": controller.baseline})
        self._step += 1
        if logs is not None:
            logs.update(record)

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None and self.history:
            last = self.history[-1]
            logs.update({k: last[k] for k in ("cost", "entropy", "reward")})

    def on_test_begin(self, logs=None):
        # Validation within `fit` judges what the search would end on now.
        if getattr(self, "_controller", None) is not None:
            choice = self._final_choice
            if choice is None:
                choice = self._controller.best_choice()
            self._set_formats(choice, activations_off=self._activations_off())

    def on_train_end(self, logs=None):
        if self._final_choice is None:
            self._settle()
        if self._window is not None:
            self._window.close(self._step - self._settled_at)
        self._set_formats(self._final_choice)
        self.assignment = FormatAssignment.from_model(self.model)
        self._controller = None
        cost = self.cost(self.model)
        logging.info(
            "Search ended at %.6g %s, target %.6g.",
            cost,
            self.cost.unit,
            self.target,
        )

    def _settle(self) -> None:
        self._final_choice = self._controller.best_choice()
        self._settled_at = self._step
        self._window = calibration.BatchNormWindow(self.model)

    def _current_choice(self) -> np.ndarray:
        if self._final_choice is not None:
            return self._final_choice
        return self._controller.choice

    def _activations_off(self) -> bool:
        return self._step < self._activation_delay_steps

    def _batch_loss(self) -> float:
        """Returns the loss of the batch; `logs` holds the epoch's mean."""
        if self._loss_metric is None:
            self._loss_metric = _find_loss_metric(self.model)
        total = float(ops.convert_to_numpy(self._loss_metric.total))
        count = float(ops.convert_to_numpy(self._loss_metric.count))
        seen_total, seen_count = self._seen
        self._seen = (total, count)
        return (total - seen_total) / max(count - seen_count, 1e-12)

    def _find_total_steps(self) -> int:
        if self.total_steps is not None:
            return self.total_steps
        params: dict[str, Any] = self.params or {}
        if not params.get("steps"):
            raise ValueError(
                "Expected to know the number of training steps. Received: "
                f"steps={params.get('steps')!r} from `fit`. Pass "
                "`FormatSearch(total_steps=...)`, or `steps_per_epoch` to fit"
            )
        return params["steps"] * params["epochs"]

    def _resolve_target(self, table: list[np.ndarray]) -> float:
        target = self.cost_target
        if isinstance(target, tuple | list):
            name, factor = target
            wanted = parse_format(name)
            target = factor * sum(
                float(row[d.index_of(wanted)])
                for d, row in zip(self._decisions, table, strict=True)
            )
        cheapest = sum(float(row.min()) for row in table)
        dearest = sum(float(row.max()) for row in table)
        # Sums of floats in another order may differ in the last digits.
        if not cheapest * (1 - 1e-9) <= target <= dearest * (1 + 1e-9):
            raise ValueError(
                f"Expected `cost_target` to be between {cheapest:.6g}, the "
                f"cost of the cheapest assignment, and {dearest:.6g}, that of "
                f"the dearest ({self.cost.unit}). Received: {target:.6g}"
            )
        return float(target)


def _find_loss_metric(model: keras.Model) -> keras.metrics.Mean:
    for metric in model.metrics:
        if metric.name == "loss" and hasattr(metric, "total"):
            return metric
    raise ValueError(
        "Expected the model to track its loss in a metric named 'loss', as "
        "Keras's own `train_step` does. Received: metrics "
        f"{[metric.name for metric in model.metrics]}"
    )
