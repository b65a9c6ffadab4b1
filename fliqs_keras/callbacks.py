"""The search, as a callback of `fit`."""

import os
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import logging

from fliqs_keras._keras import UnknownShapeError
from fliqs_keras.assignments import FormatAssignment
from fliqs_keras.controller import Controller, FixedController
from fliqs_keras.cost_tables import CostTable, Limit
from fliqs_keras.cost_targets import (
    CostTarget,
    check_target,
    cost_table,
    resolve_target,
    widest_option,
)
from fliqs_keras.costs import BitOps, Cost, check_cost
from fliqs_keras.format_training import FormatTraining
from fliqs_keras.options import Option, option_to_json
from fliqs_keras.reinforce import Reinforce
from fliqs_keras.selection import cheapest_choice, dearest_choice
from fliqs_keras.sensitivity import Estimate, Sensitivity
from fliqs_keras.supernet import Supernet

__all__ = ["FixedFormats", "FormatSearch"]

Budgets = Mapping[Cost, CostTarget]

_CONTROLLERS = {
    "reinforce": Reinforce,
    "sensitivity": Sensitivity,
    "supernet": Supernet,
}
ControllerConfig = Reinforce | Sensitivity | Supernet


class FormatSearch(FormatTraining):
    """Searches the formats of a quantized model while it trains.

    A controller chooses a format for each decision at each step and learns
    what the formats are worth. After `fit` the model stands on the formats
    found; it needs no retraining.

    - `"sensitivity"`, the default where there is `data`: the model first
      trains in its widest formats. Then each format of each decision is tried
      alone, by forward passes on `data`, and the formats that are estimated
      to add least to the loss within the target stay for the rest of the
      training. The passes take 6 % of the training at most, or one batch
      each.
    - `"supernet"`, the default where there is `data` and sizes are searched,
      too (`fliqs_keras.nas`): the model first trains in random sizes. Then
      random networks and single formats are compared in the same way. The
      sizes found stay, and their formats are compared once more half-way.
    - `"reinforce"`, the controller of the paper (FLIQS): at every step each
      decision samples a format, the model trains one ordinary step with
      them, and a policy learns from the loss of that batch and the cost of
      the sample.

    In the beginning activations are not quantized (`activation_delay`): their
    ranges are observed.

    Args:
        cost_target: What the result may cost at most. A number in the unit
            of the cost, or a pair of a format name and a factor:
            `("INT4", 1.1)` is 1.1 times what all layers at INT4 cost, those
            of a single format at theirs. For several budgets at once a
            dictionary from costs to targets, all of which the result keeps;
            the first is the one that the search uses up where it can.
        cost: The cost model, where `cost_target` is a single target.
            Defaults to `fliqs_keras.BitOps()`.
        data: A few hundred training examples, on which formats are compared
            by extra forward passes: a pair of arrays `(inputs, targets)`, a
            triple with the weights of the examples, or an iterable of such
            batches, of which no more is read than is used, 4096 examples at
            most. Where `fit` has a `class_weight`, weights of the examples
            say it here. Compared is what `compute_loss` of the model returns,
            whatever its `train_step` does. Not needed by `"reinforce"`.
        controller: `"sensitivity"`, `"supernet"`, `"reinforce"`, or the
            settings of one: a `fliqs_keras.Sensitivity`, `Supernet` or
            `Reinforce`. Defaults to `"sensitivity"`, or `"supernet"` where
            sizes are searched, with `data`, and to `"reinforce"` without.
        activation_delay: Share of the steps before activations are
            quantized; less where formats are compared earlier.
        total_steps: Number of training steps. Defaults to what `fit` says;
            needed when it cannot know, as with a generator of no length.
        seed: Seed of the samples of `"reinforce"`. Defaults to one drawn from
            Python's generator, which `keras.utils.set_random_seed` and, alike
            on every process, `keras.distribution.initialize` seed.
        log_dir: Folder for a log, written while the search runs:
            `search.jsonl`, which `fliqs_keras.read_search_log` reads, and
            event files where TensorBoard is installed. Defaults to none.
        log_every: Number of steps from one line of the log to the next. The
            last step is always logged.

    Attributes:
        assignment: The `FormatAssignment` found, after `fit`.
        sensitivity: For each decision a dictionary from the name of a format
            to the `Estimate` of what it costs in loss: its `mean` and
            `standard_error`. `None` if the controller does not estimate it.
        history: A dictionary for each step with `cost`, and with `entropy`,
            `reward` and `baseline` if the controller has them. `fit` shows
            them beside the metrics of the model, unless those have such a
            name.

    Raises:
        ValueError: If a setting is wrong or data is missing. Before the
            first step, if the model is not quantized or has a single format,
            if nothing that is searched costs anything, or if no assignment,
            or every one, meets the target. Before the
            second, if formats are compared and the model does not take the
            data or has no loss.

    Example:

    >>> search = fliqs_keras.FormatSearch(
    ...     cost_target=("INT4", 1.2), data=(x[:1024], y[:1024])
    ... )
    >>> model.fit(x, y, epochs=10, callbacks=[search])
    >>> search.assignment
    """

    def __init__(
        self,
        cost_target: CostTarget | Budgets,
        cost: Cost | None = None,
        *,
        data: Any = None,
        controller: str | ControllerConfig | None = None,
        activation_delay: float = 0.125,
        total_steps: int | None = None,
        seed: int | None = None,
        log_dir: str | os.PathLike | None = None,
        log_every: int = 10,
    ):
        budgets = _as_budgets(cost_target, cost)
        first = next(iter(budgets))
        super().__init__(
            first, data, activation_delay, total_steps, log_dir, log_every
        )
        self.budgets = budgets
        self._is_default = controller is None
        if controller is None:
            controller = "reinforce" if data is None else "sensitivity"
            if data is None:
                logging.warning(
                    "Searching by the paper's policy. With a few hundred "
                    "training examples, `FormatSearch(data=(x, y))`, formats "
                    "are compared directly, which finds better ones."
                )
        self.controller_config = _controller_config(controller)
        if self.controller_config.needs_data and data is None:
            raise ValueError(
                "Expected `data`, a few hundred training examples on which "
                "formats are compared. Received: data=None. Pass "
                "`data=(x[:1024], y[:1024])`, or `controller='reinforce'`"
            )
        self.seed = seed
        self.sensitivity: dict[str, dict[str, Estimate]] | None = None

    def make_controller(self, table: CostTable, total_steps: int) -> Controller:
        if all(len(d.options) < 2 for d in self._decisions):
            only = option_to_json(self._decisions[0].options[0])
            raise ValueError(
                "Expected a search space of at least two formats. Received: "
                f"{[only]}. A model in one format trains without a search"
            )
        self.sensitivity = None
        self._limits = [
            self._limit(cost, target) for cost, target in self.budgets.items()
        ]
        sizes = [
            None if d.is_about_format else d.options for d in self._decisions
        ]
        config = self.controller_config
        if self._is_default and self.data is not None and any(sizes):
            config = Supernet()
        return config.controller(
            table,
            self._limits[0].budget,
            total_steps,
            # Not the dearest: a layer may cost nothing in any format.
            widest=[widest_option(d) for d in self._decisions],
            seed=random.getrandbits(32) if self.seed is None else self.seed,
            others=self._limits[1:],
            sizes=sizes,
        )

    def on_train_end(self, logs=None):
        self.sensitivity = self._name_estimates()
        super().on_train_end(logs)
        for cost, limit in zip(self.budgets, self._limits, strict=True):
            logging.info(
                "Search ended at %.6g %s, target %.6g.",
                cost(self.model),
                cost.unit,
                limit.budget,
            )

    def _name_estimates(self) -> dict[str, dict[str, Estimate]] | None:
        estimates = self._controller.sensitivity()
        if estimates is None:
            return None
        return {
            decision.name: {
                str(option_to_json(option)): estimate
                for option, estimate in zip(decision.options, row, strict=True)
            }
            for decision, row in zip(self._decisions, estimates, strict=True)
        }

    def _limit(self, cost: Cost, target: CostTarget) -> Limit:
        table = cost_table(cost, self.model, self._decisions)
        target = resolve_target(target, table, self._decisions)
        cheapest = table.of(cheapest_choice(table))
        dearest = table.of(dearest_choice(table))
        if not dearest:
            raise ValueError(
                "Expected a `cost` of what is searched. Received: "
                f"{type(cost).__name__}, in which no option of any decision "
                f"costs anything ({cost.unit}). Embeddings, which multiply "
                "nothing, have a cost in `fliqs_keras.WeightBytes()`"
            )
        # Sums of floats in another order may differ in the last digits.
        if not cheapest * (1 - 1e-9) <= target <= dearest * (1 + 1e-9):
            raise ValueError(
                f"Expected `cost_target` to be between {cheapest:.6g}, the "
                f"cost of the cheapest assignment, and {dearest:.6g}, that of "
                f"the dearest ({cost.unit}). Received: {target:.6g}"
            )
        return Limit(table, target)


