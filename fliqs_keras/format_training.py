"""Training in formats that a controller chooses, as a callback of `fit`."""

import math
import os
import threading
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from absl import logging
from keras import ops

from fliqs_keras import calibration
from fliqs_keras.assignments import (
    Decision,
    FormatAssignment,
    FormatSetter,
    decisions,
)
from fliqs_keras.batch_losses import BatchLosses
from fliqs_keras.batch_norm import BatchNormWindow
from fliqs_keras.controller import Controller
from fliqs_keras.cost_tables import CostTable
from fliqs_keras.cost_targets import cost_table
from fliqs_keras.costs import Cost
from fliqs_keras.loss_probe import LossProbe
from fliqs_keras.options import option_to_json
from fliqs_keras.quantized_layers import quantized_layers
from fliqs_keras.search_logs import SearchLog

# The batch-normalization statistics of the result are those of the last
# steps, all of which are trained in its formats.
_STATISTICS_SHARE = 0.1

# What probes may cost at most, of the training: an example trained counts as
# three forward passes.
_PROBE_SHARE = 0.06
_PASSES_OF_TRAINING = 3


class FormatTraining(keras.callbacks.Callback):
    """Trains a quantized model in the formats that a controller chooses.

    The base of `FormatSearch` and `FixedFormats`. It does what a controller
    cannot, which knows no Keras: it switches the formats, reads the loss of
    each batch, measures probes, and keeps thresholds and statistics.

    A model that is compiled with `steps_per_execution=n` trains `n` steps at a
    time in the same formats: for the controller that is one step, whose loss
    is the mean of the `n`.

    Args:
        cost: The cost model.
        data: What probes are measured on, or `None` if there are none.
        activation_delay: Share of the steps before activations are
            quantized; less where formats are compared earlier.
        total_steps: Number of training steps. Defaults to what `fit` says.
        log_dir: Folder for a log of the steps, or `None` for none.
        log_every: Number of steps from one line of the log to the next.

    Raises:
        ValueError: If `activation_delay` or `log_every` is out of its range.
    """

    def __init__(
        self,
        cost: Cost,
        data: Any,
        activation_delay: float,
        total_steps: int | None,
        log_dir: str | os.PathLike | None = None,
        log_every: int = 10,
    ):
        super().__init__()
        if log_every < 1:
            raise ValueError(
                "Expected `log_every` to be at least 1. Received: "
                f"log_every={log_every!r}"
            )
        if not 0 <= activation_delay < 1:
            raise ValueError(
                "Expected `activation_delay` to be at least 0 and below 1. "
                f"Received: activation_delay={activation_delay!r}"
            )
        self.cost = cost
        self.data = data
        self.activation_delay = activation_delay
        self.total_steps = total_steps
        self.log_dir = log_dir
        self.log_every = log_every
        self._log: SearchLog | None = None
        self.assignment: FormatAssignment | None = None
        self.history: list[dict[str, float]] = []
        self._controller: Controller | None = None

    def make_table(self) -> CostTable:
        """Returns what choices cost, of the model whose decisions are known."""
        return cost_table(self.cost, self.model, self._decisions)

    def make_controller(self, table: CostTable, total_steps: int) -> Controller:
        """Returns the controller for the model, whose decisions are known.

        Args:
            table: What choices cost.
            total_steps: Number of training steps.
        """
        raise NotImplementedError

    def on_train_begin(self, logs=None):
        self._thread = threading.get_ident()
        self._decisions = decisions(self.model)
        self._table = self.make_table()
        self._plan(self._find_total_steps(first_epoch=0))
        self._set_formats = FormatSetter(self._decisions)
        if self.data is not None:
            self._probe = LossProbe(self.model, self._set_formats, self.data)
        self._window = BatchNormWindow(self.model)
        self._window_batches = 0
        self._step = 0
        self.history = []
        self.assignment = None
        self._losses = BatchLosses(self.model)
        self._is_loss_finite = True
        if self.log_dir is not None:
            self._log = SearchLog(self.log_dir)

    def _plan(self, total_steps: int) -> None:
        """Decides what happens at which step."""
        self._total_steps = total_steps
        self._controller = self.make_controller(self._table, total_steps)
        self.target = self._controller.target
        self._activation_delay_steps = round(
            self.activation_delay * total_steps
        )
        if (first := self._controller.first_probe_step) is not None:
            # Formats are not compared while activations have none.
            self._activation_delay_steps = min(
                self._activation_delay_steps, first
            )
        self._window_step = total_steps - round(_STATISTICS_SHARE * total_steps)

    def on_epoch_begin(self, epoch, logs=None):
        if epoch and not self._step:
            # A training that is resumed has fewer steps than `fit` told.
            self._plan(self._find_total_steps(first_epoch=epoch))
        # Another callback may have loaded weights, and formats with them.
        self._set_formats.forget()
        if not self._controller.settled:
            calibration.fit_weight_thresholds(self.model)

    def on_train_batch_begin(self, batch, logs=None):
        self._bring_state_back()
        self._first_batch = batch
        controller = self._controller
        if self._step == 1:
            self._meet_errors()
        probes = controller.probes()
        if probes or self._step == self._activation_delay_steps:
            calibration.fit_weight_thresholds(self.model)
            calibration.require_thresholds(self.model)
        if probes:
            controller.observe(self._probe(probes, self._examples_for(probes)))
        is_last_phase = controller.settled and self._step >= self._window_step
        is_planned = self._step < self._total_steps
        if is_last_phase and is_planned and not self._window.is_open:
            self._window.open()
            self._window_batches = 0
            self._window_updates = _updates(self.model)
        self._stand_on(controller.choice)
        self._losses.begin()

    def on_train_batch_end(self, batch, logs=None):
        if threading.get_ident() != self._thread:
            # On JAX, Keras looks for callbacks that have to wait in lists only.
            raise ValueError(
                f"Expected {type(self).__name__} to be called between steps. "
                "Received: a call while the next step runs. Pass "
                "`callbacks=[search]` to `fit`, a list"
            )
        self._bring_state_back()
        controller = self._controller
        cost = controller.cost
        # `logs` holds the mean of the epoch.
        loss = self._losses.end((logs or {}).get("loss"))
        if self._is_loss_finite and not math.isfinite(loss):
            self._is_loss_finite = False
            logging.warning(
                "The loss of step %d is %s, and so is the mean of its epoch. "
                "Formats are not judged by it. If it stays so, lower the "
                "learning rate.",
                self._step,
                loss,
            )
        # Before the step, which chooses the formats of the next batch.
        logged = self._state_to_log() if self._is_logged() else None
        controller.step(-loss, cost)
        record = {"cost": cost, **controller.metrics()}
        self.history.append(record)
        if logged is not None:
            self._log.write({**logged, "loss": loss, **record})
        self._step += 1
        self._window_batches += batch - self._first_batch + 1
        if self._step >= self._total_steps:
            # Before the model is evaluated, saved or restored.
            self._close_window()
        self._show(logs)

    def on_epoch_end(self, epoch, logs=None):
        if self.model.stop_training:
            # By a callback before this one, which may restore weights next.
            self._close_window()
        # What callbacks behind this one save then keeps the target.
        self._stand_on(self._controller.best_choice())
        self._show(logs)

    def _show(self, logs: dict[str, float] | None) -> None:
        if logs is not None and self.history:
            # Metrics of the model keep their names.
            logs.update({**self.history[-1], **logs})

    def _bring_state_back(self) -> None:
        """On JAX, has `fit` put its state back into the variables."""
        # Which it does when a callback asks for the model.
        _ = self.model

    def on_test_begin(self, logs=None):
        # Validation within `fit` judges what the training would end on now.
        if self._controller is not None:
            self._stand_on(self._controller.best_choice())

    def on_train_end(self, logs=None):
        choice = self._controller.best_choice()
        if not self._step and not self._controller.settled:
            # As where a job that has ended is started again.
            choice = _present_choice(self._decisions, choice)
            logging.warning(
                "No step was trained. The model stays in its formats."
            )
        elif not self._controller.settled:
            logging.warning(
                "The training ended after %d of %d steps, before its formats "
                "were settled. Those that it ends on are the best known then.",
                self._step,
                self._total_steps,
            )
        self._close_window()
        # Another callback may have restored weights.
        self._set_formats.forget()
        self._set_formats(choice)
        self.assignment = FormatAssignment.from_model(self.model)
        self._controller = None
        self._probe = None
        if self._log is not None:
            self._log.close()
            self._log = None

    def _meet_errors(self) -> None:
        """Meets what would end the training later, behind its first batch.

        That batch shows which layers are called and sets their thresholds.
        """
        calibration.require_thresholds(self.model)
        if self.data is None or self._controller.first_probe_step is None:
            return
        # Those of a first batch that overflows are set by the next ones.
        if all(
            quantizer.is_calibrated
            for layer in quantized_layers(self.model)
            for quantizer in layer.activation_quantizers()
        ):
            self._try_probe()

    def _try_probe(self) -> None:
        """Measures the present choice, on the first batch of the data."""
        try:
            self._probe([self._controller.choice], 1)
        finally:
            # Now the model knows the losses that its layers add.
            _require_loss(self.model)

    def _close_window(self) -> None:
        if self._window.is_open:
            self._window.close(self._steps_of_window())

    def _steps_of_window(self) -> int:
        """Returns how many steps ran since the window opened.

        Several at once end, for Keras, where they would if none was missing.
        """
        if self._window_updates is None:
            return self._window_batches
        ran = _updates(self.model) - self._window_updates
        return min(self._window_batches, ran)

    def _is_logged(self) -> bool:
        is_last = self._step == self._total_steps - 1
        is_due = self._step % self.log_every == 0 or is_last
        return self._log is not None and is_due

    def _state_to_log(self) -> dict[str, Any]:
        """Returns what the controller stands on while a batch trains."""
        controller = self._controller
        state = {
            "step": self._step,
            "phase": controller.phase,
            "target": controller.target,
            "formats": {
                decision.name: option_to_json(decision.options[index])
                for decision, index in zip(
                    self._decisions, controller.choice, strict=True
                )
            },
        }
        if (rows := controller.probabilities()) is not None:
            state["probabilities"] = {
                decision.name: {
                    str(option_to_json(option)): float(p)
                    for option, p in zip(decision.options, row, strict=True)
                }
                for decision, row in zip(self._decisions, rows, strict=True)
            }
        return state

    def _stand_on(self, choice: np.ndarray) -> None:
        is_delayed = self._step < self._activation_delay_steps
        self._set_formats(choice, activations_off=is_delayed)

    def _examples_for(self, probes: list[np.ndarray]) -> float:
        size = self._losses.batch_size
        if size is None:
            # Then batches of `data` are taken to be like those of `fit`.
            size = self._probe.batch_size * self.model.steps_per_execution
        trained = self._total_steps * size
        passes = _PROBE_SHARE * _PASSES_OF_TRAINING * trained
        return passes / len(probes) / self._controller.probe_rounds

    def _find_total_steps(self, first_epoch: int) -> int:
        """Returns how often formats can change: once an execution."""
        at_once = self.model.steps_per_execution
        params: dict[str, Any] = self.params or {}
        if self.total_steps is not None:
            epochs = params.get("epochs", 1)
            left = self.total_steps * (epochs - first_epoch) / epochs
            return math.ceil(left / at_once)
        if not params.get("steps"):
            raise ValueError(
                "Expected to know the number of training steps. Received: "
                f"steps={params.get('steps')!r} from `fit`. Pass "
                "`total_steps` to the callback, or `steps_per_epoch` to fit"
            )
        epochs = params["epochs"] - first_epoch
        return -(-params["steps"] // at_once) * epochs


def _present_choice(
    model_decisions: Sequence[Decision], default: np.ndarray
) -> np.ndarray:
    """Returns what decisions stand on, or a default where all is off."""
    present = [
        max(int(ops.convert_to_numpy(x.index)) for x in decision.switches)
        for decision in model_decisions
    ]
    return np.where(np.array(present) < 0, default, present)


def _updates(model: keras.Model) -> int | None:
    """Returns how often the optimizer stepped, if that counts the batches.

    It does in Keras's own `train_step`, unless gradients are accumulated or
    are left out where they overflow.
    """
    optimizer = model.optimizer
    counts = (
        optimizer is not None
        and model.steps_per_execution > 1
        and type(model).train_step is keras.Model.train_step
        and not isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
        and optimizer.gradient_accumulation_steps is None
    )
    return int(ops.convert_to_numpy(optimizer.iterations)) if counts else None


def _require_loss(model: keras.Model) -> None:
    """Refuses models of whose loss only their `train_step` knows.

    Raises:
        ValueError: If `compute_loss` returns nothing that data decides.
    """
    is_own = type(model).compute_loss is not keras.Model.compute_loss
    penalties = [v for v in model.trainable_weights if v.regularizer]
    if model.loss or is_own or len(model.losses) > len(penalties):
        return
    raise ValueError(
        "Expected `compute_loss` of the model to return the loss by which "
        "formats are compared. Received: a model that is compiled without "
        "`loss`. Compile it with a loss, override `compute_loss`, or use "
        "`controller='reinforce'`, which takes the loss that `train_step` "
        "tracks"
    )