class FixedFormats(FormatTraining):
    """Trains a quantized model in given formats, as a search does.

    Plain `fit` trains a quantized model in the formats it stands on, with
    the thresholds that its first step sets. This adds what a search does for
    its formats: activations stay in float in the beginning, thresholds are
    found anew, and the batch-normalization statistics are those of the last
    steps. Use it to compare a search with other assignments.

    Args:
        assignment: A format or its name for each decision.
        activation_delay: Share of the steps before activations are
            quantized.
        total_steps: Number of training steps. Defaults to what `fit` says.
        log_dir: Folder for a log, as that of `FormatSearch`. Defaults to none.
        log_every: Number of steps from one line of the log to the next.

    Raises:
        ValueError: If a setting is wrong. Before the first step, if the
            assignment does not fit the model.

    Example:

    >>> fixed = fliqs_keras.FixedFormats({"conv": "INT4", "head": "INT8"})
    >>> model.fit(x, y, epochs=10, callbacks=[fixed])
    """

    def __init__(
        self,
        assignment: Mapping[str, str | Option],
        *,
        activation_delay: float = 0.125,
        total_steps: int | None = None,
        log_dir: str | os.PathLike | None = None,
        log_every: int = 10,
    ):
        super().__init__(
            BitOps(), None, activation_delay, total_steps, log_dir, log_every
        )
        self.given = FormatAssignment(assignment)

    def make_table(self) -> CostTable:
        try:
            return super().make_table()
        except UnknownShapeError:
            # Costs are only shown. A sequence of open length has none.
            return CostTable.from_rows(
                [np.zeros(len(d.options)) for d in self._decisions]
            )

    def make_controller(self, table, total_steps):
        self.given.apply_to(self.model)
        choice = [d.choice_in(self.given) for d in self._decisions]
        return FixedController(table, choice, total_steps)


def _as_budgets(
    cost_target: CostTarget | Budgets, cost: Cost | None
) -> Budgets:
    if not isinstance(cost_target, Mapping):
        budgets = {BitOps() if cost is None else cost: cost_target}
    elif cost is None and cost_target:
        budgets = dict(cost_target)
    else:
        raise ValueError(
            "Expected `cost_target` to be a target of `cost`, or a dictionary "
            "from at least one cost to its target, without `cost`. Received: "
            f"cost_target={cost_target!r}, cost={cost!r}"
        )
    for each, target in budgets.items():
        check_cost(each)
        check_target(target)
    return budgets


def _controller_config(
    controller: str | ControllerConfig,
) -> ControllerConfig:
    if isinstance(controller, ControllerConfig):
        return controller
    if not isinstance(controller, str) or controller not in _CONTROLLERS:
        raise ValueError(
            f"Expected `controller` to be one of {sorted(_CONTROLLERS)} or "
            "the settings of one, such as `fliqs_keras.Reinforce()`. "
            f"Received: controller={controller!r}"
        )
    return _CONTROLLERS[controller]()
